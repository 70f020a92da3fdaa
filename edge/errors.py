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
    │   └── Refused     it answered with a Modbus exception
    └── LineError       the wire is gone; all its meters show it      (line)

Library exceptions are translated where the library is called and nowhere else. Any exception
outside this tree is a bug: it ends the process with its traceback. The text of each error is one
sentence that a person can act on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


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


class MeterError(DlmError):
    """This meter could not be read; `result` is the word that counters use for it."""

    result = "bad_reply"


class NoReply(MeterError):
    """Nothing that belongs to the request came before its deadline."""

    result = "no_reply"


class BadReply(MeterError):
    """A reply came that cannot be trusted: garbage, cut short, or to another question."""

    result = "bad_reply"


class Refused(MeterError):
    """The device answered with a Modbus exception `code`, usually for a wrong address."""

    result = "refused"

    def __init__(self, code: int, message: str) -> None:
        self.code = code
        super().__init__(message)


class LineError(DlmError):
    """The wire, gateway or host is gone: nothing on this line can be read now."""

    result = "line_error"
