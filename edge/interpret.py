"""Say how a value that cannot be true might be read instead, judged by physics.

A probe reads the registers of a meter with some neighbours, twice. Where a value is impossible,
missing, or at odds with the others, every other reading of the words about it is tried: each type,
both word orders, one address lower and higher (manuals that count from 1; a register that is half
of a number), and the scales that makers use. What physics forbids is dropped. The rest is ranked by

    fit         how usual the value is: mains voltage is 120, 230 or 400 V ± 10 %, the frequency
                50 or 60 Hz within 0.6 Hz; any int can be scaled to some power, few words are one
                as a float;
    agreement   with what the meter gives besides: P ≈ ΣU·I·cos φ, where |cos φ| is from 0.3 to 1
                rather than less; counters that rise by P·t;
    habit       the type, word order and slip of address that explain its other quantities;
    simplicity  fewer and more usual changes to what is registered.

The points for these are set by hand, so that the known mistakes at real meters come first. What
does not reach `_WORTH_SAYING` is not told: a wrong suggestion is worse than none, and words out of
the middle of a counter bring nothing. A value that is possible is only doubted for a reading that
is clearly better, and one scaled by a register of the device's own, as in SunSpec, not at all.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from edge.communication import Register
from edge.decode import decode_register
from edge.physics import PHASE_SUFFIXES, Site, active_kw, agrees, apparent_kva, family, is_likely

_TINIEST = 1e-6
"""No meter resolves a milliwatt, a microampere or a microvolt: a float below is no measurement."""
_WRAPPED_WORD = 0xF000
"""From here on the highest word of a power is rather that of a small negative number."""

_SCALES = {
    "voltage": (0, -1, -2, -3),
    "current": (0, -1, -2, -3, -4),
    "frequency": (0, -1, -2, -3),
    "powerFactor": (0, -2, -3, -4),
    "power": (0, -1, -2, -3, -4, -5, -6),
    "energy": (1, 0, -1, -2, -3, -4, -5, -6),
}
"""Powers of ten by which makers scale integers to V, A, Hz, kW and kWh."""
_FLOAT_SCALES = {"power": (0, -3), "energy": (0, -3), "powerFactor": (0, -2)}
"""Floats come in the plain or in the kilo unit, and power factors in percent."""
_KILO = {"power": "W, not kW", "energy": "Wh, not kWh"}

_MOST = 5
_WORTH_SAYING = -2.5
_CLEARLY = 1.25
"""By so much another reading must be better than one that is possible."""
_UNUSUAL = -3.0
"""Points of what is registered, where it is possible but neither usual nor in agreement."""
_RATHER = 0.4
"""By so much one of two explanations must be better for the other one not to be told."""
_NEARLY = 0.75
"""Another explanation that is worse by less than this may as well be the truth."""
_MOST_ROUNDS = 6


@dataclass(frozen=True)
class Interpretation:
    """Another reading of a quantity's words.

    address: the lowest. type: `uint16` … `float64`. word_order: `big` or `little`. scale: factor to
    the quantity's unit. value: in that unit, before `invert`. why: what differs from what is
    registered, in a few words. score: higher is likelier, among the readings of one quantity only.
    """

    quantity: str
    address: int
    type: str
    word_order: str
    scale: Fraction
    value: float
    why: str
    score: float

    def advice(self) -> str:
        """Say what differs and what comes of it: `it is signed; read as int16 at …`."""
        return f"{self.why}; {self.reading()}"

    def reading(self) -> str:
        """Say how it is read: `read as int16 at 10 with scale 0.001 it is -0.236`."""
        order = "" if self.type.endswith("16") else f", {self.word_order} word order"
        return (
            f"read as {self.type} at {self.address}{order} with scale {_decimal(self.scale)} "
            f"it is {self.value:.7g}"
        )


def interpretations(
    registers: Sequence[Register],
    words: Mapping[tuple[int, int], int],
    later_words: Mapping[tuple[int, int], int],
    later_s: float,
    values: Mapping[str, float],
    meter_type: str,
    grid_capacity_kw: float,
) -> Mapping[str, tuple[Interpretation, ...]]:
    """Give other readings for each quantity that cannot be right, at most 5, best first.

    words, later_words: (function, address) → word, 0..65535, of the registers and neighbours, read
    twice, later_s apart. values: quantity → value as registered, in its unit.
    An empty tuple: the value is impossible or missing, and nothing explains it.
    """
    probe = _Probe(words, later_words, later_s, Site(meter_type, grid_capacity_kw))
    doubtable = [r for r in registers if r.exponent is None and r.scale]
    impossible = {r.quantity for r in doubtable if probe.is_impossible(r, values)}
    sure = {
        (register.function, address)
        for register in doubtable
        if register.quantity not in impossible
        for address in register.words
    }
    found: dict[str, tuple[Interpretation, ...]] = {}
    replaced = impossible
    facts: dict[str, float] = {}
    for _ in range(_MOST_ROUNDS):  # what is found first helps to judge the others
        odd = _unlike_the_others(doubtable, found)
        # What has just turned odd is no fact; once judged, what was not explained is one again.
        unsure = impossible | (odd - replaced)
        facts = {name: value for name, value in values.items() if name not in unsure}
        facts.update({name: found[name][0].value for name in replaced if found.get(name)})
        replaced = impossible | odd
        doubted = replaced | probe.at_odds(doubtable, facts)
        before, found = found, {}
        for register in (r for r in doubtable if r.quantity in doubted):
            is_impossible = register.quantity in impossible
            habits = _habits(doubtable, before, register)
            best = probe.rank(register, facts, sure, habits, is_impossible)
            if best or is_impossible:
                found[register.quantity] = best
        if found == before:
            break
    either = [r for r in doubtable if found.get(r.quantity) and r.quantity not in replaced]
    worse = probe.worse_explained(either, found, facts)
    return {name: readings for name, readings in found.items() if name not in worse}


def contradictions(
    values: Mapping[str, float], others: Mapping[str, Sequence[Interpretation]]
) -> dict[str, str]:
    """Say where power and U·I cannot both be true: the power → a sentence with the likely mistake.

    values: quantity → value, in kW, V, A. A voltage may be between lines or to neutral, a current
    that of one phase or the sum, so only what no such case explains is told.
    others: the `interpretations` of these values; empty where there are no registers.
    """
    found = {}
    for phase in ("", *PHASE_SUFFIXES):
        apparent, active = apparent_kva(values, phase), active_kw(values, phase)
        if apparent is None or active is None or agrees(values, phase) is not False:
            continue
        remedy = (
            _better_reading(values, phase, others)
            or _better_scale(values[f"power{phase}"], phase, apparent, active)
            or "check the addresses, types and scales of the three"
        )
        found[f"power{phase}"] = (
            f"power{phase} reads {values[f'power{phase}']:.7g} kW, but voltage and current make "
            f"{apparent[0]:.4g} to {apparent[1]:.4g} kVA: {remedy}."
        )
    return found


def _better_reading(
    values: Mapping[str, float], phase: str, others: Mapping[str, Sequence[Interpretation]]
) -> str:
    """Say how power or current is to be read for them to agree; empty where nothing helps."""
    advice = []
    for name, opening in ((f"power{phase}", ""), (f"current{phase}", f"current{phase} is wrong: ")):
        best = others[name][0] if others.get(name) else None
        if best and agrees({**values, name: best.value}, phase) is not False:
            advice.append(f"{opening}{best.advice()}")
    return f"likely {', or '.join(advice)}" if advice else ""


def _better_scale(
    power_kw: float, phase: str, apparent: tuple[float, float], active: tuple[float, float]
) -> str:
    """Say which power of ten makes them agree; empty where none does."""
    for exponent in (-3, 3, -1, 1, -2, 2, -4, -5, -6):
        likely_kw = abs(power_kw) * 10.0**exponent
        if max(0.8 * active[0], 0.1 * apparent[0]) <= likely_kw <= 1.1 * active[1]:
            cause = "power is in W" if exponent == -3 else "a scale is wrong"
            return (
                f"likely {cause}, so multiply power{phase}Scale by "
                f"{_decimal(Fraction(10) ** exponent)} or current{phase}Scale by "
                f"{_decimal(Fraction(10) ** -exponent)}"
            )
    return ""


# --- Candidates ----------------------------------------------------------------------------------


def _candidates(register: Register) -> Iterator[Register]:
    """All other readings of a register, those included that nobody would think of."""
    signed = -1 if register.scale < 0 else 1
    measured = family(register.quantity)
    for addresses in _windows(register):
        for kind in ("uint", "int", "float"):
            if kind == "float" and len(addresses) == 1:
                continue
            exponents = _FLOAT_SCALES.get(measured, (0,)) if kind == "float" else _SCALES[measured]
            scales = {signed * Fraction(10) ** exponent for exponent in exponents}
            if kind == register.kind:
                scales.add(register.scale)
            for scale in scales:
                after = Register(register.quantity, register.function, addresses, kind, scale)
                if (addresses, kind, scale) != (register.words, register.kind, register.scale):
                    yield after


def _windows(register: Register) -> Iterator[tuple[int, ...]]:
    """Addresses to read a number from, most significant first."""
    windows: dict[tuple[int, ...], None] = {register.words: None, register.words[::-1]: None}
    for count in (1, 2, 4):
        # Any word of a 64-bit counter may have been taken for the counter.
        back = 3 if count == 4 and family(register.quantity) == "energy" else 1
        for start in range(register.start - back, register.start + 2):
            addresses = tuple(range(start, start + count))
            windows.update({addresses: None, addresses[::-1]: None})
    return iter(windows)


def _changes(before: Register, after: Register) -> Iterator[tuple[float, str]]:
    """Say what differs, each with the points that it costs."""
    size = len(after.words) - len(before.words)
    if after.kind != before.kind or size:
        if not size and "float" not in (before.kind, after.kind):
            forgotten = after.kind == "int" and family(after.quantity) == "power"
            cost = 0.7 if forgotten else 1.0  # what else is there that can flow back
            yield cost, "it is signed" if after.kind == "int" else "it is unsigned"
        else:
            cost = 1.0 if after.kind == before.kind else 1.3
            if len(after.words) == 4 and family(after.quantity) != "energy":
                cost += 1.5  # makers keep 64 bits for counters
            yield cost, f"it is {_type(after)}"
    if len(after.words) > 1 and _order(after) != _order(before):
        yield 1.0, "its words are swapped" if len(before.words) > 1 else "low word first"
    if after.start != before.start:
        covers = set(before.words) <= set(after.words)
        yield 0.5 if covers else 1.5, f"it starts at {after.start}"
    if after.scale != before.scale:
        yield from _scale_change(before, after)


def _scale_change(before: Register, after: Register) -> Iterator[tuple[float, str]]:
    size, change = (
        abs(math.log10(abs(scale))) for scale in (after.scale, after.scale / before.scale)
    )
    rare = 1.0 if size > 5 or not _is_whole(size) else 0.0
    phrase = f"the scale is {_decimal(after.scale)}"
    if after.kind == "float" and before.kind != "float":
        yield 0.2 if size == 0 else 0.5, phrase  # the scale was meant for an integer
    elif family(after.quantity) in _KILO and size == change == 3:
        yield 0.8, f"it counts in {_KILO[family(after.quantity)]}"
    else:
        yield 1.0 + 0.2 * change + rare, phrase


# --- Judging -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Probe:
    """What was read, and where."""

    words: Mapping[tuple[int, int], int]
    later_words: Mapping[tuple[int, int], int]
    later_s: float
    site: Site

    def is_impossible(self, register: Register, values: Mapping[str, float]) -> bool:
        """Whether a value as registered is missing, or nothing that a meter there can measure."""
        name, value = register.quantity, values.get(register.quantity)
        read = _words_at(register, self.words)
        if value is None:
            return read is None or not says_nothing(register, read)
        if _is_wrapped(register, read) and not agrees(values, name.removeprefix("power")):
            return True
        return (
            not self.site.is_possible(name, values)
            or (register.kind == "float" and 0.0 < abs(value) < _TINIEST)
            or not self._can_rise_so(register, value)
        )

    def at_odds(self, registers: Sequence[Register], facts: Mapping[str, float]) -> set[str]:
        """Name the quantities of which one must be wrong: P against U·I, and against counters."""
        names: set[str] = set()
        for phase in ("", *PHASE_SUFFIXES):
            if agrees(facts, phase) is False:
                names |= {f"power{phase}", f"current{phase}"}
        for register in registers:
            if register.quantity in facts and self._rise_agrees(register, facts) is False:
                names |= {"power", register.quantity}
        return names

    def rank(
        self,
        register: Register,
        facts: Mapping[str, float],
        sure: Collection[tuple[int, int]],
        habits: _Habits,
        is_impossible: bool,
    ) -> tuple[Interpretation, ...]:
        """Give the readings worth saying, best first, each value once.

        facts: the quantities as far as they are believed. sure: addresses of possible values, which
        nothing else is moved to. is_impossible: if not, a reading must be better than the one
        registered.
        """
        least = _WORTH_SAYING
        registered = self._judge(register, register, facts, habits)
        if registered and not is_impossible:
            least = max(least, registered.score + _CLEARLY)
        best: dict[float, Interpretation] = {}
        for after in _candidates(register):
            moved = not set(after.words) & set(register.words)
            if moved and any((after.function, address) in sure for address in after.words):
                continue
            reading = self._judge(register, after, facts, habits)
            if reading is None or reading.score < least or reading is registered:
                continue
            key = float(f"{reading.value:.7g}")
            if key not in best or reading.score > best[key].score:
                best[key] = reading
        return tuple(sorted(best.values(), key=lambda reading: -reading.score)[:_MOST])

    def worse_explained(
        self,
        registers: Sequence[Register],
        found: Mapping[str, tuple[Interpretation, ...]],
        facts: Mapping[str, float],
    ) -> set[str]:
        """Name of each power and its current the one that is the less likely mistake.

        registers: of the quantities that are only doubted since they do not fit together.
        """
        gains = {}
        for register in registers:
            as_it_is = self._judge(register, register, facts, _Habits((), ()))
            best = found[register.quantity][0]
            gains[register.quantity] = best.score - (as_it_is.score if as_it_is else _UNUSUAL)
        pairs = ((f"power{phase}", f"current{phase}") for phase in ("", *PHASE_SUFFIXES))
        return {
            name
            for pair in pairs
            for name, other in (pair, pair[::-1])
            if {name, other} <= gains.keys() and gains[other] - gains[name] > _RATHER
        }

    def _judge(
        self,
        before: Register,
        after: Register,
        facts: Mapping[str, float],
        habits: _Habits,
    ) -> Interpretation | None:
        """Weigh a reading; None for one that physics or the device itself forbids."""
        read = _words_at(after, self.words)
        if read is None or not any(read) or says_nothing(after, read):
            return None
        value = decode_register(after, read, {})
        style, shift = _style_of(after), after.start - before.start
        is_familiar = style in habits.styles or style == _style_of(before)
        if value is None or (fit := self._fit(after, read, value, is_familiar)) is None:
            return None
        changes = list(_changes(before, after))
        score = fit + self._agreement(after, {**facts, after.quantity: value})
        score += (style in habits.styles) + (shift in habits.shifts)
        score -= math.fsum(cost for cost, _ in changes)
        return Interpretation(
            after.quantity,
            after.start,
            _type(after),
            _order(after),
            after.scale,
            value,
            ", ".join(phrase for _, phrase in changes),
            score,
        )

    def _fit(
        self, register: Register, read: tuple[int, ...], value: float, is_familiar: bool
    ) -> float | None:
        """Give points for how well a value fits there; None for one not to be suggested.

        is_familiar: the device is known to use this type and word order.
        """
        usual = self.site.usualness(register.quantity, value)
        if usual is None or not self._can_rise_so(register, value):
            return None
        # Few bit patterns are a float of everyday size; an empty low half may be another number.
        rare = 0.0 if register.kind != "float" else 2.5 if is_familiar or any(read[1:]) else 1.5
        return usual + rare - (1.5 if _is_wrapped(register, read) else 0.0)

    def _agreement(self, register: Register, facts: Mapping[str, float]) -> float:
        """Weigh a reading, already among the facts, against the other quantities."""
        if family(register.quantity) == "energy":
            return {True: 2.5, None: 0.0, False: -2.0}[self._rise_agrees(register, facts)]
        return math.fsum(_agreement_of_phase(facts, phase) for phase in ("", *PHASE_SUFFIXES))

    def _can_rise_so(self, register: Register, value: float) -> bool:
        """Whether a counter never falls, counts in its lowest word, and no faster than the grid."""
        rise_kwh = self._rise_kwh(register)
        if not rise_kwh:
            return True
        before, after = (_words_at(register, words) for words in (self.words, self.later_words))
        if before and after and len(before) > 1 and before[-1] == after[-1]:
            return register.kind == "float"
        most_kwh = self.site.most_kw * self.later_s / 3600
        return 0.0 <= rise_kwh <= most_kwh + 2 * _resolution(register, value)

    def _rise_kwh(self, register: Register) -> float | None:
        """Give by how much a counter rose between the two reads; None if it was not read twice."""
        before, after = (_words_at(register, words) for words in (self.words, self.later_words))
        if family(register.quantity) != "energy" or before is None or after is None:
            return None
        was, is_now = decode_register(register, before, {}), decode_register(register, after, {})
        return None if was is None or is_now is None else is_now - was

    def _rise_agrees(self, register: Register, facts: Mapping[str, float]) -> bool | None:
        """Whether a counter rises as the power says; None where that cannot be told."""
        power_kw = facts.get("power")
        rise_kwh = self._rise_kwh(register)
        # A counter that stands still proves nothing: some are brought up to date once a minute.
        if not power_kw or not rise_kwh:
            return None
        flow_kw = -power_kw if register.quantity == "energyExport" else power_kw
        expected_kwh = max(flow_kw, 0.0) * self.later_s / 3600
        step_kwh = _resolution(register, facts[register.quantity])
        if max(expected_kwh, rise_kwh) < 5 * step_kwh:
            return None
        return abs(rise_kwh - expected_kwh) <= step_kwh + 0.3 * expected_kwh


# --- The other quantities ------------------------------------------------------------------------


def _style(reading: Interpretation) -> tuple[str, str]:
    return reading.type.removeprefix("u"), reading.word_order


@dataclass(frozen=True)
class _Habits:
    """What explains other quantities of the meter: types with word orders, and slips of address.

    As which kind of integer does not count: a meter has signed ones beside unsigned ones.
    """

    styles: Collection[tuple[str, str]]
    shifts: Collection[int]


def _habits(
    registers: Sequence[Register],
    found: Mapping[str, tuple[Interpretation, ...]],
    besides: Register,
) -> _Habits:
    """Tell what differs from what is registered in the best readings of the others."""
    styles, shifts = set(), set()
    for register in registers:
        readings = found.get(register.quantity, ())
        if register.quantity != besides.quantity and _is_clear(readings):
            styles |= {_style(readings[0])} - {_style_of(register)}
            shifts |= {readings[0].address - register.start} - {0}
    return _Habits(styles, shifts)


def _is_clear(readings: Sequence[Interpretation]) -> bool:
    """Whether no other type, word order or address explains a quantity nearly as well."""
    return bool(readings) and all(
        (_style(each), each.address) == (_style(readings[0]), readings[0].address)
        for each in readings
        if each.score > readings[0].score - _NEARLY
    )


def _agreement_of_phase(facts: Mapping[str, float], phase: str) -> float:
    """Give points for how well P and U·I go together."""
    if is_likely(facts, phase):
        return 1.5
    return {True: -0.5, None: 0.0, False: -2.0}[agrees(facts, phase)]


def _unlike_the_others(
    registers: Sequence[Register], found: Mapping[str, tuple[Interpretation, ...]]
) -> set[str]:
    """Name what is read as integer where two others turned out to be floats: few makers mix."""
    floats = sum(bool(best) and best[0].type.startswith("float") for best in found.values())
    return {r.quantity for r in registers if r.kind != "float" and floats >= 2}


# --- Words ---------------------------------------------------------------------------------------


def _words_at(register: Register, words: Mapping[tuple[int, int], int]) -> tuple[int, ...] | None:
    try:
        return tuple(words[register.function, address] for address in register.words)
    except KeyError:
        return None


def says_nothing(register: Register, read: tuple[int, ...]) -> bool:
    """Whether a device says "no value": its own number, or one that is common for that."""
    number = int.from_bytes(b"".join(word.to_bytes(2, "big") for word in read), "big")
    rest = set(read[1:])
    return (
        number == register.not_available
        or (read[0] == 0x8000 and rest <= {0})
        or (read[0] in (0x7FC0, 0xFFC0) and rest == {0})
        or (read[0] in (0xFFFF, 0x7FFF) and rest <= {0xFFFF})
    )


def _is_wrapped(register: Register, read: tuple[int, ...] | None) -> bool:
    """Whether an unsigned power is rather a small negative one."""
    is_power = family(register.quantity) == "power" and register.kind == "uint"
    return is_power and read is not None and read[0] >= _WRAPPED_WORD


def _resolution(register: Register, value: float) -> float:
    """The least step of a counter, in its unit: one count, or the last bit of a float."""
    if register.kind != "float":
        return abs(float(register.scale))
    return abs(value) * 2.0 ** (-23 if len(register.words) == 2 else -52)


def _style_of(register: Register) -> tuple[str, str]:
    return _type(register).removeprefix("u"), _order(register)


def _type(register: Register) -> str:
    return f"{register.kind}{16 * len(register.words)}"


def _order(register: Register) -> str:
    return "little" if register.words[0] > register.words[-1] else "big"


def _is_whole(number: float) -> bool:
    return abs(number - round(number)) < 1e-9


def _decimal(number: Fraction) -> str:
    """Write a scale as people do, without exponent: 0.001."""
    return format(Decimal(f"{float(number):.9g}"), "f")
