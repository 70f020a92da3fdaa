"""Which units there are on a line, and what they are by the device library.

Each unit id is asked for one register; whoever answers, be it with a refusal, is there. On a serial
line whose settings are not known, that is done with one setting after the other, the usual ones
first, until somebody answers: all devices on it must have the same. There is never more than one
request in flight.

A device with a network port of its own may answer under every id. It is known by answering under
one that is reserved, and is then given once.

Sources: MODBUS over Serial Line V1.02, 2.2 (addresses 1 to 247) and 2.5.1; SunSpec Alliance, Device
Information Model Specification 1.1, and github.com/sunspec/models, json/model_1.json.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace

from edge.clock import Clock
from edge.communication import ModbusEndpoint, ReadRequest
from edge.drivers.modbus import ModbusDriver, discover
from edge.drivers.modbus.questions import GATEWAY_EXCEPTIONS
from edge.errors import Cause, LineError, MeterError, Refused
from edge.meterspec.modbus import FUNCTIONS
from edge.reach import ANYWHERE, Reach
from edge.sunspec import BASES, MARKER
from edge.template import Identify, Template

UNITS = range(1, 248)
BAUDS = (9600, 19200, 38400, 115200, 2400, 4800, 57600)
PARITIES = ("N", "E", "O")
TIMEOUT_S = {"rtu": 0.3, "tcp": 1.0, "rtu-over-tcp": 1.0}
"""Transport → how long a unit may take to answer; a gateway adds its own time."""

_CONNECT_S = 3.0
_RECONNECT_S = 1.0
"""A gateway with a single connection needs a moment to let go of the one before."""
_RESERVED_UNIT = 250

_SUNSPEC_BASE = BASES[0]
_COMMON_ADDRESS, _COMMON_COUNT = _SUNSPEC_BASE + 4, 48
"""Where the common model, the first one, has its texts: maker, model, options and version."""
_TEXTS = (slice(0, 32), slice(32, 64), slice(80, 96))
"""Bytes of the maker, the model and the version."""
_ANY_MAKER = "SunSpec"
"""Maker in a template for the SunSpec devices of all."""


@dataclass(frozen=True)
class Found:
    """A unit that answered.

    settings: the endpoint that it answered on. templates: names of those that fit it.
    description: maker and model, in words.
    """

    unit_id: int
    settings: ModbusEndpoint
    templates: tuple[str, ...]
    description: str


@dataclass(frozen=True)
class ScanProgress:
    """How far a scan is, told before each unit that is asked.

    done, total: units asked and to be asked; the total shrinks once the line's settings are known.
    unit_id, settings: who is asked now. found: units that answered so far.
    """

    done: int
    total: int
    unit_id: int
    settings: ModbusEndpoint
    found: int


def scan(
    endpoint: ModbusEndpoint,
    clock: Clock,
    *,
    units: Sequence[int] = UNITS,
    bauds: Sequence[int] = BAUDS,
    parities: Sequence[str] = PARITIES,
    timeout_s: float | None = None,
    templates: Iterable[Template] = (),
    reach: Reach = ANYWHERE,
    progress: Callable[[ScanProgress], None] = lambda _progress: None,
) -> Generator[Found, None, None]:
    """Find the units on a line, one after the other, as they answer.

    bauds, parities: of a serial line, tried after the endpoint's own. timeout_s: how long a unit
    may take to answer; TIMEOUT_S unless given. templates: what units are compared with. reach:
    which addresses may be connected to. progress: called on the caller's thread.
    Raises LineError when the line cannot be opened or is lost. Blocks between units for as long as
    nobody answers; closing the iterator ends the scan and closes the line.
    """
    known = tuple(templates)
    settings = settings_to_try(endpoint, bauds, parities)
    unusable: LineError | None = None
    found = 0
    is_usable = False
    for number, setting in enumerate(settings):
        with contextlib.closing(_Line(setting, clock, timeout_s, reach)) as line:
            try:
                line.open()
            except LineError as exc:
                # An adapter may lack a baudrate or parity, and yet have the one that is sought.
                if exc.cause is not Cause.SERIAL_PORT_UNUSABLE:
                    raise
                unusable = unusable or exc
                continue
            is_usable = True
            answers_all = setting.transport == "tcp" and line.is_there(_RESERVED_UNIT)
            chosen = units[:1] if answers_all else units
            for place, unit_id in enumerate(chosen):
                turns = number + 1 if found else len(settings)
                done = number * len(chosen) + place
                progress(ScanProgress(done, turns * len(chosen), unit_id, setting, found))
                if line.is_there(unit_id):
                    found += 1
                    yield _identified(_Unit(line, unit_id), setting, known, answers_all)
        if found:
            break
    if unusable is not None and not is_usable:
        raise unusable


def settings_to_try(
    endpoint: ModbusEndpoint, bauds: Sequence[int], parities: Sequence[str]
) -> tuple[ModbusEndpoint, ...]:
    """Give the endpoint, and on a serial line all other settings of it, its own first."""
    if endpoint.transport != "rtu":
        return (endpoint,)
    settings = itertools.product((endpoint.baudrate, *bauds), (endpoint.parity, *parities))
    return tuple(replace(endpoint, baudrate=b, parity=p) for b, p in dict.fromkeys(settings))


class _Line:
    """Asks units on a line for words, one request in flight."""

    def __init__(
        self, endpoint: ModbusEndpoint, clock: Clock, timeout_s: float | None, reach: Reach
    ) -> None:
        self._driver = ModbusDriver(endpoint, clock, reach)
        self._clock = clock
        self._timeout_s = timeout_s or TIMEOUT_S[endpoint.transport]

    def open(self) -> None:
        """Raises LineError."""
        try:
            self._driver.open(_CONNECT_S)
        except LineError as exc:
            if not self._driver.opened or exc.cause is Cause.NO_SERIAL_PORT:
                raise
            self._clock.sleep(_RECONNECT_S)
            self._driver.open(_CONNECT_S)

    def ask(self, request: ReadRequest) -> Sequence[int]:
        """Read one block; see `Ask`."""
        self.open()
        return self._driver.read(request, self._timeout_s)

    def is_there(self, unit_id: int) -> bool:
        """Whether a unit answers, be it with a refusal. Raises LineError."""
        try:
            self.ask(ReadRequest(unit_id, FUNCTIONS["holding"], 0, 1))
        except Refused as exc:
            return exc.code not in GATEWAY_EXCEPTIONS
        except MeterError:
            return False
        return True

    def close(self) -> None:
        """Never raises."""
        self._driver.close()


class _Unit:
    """What one unit has to say; nothing is asked for twice. Raises LineError."""

    def __init__(self, line: _Line, unit_id: int) -> None:
        self.unit_id = unit_id
        self._line = line
        self._said: dict[ReadRequest, Sequence[int] | MeterError] = {}

    def ask(self, request: ReadRequest) -> Sequence[int]:
        """Read one block; see `Ask`."""
        if request not in self._said:
            try:
                self._said[request] = self._line.ask(request)
            except MeterError as exc:
                self._said[request] = exc
        said = self._said[request]
        if isinstance(said, MeterError):
            raise said
        return said

    def says(self, address: int, count: int, register_type: str = "holding") -> bytes:
        """Give the bytes of some registers; none where it does not give them."""
        try:
            words = self.ask(ReadRequest(self.unit_id, FUNCTIONS[register_type], address, count))
        except MeterError:
            return b""
        return b"".join(word.to_bytes(2, "big") for word in words)

    def sunspec_texts(self) -> Sequence[str]:
        """Give maker, model and version as a SunSpec device names itself; empty if it is none."""
        if self.says(_SUNSPEC_BASE, 2) != MARKER:
            return ()
        said = self.says(_COMMON_ADDRESS, _COMMON_COUNT)
        texts = (said[place].partition(b"\0")[0].decode("ascii", "replace") for place in _TEXTS)
        return tuple("".join(filter(str.isprintable, text)).strip() for text in texts)

    def is_sunspec(self, kind: str) -> bool:
        """Whether it is a SunSpec device with a `meter` or an `inverter`."""
        try:
            discover(self.ask, self.unit_id, kind)
        except MeterError:
            return False
        return True


def _fits(template: Template, unit: _Unit) -> bool:
    """Whether a unit says of itself that it is of a template's models."""
    if template.identify is not None:
        return _is_identified(template.identify, unit)
    kind, texts = template.communication.get("sunspec"), unit.sunspec_texts()
    if not texts or not isinstance(kind, str):
        return False
    # Any maker's device is read by the same models, so a template for one is for its own only.
    of_maker = template.maker.startswith(_ANY_MAKER) or template.maker.lower() in texts[0].lower()
    return of_maker and unit.is_sunspec(kind)


def _is_identified(identify: Identify, unit: _Unit) -> bool:
    said = unit.says(identify.address, identify.count, identify.register_type)
    if identify.text is not None:
        return said.startswith(identify.text.encode("ascii"))
    return bool(said) and int.from_bytes(said, "big") in identify.values


def _identified(
    unit: _Unit, settings: ModbusEndpoint, templates: Iterable[Template], answers_all: bool
) -> Found:
    fitting = [template for template in templates if _fits(template, unit)]
    own_name = " ".join(filter(None, unit.sunspec_texts()))
    description = own_name or " or ".join(template.title for template in fitting)
    note = "; it answers as any unit" if answers_all else ""
    return Found(
        unit.unit_id,
        settings,
        tuple(template.name for template in fitting),
        (description or "unknown meter") + note,
    )
