"""What is wrong with a Modbus meter, or with the way to it.

The meter is polled once without retries. Where all was read, its registers are read again with
their neighbours, twice, for whoever judges the values. Where not, further questions tell the
causes apart: again, as another unit, at another address, from the other table, in other frames.
There is never more than one request in flight.

Source: MODBUS Application Protocol V1.1b3, section 7, for what the exceptions mean.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from edge.clock import Clock
from edge.communication import ModbusCommunication, ReadRequest
from edge.drivers.modbus import BLOCK_EXCEPTIONS, ILLEGAL_ADDRESS, ModbusDriver
from edge.drivers.modbus.questions import (
    AGAIN_S,
    TABLES,
    Answer,
    Questions,
    addresses,
    look_around,
    span,
    words_of,
)
from edge.errors import Cause, LineError, MeterError, Refused
from edge.model import Finding, Meter, Outcome, Probe

_SEARCH_S = {"tcp": 1.0, "rtu-over-tcp": 1.0, "rtu": 0.5}
"""How long one of the usual units may take to answer."""
_USUAL_UNITS = (1, 2, 3, 10, 100, 247)
_TCP_UNIT = 255
"""What devices with their own network port call themselves (Messaging Guide V1.0b, 4.4.2)."""
_OTHER_TRANSPORT = {"tcp": "rtu-over-tcp", "rtu-over-tcp": "tcp"}
_OTHER_FUNCTION = {3: 4, 4: 3}
_MOST_EXAMINED = 10
_SCAN = "find the units that answer with `dlm-edge probe --scan`"


def probe(driver: ModbusDriver, meter: Meter, clock: Clock) -> Probe:
    """Question a meter over its line's driver; see `Driver.probe`.

    Blocks for about 3 s where the meter answers and 10 s where all is silent; with a time-out
    above 1 s for up to 20 s. Line thread only.
    """
    assert isinstance(meter.communication, ModbusCommunication)
    questions = Questions(driver, meter.communication, clock)
    outcome: Outcome | None = None
    findings: list[Finding] = []
    surroundings = Probe()
    try:
        outcome = driver.poll_by(questions.ask, meter, retries=0)
        findings = list(_findings(questions, outcome.error))
        if outcome.raw and _was_heard_out(outcome.error):
            registers = [register for register, _ in outcome.raw.values()]
            surroundings = look_around(questions, registers, clock)
    except LineError as exc:
        findings.append(Finding(exc.cause, str(exc)))
    return replace(
        surroundings,
        outcome=outcome if outcome and (outcome.values or outcome.raw) else None,
        exchanges=tuple(questions.exchanges),
        findings=tuple(findings),
    )


# --- What is wrong -------------------------------------------------------------------------------


def _findings(questions: Questions, error: MeterError | None) -> Iterator[Finding]:
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


def _finding_of_device(questions: Questions, answers: Sequence[Answer]) -> Finding:
    """Tell why the last request of a poll brought nothing to be used."""
    last = answers[-1]
    assert last.error is not None
    cause = last.error.cause
    if cause is Cause.DEVICE_EXCEPTION:
        return Finding(cause, str(last.error))
    if any(answer.is_there for answer in answers):
        unit = f"Unit {last.request.unit_id}"
        return Finding(
            cause,
            f"{unit} answered before, but not properly for {span(last.request)}: check that it "
            "has them all, lower maxGap or maxRegistersPerRequest, or raise timeout.",
        )
    # The line may fail meanwhile, as where a device allows no second connection so soon.
    with contextlib.suppress(LineError):
        if questions.put(last.request, AGAIN_S).is_there:
            return Finding(
                cause,
                f"Unit {last.request.unit_id} answered only when it was asked again; raise "
                "timeout or retries, and check the wiring if it stays.",
            )
    finding = None
    if cause is not Cause.WRONG_UNIT_ID:  # a gateway that says so is understood
        finding = _finding_of_frames(questions, last.request)
    if finding is None and cause is not Cause.UNREADABLE:
        finding = _finding_of_units(questions, last)
    return finding or Finding(cause, _advice(questions.communication, last.error))


def _finding_of_frames(questions: Questions, request: ReadRequest) -> Finding | None:
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


def _finding_of_units(questions: Questions, last: Answer) -> Finding | None:
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
            f"and parity are the meter's; or {_SCAN}."
        )
    if error.cause is Cause.CONNECTION_LOST:
        return (
            f"{endpoint.host} accepts the connection and closes it instead of answering. Many "
            "devices allow one client at a time: stop what else reads it, or check unitId."
        )
    if error.cause is Cause.UNREADABLE:
        if is_serial:
            return f"{error} Tried was {settings}; `dlm-edge probe --scan` tries the others."
        return f"{error} Check that port {endpoint.port} is that for Modbus, too."
    if is_serial:
        return (
            f"Nobody answers on {endpoint.serial_port} at {settings}, as unit "
            f"{communication.unit_id} or a usual one: check the meter's power, that A and B are "
            f"not swapped, the termination, and its own baudrate and parity; or {_SCAN}."
        )
    return (
        f"{endpoint.host} accepts the connection, but nobody answers, as unit "
        f"{communication.unit_id} or a usual one: check unitId, or {_SCAN}; check the serial "
        "settings and wiring behind a gateway, and that no other client keeps the device busy."
    )


def _finding_of_function(questions: Questions, request: ReadRequest) -> Finding:
    """Ask for the same registers of the other table."""
    other = _OTHER_FUNCTION[request.function]
    answer = questions.put(replace(request, function=other, registers=()), AGAIN_S)
    mine, its = TABLES[request.function], TABLES[other]
    if answer.error is None:
        message = (
            f"Unit {request.unit_id} has no {mine} registers, but {its} registers at the same "
            f"addresses: set registerType to {its}."
        )
    elif isinstance(answer.error, Refused) and answer.error.code == ILLEGAL_ADDRESS:
        message = (
            f"Unit {request.unit_id} has {its} registers, not {mine} ones, but none at "
            f"{addresses(request)}: set registerType to {its}, and check the addresses."
        )
    else:
        message = (
            f"Unit {request.unit_id} can read neither holding nor input registers at "
            f"{addresses(request)}: check in its manual that it is a Modbus meter with registers."
        )
    return Finding(Cause.ILLEGAL_FUNCTION, message)


def _findings_of_addresses(
    questions: Questions, refused: Sequence[ReadRequest]
) -> Iterator[Finding]:
    """Look for registers that are refused, each in a request of its own, where slips put them."""
    known = words_of(questions.answers)
    elsewhere: dict[int, list[ReadRequest]] = {}
    lower: list[ReadRequest] = []
    nowhere: list[ReadRequest] = []
    examined, others = refused[:_MOST_EXAMINED], refused[_MOST_EXAMINED:]
    for request in examined:
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
        advice = f"set registerType to {TABLES[other]}, which answers"
        if others and len(requests) == len(examined):
            # So will the rest, which would take too long to ask for.
            advice += f" for the first {len(examined)}"
            requests, others = [*requests, *others], ()
        yield _finding_of_address(requests, advice)
    nowhere += others
    if lower:
        advice = "one address lower answers, and many manuals count from 1: subtract 1"
        yield _finding_of_address(lower, advice)
    if nowhere:
        yield _finding_of_address(nowhere, "check the addresses in the meter's manual")


def _reads(questions: Questions, request: ReadRequest) -> bool:
    """Whether a register can be read; a device that fell silent is asked no more."""
    return questions.answers[-1].is_there and questions.put(request, AGAIN_S).error is None


def _finding_of_address(requests: Iterable[ReadRequest], advice: str) -> Finding:
    # A register that is no quantity holds a scale factor; its name is for the reader's own use.
    registers = [request.registers[0] for request in requests]
    names = [
        f"{'scale factor' if r.quantity.startswith('@') else r.quantity} at {r.start}"
        for r in registers
    ]
    are = "is" if len(names) == 1 else "are"
    return Finding(Cause.ILLEGAL_ADDRESS, f"{_listed(names)} {are} refused: {advice}.")


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
