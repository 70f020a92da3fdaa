"""The errors of the project, classed by what the caller should do.

    DlmError
    ├── Faulty          a document does not fit; becomes one of the next two (config, registry)
    ├── ConfigError     stop before any I/O; list every fault         (app, command line)
    ├── RequestError    answer the API's one failure shape            (api)
    ├── StateError      the state folder fails us: a change is refused (api: 507),
    │                   or the start                                  (command line)
    ├── MeterError      this meter backs off, the line goes on        (line, cycle)
    │   ├── NoReply     it stayed silent until the deadline
    │   ├── BadReply    it answered what cannot be trusted
    │   └── Refused     it answered with a Modbus exception or HTTP status
    ├── LineError       the wire is gone; all its meters show it      (line)
    ├── JournalError    keep measuring, count what is lost            (journal, api)
    ├── SinkRetry       keep the batch, send it again                 (uplink)
    └── SinkForbidden   keep everything, until who we are is right    (uplink)

Library exceptions are translated where the library is called and nowhere else. Any exception
outside this tree is a bug: it ends the process with its traceback. The text of each error is one
sentence that a person can act on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class DlmError(Exception):
    """Base of every error that the project raises on purpose."""


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a document: where it stands, what is wrong and what to do."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class Faulty(DlmError):
    """A document that does not fit its class; `faults` lists all that is wrong with it."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(str(fault) for fault in self.faults))


class ConfigError(DlmError):
    """The configuration cannot be used; `faults` lists all that is wrong with it.

    source: the file that all of them stand in; empty where each fault's path names its own.
    """

    def __init__(self, source: str, faults: Sequence[Fault]) -> None:
        self.source = source
        self.faults = tuple(faults)
        lead = f"{source}: " if source else ""
        super().__init__("\n".join(f"{lead}{fault}" for fault in self.faults))


class RequestError(DlmError):
    """A request that is answered with the API's failure shape.

    status: HTTP status. code: SNAKE_CASE word for programs. faults: every fault of the request.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        faults: Sequence[Fault] = (),
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.status = status
        self.code = code
        self.faults = tuple(faults)
        self.headers = tuple(headers)
        super().__init__(message)


class StateError(DlmError):
    """The state cannot be read or stored; the text says what holds now and what to do."""


class Cause(str, Enum):
    """Why a meter could not be read, for who explains it: the value is its word in answers."""

    NAME_NOT_RESOLVED = "name_not_resolved"
    NO_ROUTE = "no_route"
    NOT_ALLOWED = "not_allowed"
    """Meters may not be at its address: the configuration says where they may be."""
    CONNECTION_REFUSED = "connection_refused"
    NOT_REACHED = "not_reached"
    """Nothing answered the attempt to connect."""
    CONNECTION_LOST = "connection_lost"
    NO_SERIAL_PORT = "no_serial_port"
    SERIAL_PORT_UNUSABLE = "serial_port_unusable"
    SILENT = "silent"
    """Connected, but no answer."""
    WRONG_UNIT_ID = "wrong_unit_id"
    ILLEGAL_FUNCTION = "illegal_function"
    ILLEGAL_ADDRESS = "illegal_address"
    DEVICE_EXCEPTION = "device_exception"
    """Another Modbus exception than those."""
    UNREADABLE = "unreadable"
    NO_VALUE = "no_value"
    """It answers, and says itself that it has no value."""
    TOPIC_NOT_HEARD = "topic_not_heard"
    ONLY_RETAINED = "only_retained"
    SAID_OFFLINE = "said_offline"
    TLS = "tls"
    NOT_AUTHORISED = "not_authorised"
    HTTP_STATUS = "http_status"
    TOO_MANY_REQUESTS = "too_many_requests"
    WRONG_VALUES = "wrong_values"
    """All was read, but it cannot be true."""
    NONE = "none"
    """Nothing is wrong."""


class MeterError(DlmError):
    """This meter could not be read; the line goes on. cause: why, in one word."""

    cause = Cause.UNREADABLE

    def __init__(self, message: str, cause: Cause | None = None) -> None:
        self.cause = cause or self.cause
        super().__init__(message)


class NoReply(MeterError):
    """Nothing that belongs to the request came before its deadline."""

    cause = Cause.SILENT


class BadReply(MeterError):
    """A reply came that cannot be used: garbage, cut short, or to another question."""


class Refused(MeterError):
    """The device answered that it will not: a Modbus exception or an HTTP status, `code`.

    retry_after_s: how long it asks to be left alone.
    """

    cause = Cause.DEVICE_EXCEPTION

    def __init__(
        self, code: int, message: str, cause: Cause | None = None, retry_after_s: float = 0.0
    ) -> None:
        self.code = code
        self.retry_after_s = retry_after_s
        super().__init__(message, cause)


class LineError(DlmError):
    """The wire, gateway, broker or host is gone: nothing on this line can be read now."""

    def __init__(self, message: str, cause: Cause = Cause.NOT_REACHED) -> None:
        self.cause = cause
        super().__init__(message)


class JournalError(DlmError):
    """The journal could not be written or read: count it, and keep measuring."""


class SinkRetry(DlmError):
    """A sink cannot take anything now: keep the batch and send it again.

    after_s: how long it asks to be left alone; 0 when it does not say.
    """

    def __init__(self, message: str, after_s: float = 0.0) -> None:
        self.after_s = after_s
        super().__init__(message)


class SinkForbidden(DlmError):
    """A sink does not accept who we are: keep everything, and say so until it is put right."""
