"""Alerts over time: since when each one holds, and those that ended.

An alert begins with the tick in which something turns wrong and ends with the one in which it is
right again; where that hangs on how large a power or a counter is, within a second. One that is
back within a minute is the same one again, so a meter that comes and goes fills no list.

Times are told by today's clock: when it is set, those that were stamped before move with it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace

from edge.alerts import SEVERITIES, Alert, AlertRules, Condition, current, undecided
from edge.model import MeterState, Snapshot
from edge.record import Keeping
from edge.times import DAY_MS

MOST_ENDED = 200
KEPT_MS = DAY_MS
"""How long those that ended are known, and how many at most."""
SAME_AGAIN_MS = 60_000
EARLIER_S = 60
"""How far back counters are compared."""

_STEP_MS = 1000
"""A clock that moves by more was set."""

_Key = tuple[str, str]
"""Kind and subject."""


class AlertLog:
    """All alerts. `update` is for the cycle's thread, everything else for any.

    keeping: how journal and sinks are; asked for once a second.
    """

    def __init__(self, rules: AlertRules, keeping: Callable[[], Keeping]) -> None:
        self.rules = rules
        """Replaced when the settings change."""
        self.known: tuple[Alert, ...] = ()
        """Those that hold, the most urgent and newest first; then those that ended, the last first.
        An alert, and all of them, are the same object for as long as nothing changes."""
        self._ask_keeping = keeping
        self._keeping = Keeping()
        self._kept: deque[Keeping] = deque(maxlen=EARLIER_S + 1)
        self._due_mono_s = float("-inf")
        self._seen: Snapshot | None = None
        self._active: dict[_Key, Alert] = {}
        self._ended: deque[tuple[_Key, Alert]] = deque(maxlen=MOST_ENDED)
        self._offset_ms: float | None = None
        self._number = 0

    @property
    def current(self) -> tuple[Alert, ...]:
        """Those that hold now."""
        return tuple(alert for alert in self.known if alert.until_ms is None)

    def update(self, snapshot: Snapshot) -> None:
        """Take a new snapshot: looks at it once a second, and when more than values changed.

        Never blocks.
        """
        before, self._seen = self._seen, snapshot
        is_due = snapshot.mono_s >= self._due_mono_s
        if not is_due and before is not None and _differ_in_values_only(before, snapshot):
            return
        if is_due:
            self._due_mono_s = snapshot.mono_s + 1.0
            self._keeping = self._ask_keeping()
            self._kept.append(self._keeping)
        moved = self._follow_clock(snapshot)
        changed = self._compare(snapshot)
        forgot = self._forget(snapshot.unix_ms)
        if moved or changed or forgot:
            self._publish()

    def _compare(self, snapshot: Snapshot) -> bool:
        """Begin, change and end alerts; tells whether there was any to do."""
        rules = self.rules
        conditions = {
            (found.kind, found.subject): found
            for found in current(snapshot, self._keeping, self._kept[0], rules)
        }
        over = self._active.keys() - conditions.keys()
        if over:
            unknown = undecided(snapshot, rules)
            over = {key for key in over if key[0] not in unknown}
        for key in over:
            self._ended.appendleft((key, replace(self._active.pop(key), until_ms=snapshot.unix_ms)))
        changed = bool(over)
        for key, condition in conditions.items():
            before = self._active.get(key) or self._ended_lately(key, snapshot.unix_ms)
            alert = self._alert(condition, before, snapshot.unix_ms)
            if alert != self._active.get(key):
                self._active[key] = alert
                changed = True
        return changed

    def _alert(self, condition: Condition, before: Alert | None, now_ms: int) -> Alert:
        if before is None:
            self._number += 1
        return Alert(
            id=f"alert_{now_ms:x}_{self._number}" if before is None else before.id,
            kind=condition.kind,
            severity=condition.severity,
            message=condition.message,
            meter_id=condition.meter_id,
            meter_name=condition.meter_name,
            since_ms=now_ms if before is None else before.since_ms,
        )

    def _ended_lately(self, key: _Key, now_ms: int) -> Alert | None:
        """Take back the alert of this kind and subject that ended within the last minute."""
        for entry in self._ended:
            until_ms = entry[1].until_ms
            if until_ms is None or now_ms - until_ms > SAME_AGAIN_MS:
                return None
            if entry[0] == key:
                self._ended.remove(entry)
                return entry[1]
        return None

    def _forget(self, now_ms: int) -> bool:
        before = len(self._ended)
        while self._ended and now_ms - (self._ended[-1][1].until_ms or 0) > KEPT_MS:
            self._ended.pop()
        return len(self._ended) < before

    def _follow_clock(self, snapshot: Snapshot) -> bool:
        """Move all times with a clock that was set; tells whether it was."""
        offset_ms = snapshot.unix_ms - snapshot.mono_s * 1000
        by_ms = 0 if self._offset_ms is None else round(offset_ms - self._offset_ms)
        if self._offset_ms is None or abs(by_ms) > _STEP_MS:
            self._offset_ms = offset_ms
        if abs(by_ms) <= _STEP_MS:
            return False
        self._active = {key: _moved(alert, by_ms) for key, alert in self._active.items()}
        ended = [(key, _moved(alert, by_ms)) for key, alert in self._ended]
        self._ended = deque(ended, maxlen=MOST_ENDED)
        return bool(self._active or ended)

    def _publish(self) -> None:
        active = sorted(
            self._active.values(),
            key=lambda alert: (SEVERITIES.index(alert.severity), -alert.since_ms),
        )
        self.known = (*active, *(alert for _, alert in self._ended))


def _differ_in_values_only(before: Snapshot, now: Snapshot) -> bool:
    """Tell whether nothing began or ended between two snapshots but what a power exceeds."""
    if now.load.quality is not before.load.quality:
        return False
    if now.meters is before.meters:
        return True
    pairs = ((state, before.meters.get(id_)) for id_, state in now.meters.items())
    return len(now.meters) == len(before.meters) and all(
        state is old or (old is not None and _word(state) == _word(old)) for state, old in pairs
    )


def _word(state: MeterState) -> tuple[object, ...]:
    """What a meter's alerts are made of."""
    hints = state.reading.hints if state.reading is not None else ()
    return state.meter, state.status, state.last_error, hints


def _moved(alert: Alert, by_ms: int) -> Alert:
    until_ms = None if alert.until_ms is None else alert.until_ms + by_ms
    return replace(alert, since_ms=alert.since_ms + by_ms, until_ms=until_ms)
