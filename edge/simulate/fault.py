"""What can be wrong with a simulated meter, and which of it fits which way of talking to it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

DEVICE_FAILURE = 4
"""The Modbus exception of a fault that names none."""
SERVICE_UNAVAILABLE = 503
_BUSY = frozenset({429, SERVICE_UNAVAILABLE})
_RETRY_AFTER_S = 5


class FaultKind(str, Enum):
    """What can be wrong with a meter; the value is its word on the command line."""

    SILENT = "silent"
    """Accepts requests, never answers."""
    SLOW = "slow"
    """Answers after delay_s; later requests on the connection wait their turn."""
    LATE = "late"
    """Answers after delay_s, and is overtaken by the answers to later requests."""
    GARBAGE = "garbage"
    """Answers random bytes."""
    HALF = "half"
    """Answers the first half of the reply and no more."""
    WRONG_TRANSACTION = "wrong-transaction"
    """Answers with another transaction id (Modbus TCP only)."""
    WRONG_UNIT = "wrong-unit"
    """Answers in the name of another unit."""
    WRONG_FUNCTION = "wrong-function"
    """Answers as if the other register table had been asked for."""
    WRONG_COUNT = "wrong-count"
    """The byte count says two more bytes than the reply carries."""
    SHORT_DATA = "short-data"
    """A well-formed reply with one register fewer than asked for."""
    BAD_CRC = "bad-crc"
    """The CRC is wrong (RTU only)."""
    EXCEPTION = "exception"
    """Answers with the Modbus exception `code`."""
    DUPLICATE = "duplicate"
    """Answers twice."""
    NAN = "nan"
    """Every quantity is NaN, or its integer's "not available" pattern."""
    FROZEN = "frozen"
    """The values stay what they were when the fault began."""
    CLOSE = "close"
    """Closes the connection instead of answering (not on a serial line). On MQTT without a word
    of farewell, so that the broker publishes its Last Will; it stays away until healed."""
    REFUSE = "refuse"
    """Does not listen, and has closed what was open (TCP and HTTP; the whole endpoint)."""
    STATUS = "status"
    """Answers with the HTTP status `code`, and Retry-After where that is 429 or 503 (HTTP only)."""


_DELAYED = frozenset({FaultKind.SLOW, FaultKind.LATE})
_MODBUS = frozenset(FaultKind) - {FaultKind.STATUS}
_FITTING = {
    "tcp": _MODBUS - {FaultKind.BAD_CRC},
    "rtu-over-tcp": _MODBUS - {FaultKind.WRONG_TRANSACTION},
    "rtu": _MODBUS - {FaultKind.WRONG_TRANSACTION, FaultKind.CLOSE, FaultKind.REFUSE},
    "http": frozenset(
        {
            FaultKind.SILENT,
            FaultKind.SLOW,
            FaultKind.GARBAGE,
            FaultKind.HALF,
            FaultKind.NAN,
            FaultKind.FROZEN,
            FaultKind.CLOSE,
            FaultKind.REFUSE,
            FaultKind.STATUS,
        }
    ),
    "mqtt": frozenset(
        {
            FaultKind.SILENT,
            FaultKind.GARBAGE,
            FaultKind.NAN,
            FaultKind.FROZEN,
            FaultKind.CLOSE,
        }
    ),
}
"""Transport → the faults that it has a place for."""
TRANSPORTS = tuple(_FITTING)


@dataclass(frozen=True)
class Fault:
    """Something wrong with a meter.

    delay_s: wait before the answer, whatever it is; `slow` and `late` need one.
    code: of the `exception` or HTTP `status`. requests: heals after this many requests, on MQTT
    publications; None lasts until healed.
    """

    kind: FaultKind
    delay_s: float = 0.0
    code: int = DEVICE_FAILURE
    requests: int | None = None

    def __post_init__(self) -> None:
        if self.kind in _DELAYED and self.delay_s <= 0:
            raise ValueError(f"the fault {self.kind.value} needs a delay above 0 s")
        if self.kind is FaultKind.STATUS:
            if not 200 <= self.code <= 599:
                raise ValueError(f"HTTP status {self.code} is not 200 to 599")
        elif not 1 <= self.code <= 255:
            raise ValueError(f"Modbus exception {self.code} is not 1 to 255")

    @property
    def retry_after_s(self) -> int | None:
        """What a `status` asks for before the next request; None where it asks for nothing."""
        return _RETRY_AFTER_S if self.kind is FaultKind.STATUS and self.code in _BUSY else None

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read `KIND` or `KIND=ARG`: seconds for slow and late, a code for exception and status.

        Raises ValueError with a sentence that names the kinds.
        """
        word, _, argument = text.partition("=")
        try:
            kind = FaultKind(word)
        except ValueError:
            kinds = ", ".join(kind.value for kind in FaultKind)
            raise ValueError(f"{word!r} is no fault: use one of {kinds}") from None
        if kind in _DELAYED:
            return cls(kind, delay_s=float(argument or 2))
        if kind is FaultKind.EXCEPTION:
            return cls(kind, code=int(argument or str(DEVICE_FAILURE), 0))
        if kind is FaultKind.STATUS:
            return cls(kind, code=int(argument or str(SERVICE_UNAVAILABLE)))
        if argument:
            raise ValueError(f"the fault {word} takes no argument: leave {argument!r} out")
        return cls(kind)

    def check_transport(self, transport: str) -> None:
        """Raise ValueError where `transport` has nothing for this fault to spoil."""
        if self.kind not in _FITTING[transport]:
            raise ValueError(f"the fault {self.kind.value} does not exist on {transport}")
