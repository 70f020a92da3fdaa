"""Has everything go wrong that was planned, and notes when it did.

One thread conducts: what begins or ends at the same time does so one after another. A fault stands
in its window, from before it began until after it ended; what its end leaves to be done by the
service itself is the judge's matter.
"""

from __future__ import annotations

import heapq
import itertools
import json
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

from tests.brokers import Mosquitto
from tests.influx import Influxd
from tools.bench.process import BenchError
from tools.soak.abuse import Abuse
from tools.soak.devices import Device
from tools.soak.plan import Event
from tools.soak.records import Window
from tools.soak.service import Service
from tools.soak.site import Site
from tools.soak.world import World

_FORWARD_S, _BACK_S = 95.0, -37.0
_SLOW_SYNC_S, _STUCK_SYNC_S = 0.7, 12.0
"""Of a card that is busy, and of one that cleans up."""

Act = Callable[[], object]


class Surroundings(NamedTuple):
    """All that takes part."""

    devices: Sequence[Device]
    service: Service
    site: Site
    broker: Mosquitto
    influx: Influxd
    world: World


class Conductor:
    """Registers the devices, then performs events. One thread.

    meters: id → device's number, also of meters that were removed. windows: what happened so far.
    """

    def __init__(self, around: Surroundings) -> None:
        self.meters: dict[str, int] = {}
        self.windows: list[Window] = []
        self._around = around
        self._of_device: dict[int, str] = {}
        self._generation = itertools.count(2)
        self._open: dict[Event, tuple[float, frozenset[int]]] = {}
        self._abuse = ExitStack()
        self._acts = self._make_acts()

    def _make_acts(self) -> dict[str, tuple[Act, Act, frozenset[int]]]:
        """Give by kind what begins it, what ends it, and which devices' readings it may cost.

        What the end of a process costs follows from its life.
        """
        _, service, _, broker, influx, world = around = self._around
        every = frozenset(device.number for device in around.devices)
        spoken = frozenset(each.number for each in around.devices if not each.polled)
        nobody = frozenset[int]()
        right, fast = partial(world.set_clock, 0.0), partial(world.slow_disk, 0.0)
        return {
            "kill": (service.kill, service.start, nobody),
            "restart": (service.stop, service.start, nobody),
            "first-boot": (self._boot_in_1970, right, nobody),
            "suspend": (service.freeze, service.thaw, every),
            "reload": (service.reload, _nothing, nobody),
            "churn": (self._register_anew, _nothing, frozenset({self._churned})),
            "abuse": (self._besiege, self._abuse.close, nobody),
            "clock-forward": (partial(world.set_clock, _FORWARD_S), right, nobody),
            "clock-back": (partial(world.set_clock, _BACK_S), right, nobody),
            "slow-disk": (partial(world.slow_disk, _SLOW_SYNC_S), fast, nobody),
            "stuck-disk": (partial(world.slow_disk, _STUCK_SYNC_S), fast, nobody),
            "uplink-down": (influx.stop, influx.start, nobody),
            "uplink-killed": (influx.kill, influx.start, nobody),
            "uplink-frozen": (influx.freeze, influx.thaw, nobody),
            "broker-restart": (broker.stop, broker.start, spoken),
            "broker-frozen": (broker.freeze, broker.thaw, spoken),
            "site-frozen": (around.site.freeze, around.site.thaw, every),
        }

    def register(self) -> None:
        """Register all devices. Raises BenchError when one is refused."""
        for device in self._around.devices:
            self._register(device, device.name)

    def perform(self, plan: Iterable[Event], begun_mono_s: float) -> None:
        """Have the events happen in time; returns when the last one has ended."""
        order = itertools.count()
        due = [(event.at_s, next(order), event, False) for event in plan]
        heapq.heapify(due)
        while due:
            at_s, _, event, ends = heapq.heappop(due)
            while (wait_s := begun_mono_s + at_s - time.monotonic()) > 0:
                time.sleep(min(wait_s, 0.2))
                self._around.service.check()
            if ends:
                self._end(event)
            else:
                self._begin(event)
                heapq.heappush(due, (at_s + event.lasts_s, next(order), event, True))

    def _begin(self, event: Event) -> None:
        from_s = time.monotonic()
        if event.device:
            self._around.site.set_fault(event.device, event.kind)
            self._open[event] = from_s, self._hit_by(event)
        else:
            begin, _, hit = self._acts[event.kind]
            self._open[event] = from_s, hit
            begin()

    def _end(self, event: Event) -> None:
        if event.device:
            self._around.site.heal(event.device)
        else:
            self._acts[event.kind][1]()
        from_s, hit = self._open.pop(event)
        self.windows.append(Window(from_s, time.monotonic(), event.kind, hit))

    def _hit_by(self, event: Event) -> frozenset[int]:
        """Who does not listen is gone with all that share the line."""
        devices = self._around.devices
        (line,) = (device.line for device in devices if device.number == event.device)
        if event.kind != "refuse":
            return frozenset({event.device})
        return frozenset(device.number for device in devices if device.line == line)

    # --- The acts ---

    @property
    def _churned(self) -> int:
        """A device whose meter is removed and registered anew, under another name."""
        return max(self._around.devices, key=lambda device: device.number).number

    def _register(self, device: Device, name: str) -> None:
        site = self._around.site
        document = device.registration(site.ports.get(device.line, 0), name)
        status, content = self._around.service.ask("POST", "/api/energy-meters", document)
        if status != 201:
            raise BenchError(f"{name} was not registered: {content.decode()}")
        meter_id = json.loads(content)["data"]["id"]
        self.meters[meter_id] = device.number
        self._of_device[device.number] = meter_id

    def _register_anew(self) -> None:
        (device,) = (each for each in self._around.devices if each.number == self._churned)
        path = f"/api/energy-meters/{self._of_device[device.number]}"
        status, content = self._around.service.ask("DELETE", path)
        if status != 200:
            raise BenchError(f"{device.name} was not removed: {content.decode()}")
        self._register(device, f"{device.name}, number {next(self._generation)}")

    def _boot_in_1970(self) -> None:
        self._around.service.kill()
        self._around.world.set_clock(-time.time(), trusted=False)
        self._around.service.start()

    def _besiege(self) -> None:
        self._abuse.enter_context(Abuse(self._around.service.port))


def _nothing() -> None:
    """What ends what is over by itself."""
