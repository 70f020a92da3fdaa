"""What a probe asks a meter and what is answered, with all of it kept to be shown."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from edge.clock import Clock
from edge.communication import ModbusCommunication, ReadRequest, Register
from edge.decode import pack, split
from edge.drivers.modbus import ModbusDriver
from edge.errors import LineError, MeterError, Refused
from edge.meterspec.modbus import FUNCTIONS
from edge.model import Exchange, Probe

GATEWAY_EXCEPTIONS = frozenset({0x0A, 0x0B})
"""Exception codes by which a gateway says that nobody is there."""
TABLES = {function: table for table, function in FUNCTIONS.items()}
"""Function → its registers."""
AGAIN_S = 2.0
"""How long an answer may take when it is not the first one that is waited for."""

_LONGEST_S = 5.0
"""A probe waits no longer for an answer, whatever the time-out is: others on the line wait, too."""
_WORDS_BEFORE, _WORDS_AFTER = 2, 4
_MOST_NEIGHBOURHOODS = 24
"""Requests for neighbours; a device that refuses holes would have each word asked for alone."""
_LATER_S = 2.0


@dataclass(frozen=True)
class Answer:
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


class Questions:
    """Asks one thing after the other, and keeps what was asked and answered."""

    def __init__(
        self, driver: ModbusDriver, communication: ModbusCommunication, clock: Clock
    ) -> None:
        self.communication = communication
        self.exchanges: list[Exchange] = []
        self.answers: list[Answer] = []
        self._driver = driver
        self._clock = clock

    def ask(self, request: ReadRequest) -> Sequence[int]:
        """Read one block as a poll does; see `Ask`."""
        answer = self.put(request)
        if answer.error is not None:
            raise answer.error
        return answer.words

    def put(self, request: ReadRequest, longest_s: float = _LONGEST_S) -> Answer:
        """Ask for one block, waiting for the meter's time-out or longest_s. Raises LineError."""
        return self._put(self._driver, request, longest_s, "")

    def put_beside(self, request: ReadRequest) -> Answer:
        """Ask for a block with registers that nobody registered, which may well be refused."""
        answer = self._put(self._driver, request, _LONGEST_S, ", with what is beside")
        if isinstance(answer.error, Refused):
            shown = replace(self.exchanges[-1], error=f"exception {answer.error.code}: not there")
            self.exchanges[-1] = shown
        return answer

    def put_in_other_frames(self, request: ReadRequest, transport: str) -> Answer:
        """Ask in the frames of another transport, over a connection of its own.

        The line's own is closed before, since the peer may allow a single one. Raises LineError.
        """
        self._driver.close()
        endpoint = replace(self.communication.endpoint, transport=transport)
        other = ModbusDriver(endpoint, self._clock, self._driver.reach)
        # Neither driver knows when the other one asked.
        self._clock.sleep(self.communication.request_delay_s)
        try:
            return self._put(other, request, AGAIN_S, f" ({transport})")
        finally:
            other.close()
            self._clock.sleep(self.communication.request_delay_s)

    def _put(
        self, driver: ModbusDriver, request: ReadRequest, longest_s: float, note: str
    ) -> Answer:
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
                asked=f"unit {request.unit_id}: {span(request)}{note}",
                raw=" ".join(f"{word:04x}" for word in words) or None,
                round_trip_s=round_trip_s if error is None or isinstance(error, Refused) else None,
                error=str(error) if error else None,
            )
        )
        if isinstance(error, LineError):
            raise error
        answer = Answer(request, words, error)
        self.answers.append(answer)
        return answer


def look_around(questions: Questions, registers: Iterable[Register], clock: Clock) -> Probe:
    """Read the neighbours of registers that were polled, and all of it again. Raises LineError.

    Gives a probe of nothing but words.
    What was polled wins over the same read with its neighbours: a block that had to be taken apart
    may hold one half of a number, of another moment than the other.
    """
    start_s = clock.mono_s()
    polled = [answer for answer in questions.answers if answer.words and answer.request.registers]
    neighbours = _read_neighbours(questions, registers, set(words_of(polled)))
    answers = [*neighbours, *polled]
    clock.sleep(max(0.0, start_s + _LATER_S - clock.mono_s()))
    later_s = clock.mono_s() - start_s
    again = (questions.put(request) for request in _largest(answer.request for answer in answers))
    return Probe(
        words=words_of(answers),
        later_words=words_of(takewhile(_has_words, again)),
        later_s=later_s,
    )


def _read_neighbours(
    questions: Questions, registers: Iterable[Register], known: set[tuple[int, int]]
) -> list[Answer]:
    """Read registers with what is about them.

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
    answers: list[Answer] = []
    for _ in range(_MOST_NEIGHBOURHOODS):
        if not blocks:
            break
        answer = questions.put_beside(blocks.popleft())
        if answer.error is None:
            answers.append(answer)
        elif isinstance(answer.error, Refused):
            parts = split(answer.request, communication.max_registers_per_request)
            blocks += (part for part in parts if not known.issuperset(_places(part)))
        else:
            break
    return answers


def _largest(requests: Iterable[ReadRequest]) -> list[ReadRequest]:
    """Leave out each request that another one holds as a whole; the order stays."""
    places = {frozenset(_places(request)): request for request in requests}
    return [request for place, request in places.items() if not any(place < p for p in places)]


def _has_words(answer: Answer) -> bool:
    return answer.error is None


def words_of(answers: Iterable[Answer]) -> dict[tuple[int, int], int]:
    """Give (function, address) → word; what came last counts."""
    return {
        place: word
        for answer in answers
        for place, word in zip(_places(answer.request), answer.words, strict=False)
    }


def _places(request: ReadRequest) -> list[tuple[int, int]]:
    addresses = range(request.address, request.address + request.count)
    return [(request.function, address) for address in addresses]


def span(request: ReadRequest) -> str:
    """Say which registers are asked for: `holding registers 20480 to 20491`."""
    noun = "register" if request.count == 1 else "registers"
    return f"{TABLES[request.function]} {noun} {addresses(request)}"


def addresses(request: ReadRequest) -> str:
    """Say at which addresses: `20480 to 20491`."""
    last = request.address + request.count - 1
    return str(last) if request.count == 1 else f"{request.address} to {last}"
