"""What is wrong with a Modbus meter, or with the way to it.

The meter is polled once without retries. Where all was read, its registers are read again with
their neighbours, twice, for whoever judges the values. Where not, further questions tell the
causes apart: again, as another unit, at another address, from the other table, in other frames.
There is never more than one request in flight.

Source: MODBUS Application Protocol V1.1b3, section 7, for what the exceptions mean.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from edge.clock import Clock
from edge.communication import ModbusCommunication, ReadRequest, Register
from edge.decode import pack, split
from edge.drivers.modbus import BLOCK_EXCEPTIONS, ILLEGAL_ADDRESS, ModbusDriver
from edge.errors import Cause, LineError, MeterError, Refused
from edge.model import Exchange, Finding, Meter, Outcome, Probe

GATEWAY_EXCEPTIONS = frozenset({0x0A, 0x0B})
"""Exception codes by which a gateway says that nobody is there."""

_LONGEST_WAIT_S = 10.0
"""A probe waits no longer for the first answer, whatever the time-out is."""
_AGAIN_S = 2.0
_SEARCH_S = {"tcp": 1.0, "rtu-over-tcp": 1.0, "rtu": 0.5}
"""How long one of the usual units may take to answer."""
_USUAL_UNITS = (1, 2, 3, 10, 100, 247)
_TCP_UNIT = 255
"""What devices with their own network port call themselves (Messaging Guide V1.0b, 4.4.2.1)."""
_OTHER_TRANSPORT = {"tcp": "rtu-over-tcp", "rtu-over-tcp": "tcp"}
_OTHER_FUNCTION = {3: 4, 4: 3}
_TABLES = {3: "holding", 4: "input"}

_WORDS_BEFORE, _WORDS_AFTER = 2, 4
_MOST_NEIGHBOURHOODS = 24
"""Requests for neighbours; a device that refuses holes would have each word asked for alone."""
_MOST_EXAMINED = 10
_LATER_S = 2.0


def probe(driver: ModbusDriver, meter: Meter, clock: Clock) -> Probe:
    """Question a meter over its line's driver; see `Line.probe`.

    Blocks for about 3 s where the meter answers and 15 s where all is silent, and longer where
    its time-out is above 1 s. Line thread only.
    """
    assert isinstance(meter.communication, ModbusCommunication)
    questions = _Questions(driver, meter.communication, clock)
    outcome: Outcome | None = None
    findings: list[Finding] = []
    surroundings = _Surroundings()
    try:
        outcome = driver.poll_by(questions.ask, meter, retries=0)
        findings = list(_findings(questions, outcome.error))
        if outcome.raw and _was_heard_out(outcome.error):
            registers = [register for register, _ in outcome.raw.values()]
            surroundings = _look_around(questions, registers, clock)
    except LineError as exc:
        findings.append(Finding(exc.cause, str(exc)))
    return Probe(
        outcome=outcome if outcome and (outcome.values or outcome.raw) else None,
        exchanges=tuple(questions.exchanges),
        findings=tuple(findings),
        words=surroundings.words,
        later_words=surroundings.later_words,
        later_s=surroundings.later_s,
    )


@dataclass(frozen=True)
class _Answer:
    """What one request brought: words, or why there are none."""

    request: ReadRequest
    words: Sequence[int] = ()
    error: MeterError | None = None

    @property
    def is_there(self) -> bool:
        """Whether a device spoke, be it to refuse; a gateway that speaks for it does not count."""
        if isinstance(self.error, Refused):
            return self.error.code not in GATEWAY_EXCEPTIONS
        return self.error is None


class _Questions:
    """Asks one thing after the other, and keeps what was asked and answered."""

    def __init__(
        self, driver: ModbusDriver, communication: ModbusCommunication, clock: Clock
    ) -> None:
        self.communication = communication
        self.exchanges: list[Exchange] = []
        self.answers: list[_Answer] = []
        self._driver = driver
        self._clock = clock

    def ask(self, request: ReadRequest) -> Sequence[int]:
        """Read one block as a poll does; see `Ask`."""
        answer = self.put(request)
        if answer.error is not None:
            raise answer.error
        return answer.words

    def put(self, request: ReadRequest, longest_s: float = _LONGEST_WAIT_S) -> _Answer:
        """Ask for one block, waiting for the meter's time-out or longest_s. Raises LineError."""
        return self._put(self._driver, request, longest_s, "")

    def put_in_other_frames(self, request: ReadRequest, transport: str) -> _Answer:
        """Ask in the frames of another transport, over a connection of its own.

        The line's own is closed before, since the peer may allow a single one. Raises LineError.
        """
        self._driver.close()
        endpoint = replace(self.communication.endpoint, transport=transport)
        other = ModbusDriver(endpoint, self._clock)
        try:
            return self._put(other, request, _AGAIN_S, f" ({transport})")
        finally:
            other.close()

    def _put(
        self, driver: ModbusDriver, request: ReadRequest, longest_s: float, note: str
    ) -> _Answer:
        timeout_s = min(self.communication.timeout_s, longest_s)
        try:
            driver.make_ready(self.communication.request_delay_s, timeout_s)
        except LineError as exc:
            name = self.communication.endpoint.name
            self.exchanges.append(Exchange(f"connection to {name}", error=str(exc)))
            raise
        start_s = self._clock.mono_s()
        words: Sequence[int] = ()
        error: MeterError | LineError | None = None
        try:
            words = driver.read(request, timeout_s)
        except (MeterError, LineError) as exc:
            error = exc
        round_trip_s = self._clock.mono_s() - start_s
        self.exchanges.append(
            Exchange(
                asked=f"unit {request.unit_id}: {_span(request)}{note}",
                raw=" ".join(f"{word:04x}" for word in words) or None,
                round_trip_s=round_trip_s if error is None or isinstance(error, Refused) else None,
                error=str(error) if error else None,
            )
        )
        if isinstance(error, LineError):
            raise error
        answer = _Answer(request, words, error)
        self.answers.append(answer)
        return answer


# --- What is wrong -------------------------------------------------------------------------------


def _findings(questions: _Questions, error: MeterError | None) -> Iterator[Finding]:
    """Tell why a poll failed, asking further as needed. Raises LineError."""
    if error is None:
        return
    answers = tuple(questions.answers)
    if answers and answers[-1].error is error and _is_about_the_device(error):
        yield _finding_of_device(questions, answers)
        return
    refused = [
        (answer.request, answer.error)
        for answer in answers
        if isinstance(answer.error, Refused) and answer.request.registers
    ]
    for request, refusal in refused:
        if refusal.code == 1:
            yield _finding_of_function(questions, request)
            break
    yield from _findings_of_addresses(
        questions,
        [r for r, refusal in refused if refusal.code == ILLEGAL_ADDRESS and len(r.registers) == 1],
    )
    if error.cause not in (Cause.ILLEGAL_FUNCTION, Cause.ILLEGAL_ADDRESS):
        yield Finding(error.cause, str(error))


def _was_heard_out(error: MeterError | None) -> bool:
    """Whether a poll that ended so came to its end, with each block answered or refused."""
    return error is None or not _is_about_the_device(error)


def _is_about_the_device(error: MeterError) -> bool:
    """Whether it is no answer about certain registers, so that the other ones fail likewise."""
    if isinstance(error, Refused):
        return error.code not in BLOCK_EXCEPTIONS
    return error.cause is not Cause.NO_VALUE


def _finding_of_device(questions: _Questions, answers: Sequence[_Answer]) -> Finding:
    last = answers[-1]
    assert last.error is not None
    cause = last.error.cause
    if cause is Cause.DEVICE_EXCEPTION:
        return Finding(cause, str(last.error))
    if any(answer.is_there for answer in answers):
        unit = f"Unit {last.request.unit_id}"
        return Finding(
            cause,
            f"{unit} answered before, but not properly for {_span(last.request)}: check that it "
            "has them all, lower maxGap or maxRegistersPerRequest, or raise timeout.",
        )
    # The line may fail meanwhile, as where a device allows no second connection so soon.
    with contextlib.suppress(LineError):
        if questions.put(last.request, _AGAIN_S).is_there:
            return Finding(
                cause,
                f"Unit {last.request.unit_id} answered only when it was asked again; raise "
                "timeout or retries, and check the wiring if it stays.",
            )
    return (
        (_finding_of_frames(questions, last.request) if cause is not Cause.WRONG_UNIT_ID else None)
        or (_finding_of_units(questions, last) if cause is not Cause.UNREADABLE else None)
        or Finding(cause, _advice(questions.communication, last.error))
    )


def _finding_of_frames(questions: _Questions, request: ReadRequest) -> Finding | None:
    """See whether a gateway speaks, but in the frames of the other transport."""
    transport = _OTHER_TRANSPORT.get(questions.communication.endpoint.transport)
    if transport is None:
        return None
    with contextlib.suppress(LineError):
        answer = questions.put_in_other_frames(request, transport)
        # A gateway that says that nobody is there has understood the question, too.
        if answer.error is None or isinstance(answer.error, Refused):
            message = f"It answers in the frames of {transport}: set transport to {transport}."
            return Finding(Cause.UNREADABLE, message)
    return None


def _finding_of_units(questions: _Questions, last: _Answer) -> Finding | None:
    """See whether other units answer on the line."""
    transport = questions.communication.endpoint.transport
    asked = last.request.unit_id
    units = (*_USUAL_UNITS, _TCP_UNIT) if transport == "tcp" else _USUAL_UNITS
    found = []
    with contextlib.suppress(LineError):
        for unit_id in units:
            request = ReadRequest(unit_id, last.request.function, last.request.address, 1)
            if unit_id != asked and questions.put(request, _SEARCH_S[transport]).is_there:
                found.append(str(unit_id))
    if not found:
        return None
    answers, to = ("answers", found[0]) if len(found) == 1 else ("answer", "one of them")
    return Finding(
        Cause.WRONG_UNIT_ID,
        f"Unit {asked} is silent but {_listed(found)} {answers}: wrong unit id, set unitId to "
        f"{to}, or check the power and wiring of unit {asked}.",
    )


def _advice(communication: ModbusCommunication, error: MeterError) -> str:
    """Say what to try where nobody answered as hoped for, by cause and transport."""
    endpoint = communication.endpoint
    settings = f"{endpoint.baudrate} baud and parity {endpoint.parity}"
    is_serial = endpoint.transport == "rtu"
    if error.cause is Cause.WRONG_UNIT_ID:
        return (
            f"The gateway is there, but unit {communication.unit_id} behind it is not, nor any of "
            "the usual ones: check the meter's power, A and B, and that the gateway's baudrate "
            "and parity are the meter's."
        )
    if error.cause is Cause.CONNECTION_LOST:
        return (
            f"{endpoint.host} accepts the connection and closes it instead of answering. Many "
            "devices allow one client at a time: stop what else reads it, or check unitId."
        )
    if error.cause is Cause.UNREADABLE:
        if is_serial:
            return f"{error} Tried was {settings}; a scan tries the others."
        return f"{error} Check that port {endpoint.port} is that for Modbus, too."
    if is_serial:
        return (
            f"Nobody answers on {endpoint.serial_port} at {settings}, as unit "
            f"{communication.unit_id} or a usual one: check the meter's power, that A and B are "
            "not swapped, the termination, and its own baudrate and parity; or scan the line."
        )
    return (
        f"{endpoint.host} accepts the connection, but nobody answers, as unit "
        f"{communication.unit_id} or a usual one: check unitId, the serial settings and wiring "
        "behind a gateway, and that no other client keeps the device busy."
    )


def _finding_of_function(questions: _Questions, request: ReadRequest) -> Finding:
    """Ask where one table is not known for the same of the other."""
    other = _OTHER_FUNCTION[request.function]
    answer = questions.put(replace(request, function=other, registers=()))
    mine, its = _TABLES[request.function], _TABLES[other]
    if answer.error is None:
        message = (
            f"Unit {request.unit_id} has no {mine} registers, but {its} registers at the same "
            f"addresses: set registerType to {its}."
        )
    elif isinstance(answer.error, Refused) and answer.error.code == ILLEGAL_ADDRESS:
        message = (
            f"Unit {request.unit_id} has {its} registers, not {mine} ones, but none at "
            f"{_addresses(request)}: set registerType to {its}, and check the addresses."
        )
    else:
        message = (
            f"Unit {request.unit_id} can read neither holding nor input registers at "
            f"{_addresses(request)}: check in its manual that it is a Modbus meter with registers."
        )
    return Finding(Cause.ILLEGAL_FUNCTION, message)


def _findings_of_addresses(
    questions: _Questions, refused: Sequence[ReadRequest]
) -> Iterator[Finding]:
    """Look for registers that are refused, each in a request of its own, where slips put them."""
    known = _words_of(questions.answers)
    elsewhere: dict[int, list[ReadRequest]] = {}
    lower: list[ReadRequest] = []
    nowhere = list(refused[_MOST_EXAMINED:])
    for request in refused[:_MOST_EXAMINED]:
        other = _OTHER_FUNCTION[request.function]
        below = request.address - 1
        if _reads(questions, replace(request, function=other, registers=())):
            elsewhere.setdefault(other, []).append(request)
        # What belongs to another quantity answers anyhow.
        elif (
            below >= 0
            and (request.function, below) not in known
            and _reads(questions, replace(request, address=below, registers=()))
        ):
            lower.append(request)
        else:
            nowhere.append(request)
    for other, requests in elsewhere.items():
        yield _finding_of_address(requests, f"set registerType to {_TABLES[other]}, which answers")
    if lower:
        advice = "one address lower answers, and many manuals count from 1: subtract 1"
        yield _finding_of_address(lower, advice)
    if nowhere:
        yield _finding_of_address(nowhere, "check the addresses in the meter's manual")


def _reads(questions: _Questions, request: ReadRequest) -> bool:
    return questions.put(request).error is None


def _finding_of_address(requests: Iterable[ReadRequest], advice: str) -> Finding:
    # A register that is no quantity holds a scale factor; its name is for the reader's own use.
    registers = [request.registers[0] for request in requests]
    names = [
        f"{'scale factor' if r.quantity.startswith('@') else r.quantity} at {r.start}"
        for r in registers
    ]
    are = "is" if len(names) == 1 else "are"
    return Finding(Cause.ILLEGAL_ADDRESS, f"{_listed(names)} {are} refused: {advice}.")


# --- What stands around --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Surroundings:
    """Words of registers and of their neighbours; see `Probe`."""

    words: Mapping[tuple[int, int], int] = field(default_factory=dict)
    later_words: Mapping[tuple[int, int], int] = field(default_factory=dict)
    later_s: float = 0.0


def _look_around(
    questions: _Questions, registers: Iterable[Register], clock: Clock
) -> _Surroundings:
    """Read registers with their neighbours, twice. Raises LineError."""
    start_s = clock.mono_s()
    answers = [answer for answer in questions.answers if answer.words and answer.request.registers]
    answers += _read_neighbours(questions, registers, _words_of(answers).keys())
    clock.sleep(max(0.0, start_s + _LATER_S - clock.mono_s()))
    later_s = clock.mono_s() - start_s
    again = [questions.put(request) for request in _covering(answer.request for answer in answers)]
    return _Surroundings(_words_of(answers), _words_of(again), later_s)


def _read_neighbours(
    questions: _Questions, registers: Iterable[Register], known: Collection[tuple[int, int]]
) -> list[_Answer]:
    """Read registers anew with what is about them, so that their words are of one moment.

    A block that is refused is taken apart, the largest ones first. Ends at the first answer that
    is missing: it is for suggestions only.
    """
    communication = questions.communication
    places = {
        (register.function, address)
        for register in registers
        for address in range(register.start - _WORDS_BEFORE, register.stop + _WORDS_AFTER)
        if 0 <= address <= 0xFFFF
    }
    blocks = deque(
        pack(
            [Register("", function, (address,), "uint") for function, address in places],
            communication.unit_id,
            communication.max_registers_per_request,
            communication.max_gap,
        )
    )
    answers: list[_Answer] = []
    for _ in range(_MOST_NEIGHBOURHOODS):
        if not blocks:
            break
        answer = questions.put(blocks.popleft())
        if answer.error is None:
            answers.append(answer)
        elif isinstance(answer.error, Refused):
            parts = split(answer.request, communication.max_registers_per_request)
            blocks += (part for part in parts if not set(_places(part)) <= set(known))
        else:
            break
    return answers


def _covering(requests: Iterable[ReadRequest]) -> Iterator[ReadRequest]:
    """Leave out what the larger requests ask for, too."""
    covered: set[tuple[int, int]] = set()
    for request in sorted(requests, key=lambda request: -request.count):
        if not covered.issuperset(_places(request)):
            covered.update(_places(request))
            yield request


def _words_of(answers: Iterable[_Answer]) -> dict[tuple[int, int], int]:
    """Give (function, address) → word; what came last counts."""
    return {
        place: word
        for answer in answers
        for place, word in zip(_places(answer.request), answer.words, strict=False)
    }


def _places(request: ReadRequest) -> list[tuple[int, int]]:
    addresses = range(request.address, request.address + request.count)
    return [(request.function, address) for address in addresses]


# --- In words ------------------------------------------------------------------------------------


def _span(request: ReadRequest) -> str:
    noun = "register" if request.count == 1 else "registers"
    return f"{_TABLES[request.function]} {noun} {_addresses(request)}"


def _addresses(request: ReadRequest) -> str:
    last = request.address + request.count - 1
    return str(last) if request.count == 1 else f"{request.address} to {last}"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
