"""The MQTT uplink: each meter's last reading and the load status, retained on a broker.

It shows what is true now, so it goes by the snapshot and not by the journal: a backlog on a
retained topic would make old look fresh. Of each topic only the latest message waits, so a broker
that is slow or gone costs no memory, and after a loss the present state is published, all of it.

    dlm/<site>/status                  online | offline; the broker says offline when we are gone
    dlm/<site>/load                    the load status, when it changes and every 10 s
    dlm/<site>/meters/<id>/reading     a meter's last reading, with its quality and status
    dlm/<site>/meters/<id>/status      its status, one word
    <prefix>/device/<site>/…/config    what Home Assistant is told (see `homeassistant`)

Old never looks fresh: a reading is published anew when it turns stale; a meter's status goes out
before such a reading and after a fresh one; and `online` comes last of all after connecting, when
nothing that was retained before is left. What is retained of a meter that is not registered any
more is cleared, also when it was removed while the broker was away: it is asked for its statuses.
"""

from __future__ import annotations

import logging
import math
import random
import re
import threading
from itertools import islice

from edge.clock import Clock
from edge.drivers.mqtt.connection import (
    PROTOCOLS,
    Connection,
    Will,
    address_of,
    open_connection,
)
from edge.errors import LineError, Refused
from edge.heartbeat import Heartbeat
from edge.homeassistant import OFFLINE, ONLINE, Topics
from edge.model import Snapshot
from edge.record import SinkState
from edge.settings import BrokerConfig, MqttUplinkConfig, SiteConfig
from edge.sinks.board import Board

LOOK_S = 0.1
"""How often the snapshot is looked at: the length of a control cycle."""
CONNECT_TIMEOUT_S = 5.0
STUCK_S = 10.0
"""How long a broker may owe us a word before it is given up."""
SETTLED_S = 5.0
"""A connection that is lost within this time was none."""
FIRST_REOPEN_S, LAST_REOPEN_S = 1.0, 30.0
MOST_TOLD = 10
"""So many different errors are logged until all is well again."""
MOST_CLEARED = 500
"""So many meters that are not registered are cleared on one connection: anybody can retain some."""
RETRY_REFUSED_S = 60.0
"""How often all is published again while the broker refuses some of it."""
GOODBYE_S = 2.0
OPEN_WITHIN_S = 1200.0
"""More than an attempt takes, in either version: CONNECT_TIMEOUT_S for each address, for TLS and
for the greeting; and for the name what `edge.line.MARGIN_S` tells of."""
TURN_WITHIN_S = 60.0
"""A turn takes LOOK_S. Who is not heard of for longer than these hangs."""

_METER_ID = re.compile(r"meter_[A-Za-z0-9]{1,58}")

log = logging.getLogger("Uplink")


class MqttSink:
    """Keeps the present state of a site on a broker; see `LiveSink`."""

    def __init__(
        self,
        name: str,
        settings: MqttUplinkConfig,
        broker: BrokerConfig,
        site: SiteConfig,
        clock: Clock,
    ) -> None:
        self.state = SinkState(name)
        """The uplink as last seen; replaced by its thread, read by anyone."""
        self.heartbeat = Heartbeat(f"uplink-{name}")
        self._broker = broker
        self._client_id = _client_id(name, broker, site.id)
        self._snapshot: Snapshot | None = None
        self._clock = clock
        self._topics = Topics(site.id, settings.discovery_prefix)
        self._board = Board(self._topics, site.name, discovery=settings.discovery)
        self._protocols = PROTOCOLS
        self._waiting: dict[str, bytes] = {}
        self._unconfirmed: set[str] = set()
        self._said_online = False
        self._cleared = 0
        self._opened_mono_s = self._progress_mono_s = 0.0
        self._refused: set[str] = set()
        self._refused_mono_s = -math.inf
        self._retry_mono_s = 0.0
        self._error: str | None = None
        self._told: set[str] = set()
        self._sent = self._rejected = 0
        self._stopping = threading.Event()
        self._stop_mono_s = 0.0
        self._thread = threading.Thread(target=self._run, name=f"uplink-{name}", daemon=True)

    def start(self) -> None:
        """See `LiveSink.start`."""
        self._thread.start()

    def publish(self, snapshot: Snapshot) -> None:
        """See `LiveSink.publish`; it is looked at within a tenth of a second."""
        self._snapshot = snapshot

    def begin_stop(self, timeout_s: float) -> None:
        """See `LiveSink.begin_stop`."""
        self._stop_mono_s = self._clock.mono_s() + timeout_s
        self._stopping.set()

    def stop(self, timeout_s: float) -> None:
        """See `LiveSink.stop`. A broker that does not listen says `offline` itself, later."""
        if not self._stopping.is_set():
            self.begin_stop(timeout_s)
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    # --- The uplink's own thread ---

    def _run(self) -> None:
        wait_s = FIRST_REOPEN_S
        while not self._stopping.is_set():
            opened_mono_s = self._clock.mono_s()
            try:
                self.heartbeat.due_within(OPEN_WITHIN_S)
                self._serve(self._open())
            except LineError as exc:
                self._say(str(exc))
                self._tell(connected=False)
            if self._clock.mono_s() - opened_mono_s > LAST_REOPEN_S:
                wait_s = FIRST_REOPEN_S
            self.heartbeat.rest()
            # By chance, so that the controllers of many sites do not all come at once.
            self._stopping.wait(wait_s * random.uniform(0.5, 1.0))
            wait_s = min(2 * wait_s, LAST_REOPEN_S)

    def _open(self) -> Connection:
        connection = open_connection(
            self._broker,
            self._clock,
            self._heard,
            CONNECT_TIMEOUT_S,
            client_id=self._client_id,
            protocols=self._protocols,
            will=Will(self._topics.status, OFFLINE),
        )
        self._protocols = tuple(sorted(PROTOCOLS, key=lambda each: each != connection.protocol))
        return connection

    def _serve(self, connection: Connection) -> None:
        """Publish until the stop, or raise LineError; the connection is ended in any case."""
        # What should have been cleared is found by its status.
        self._waiting, self._unconfirmed = {}, set()
        self._board.start_anew()
        self._opened_mono_s = self._progress_mono_s = self._clock.mono_s()
        self._said_online = False
        self._cleared = 0
        try:
            while not self._stopping.is_set():
                self.heartbeat.due_within(TURN_WITHIN_S)
                self._look(connection)
                self._send(connection)
                connection.receive(LOOK_S)
                self._take_confirmed(connection)
                self._judge()
                self._tell(connected=True)
            self._say_goodbye(connection)
        finally:
            connection.drop()
            self._tell(connected=False)

    def _look(self, connection: Connection) -> None:
        snapshot = self._snapshot
        if snapshot is None:
            return
        self._waiting.update(self._board.look(snapshot))
        if not self._said_online:
            self._said_online = True
            self._waiting[self._topics.status] = ONLINE
            connection.subscribe({self._topics.meter_status("+"): 1})

    def _send(self, connection: Connection) -> None:
        """Publish what waits, as far as the broker keeps up.

        Of each topic one message at a time: who is slow is told the latest, not all before it.
        """
        room = connection.most_unconfirmed - len(self._unconfirmed)
        ready = (topic for topic in self._waiting if topic not in self._unconfirmed)
        for topic in list(islice(ready, max(0, room))):
            self._unconfirmed.add(topic)
            connection.publish(topic, self._waiting.pop(topic))

    def _take_confirmed(self, connection: Connection) -> None:
        now_mono_s = self._clock.mono_s()
        confirmed = connection.take_confirmed()
        for topic, refusal in confirmed:
            self._unconfirmed.discard(topic)
            if refusal is None:
                self._sent += 1
            else:
                self._rejected += 1
                self._refuse(topic, refusal)
        if confirmed or not self._unconfirmed:
            self._progress_mono_s = now_mono_s
        elif now_mono_s - self._progress_mono_s > STUCK_S:
            raise LineError(
                f"The broker {address_of(self._broker)} confirms nothing that is published for "
                f"{STUCK_S:g} s; check whether it hangs, and the network between."
            )

    def _heard(self, topic: str, payload: bytes, retained: bool) -> None:
        """Clear what the broker retained of a meter that is not registered any more.

        Only what can be one of ours, and not without end: any client of the broker can retain it.
        """
        prefix, suffix = self._topics.meter_status("+").split("+")
        meter_id = topic[len(prefix) : -len(suffix)]
        snapshot = self._snapshot
        known = snapshot is None or meter_id in snapshot.meters
        ours = topic == self._topics.meter_status(meter_id) and _METER_ID.fullmatch(meter_id)
        if retained and payload and ours and not known and self._cleared < MOST_CLEARED:
            self._cleared += 1
            self._waiting.update(self._board.cleared(meter_id))

    def _say_goodbye(self, connection: Connection) -> None:
        """Say `offline` ourselves, as the will is for those who leave without a word."""
        self._waiting = {}
        connection.publish(self._topics.status, OFFLINE)
        stop_mono_s = min(self._stop_mono_s, self._clock.mono_s() + GOODBYE_S)
        said = (self._topics.status, None)
        while self._clock.mono_s() < stop_mono_s:
            connection.receive(LOOK_S)
            if said in connection.take_confirmed():
                connection.close()
                return

    # --- What is said of it ---

    def _judge(self) -> None:
        """Say once that all is well again, and until then try again what was refused."""
        now_mono_s = self._clock.mono_s()
        if self._refused and now_mono_s > self._retry_mono_s:
            self._retry_mono_s = now_mono_s + RETRY_REFUSED_S
            self._board.start_anew()
        calm_mono_s = max(self._opened_mono_s, self._refused_mono_s + RETRY_REFUSED_S) + SETTLED_S
        if self._error is not None and now_mono_s > calm_mono_s:
            log.info("Uplink %s: the broker takes everything again.", self.state.name)
            self._error = None
            self._told.clear()
            self._refused.clear()

    def _refuse(self, topic: str, refusal: Refused) -> None:
        """Take in a refusal; said once for the site's topics and once for Home Assistant's."""
        self._refused_mono_s = self._clock.mono_s()
        tree = topic.partition("/")[0]
        if tree not in self._refused:
            self._refused.add(tree)
            self._retry_mono_s = self._refused_mono_s + RETRY_REFUSED_S
            self._say(str(refusal))

    def _say(self, error: str) -> None:
        if error not in self._told and len(self._told) < MOST_TOLD:
            self._told.add(error)
            log.warning("Uplink %s: %s", self.state.name, error)
        self._error = error

    def _tell(self, *, connected: bool) -> None:
        backlog = len(self._waiting) + len(self._unconfirmed)
        state = SinkState(
            self.state.name, connected, self._error, self._sent, self._rejected, backlog=backlog
        )
        if state != self.state:
            self.state = state


def _client_id(name: str, broker: BrokerConfig, site_id: str) -> str:
    """Give an id that is always the same, and not that of our listener on this broker.

    A broker ends the connection that has the same id, will included, before it greets the next: so
    the will of one that died in silence can never come after our `online`.
    """
    return f"{broker.client_id or f'dlm/{site_id}'}/{name}"
