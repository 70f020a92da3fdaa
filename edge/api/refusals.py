"""Why a call may be refused: the code of every refusal, and which kinds of calls meet with it.

Whoever raises a refusal over HTTP has its code here; the description of the API is made of it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Refusal:
    """Why a call is not answered. headers: what tells more."""

    status: int
    about: str
    headers: tuple[str, ...] = ()


_RETRY = ("Retry-After",)

REFUSALS: dict[str, Refusal] = {
    "BAD_REQUEST": Refusal(400, "The request is not exactly HTTP/1.1."),
    "MALFORMED_JSON": Refusal(400, "The body is not valid JSON."),
    "VALIDATION_ERROR": Refusal(400, "`details` lists every fault of the request."),
    "UNAUTHORIZED": Refusal(
        401, "A token is needed, or this one is not known.", ("WWW-Authenticate",)
    ),
    "FORBIDDEN": Refusal(403, "The token permits to look, not to change."),
    "CSRF": Refusal(403, "A change by cookie lacks the header `X-CSRF-Token`."),
    "FOREIGN_HOST": Refusal(403, "The service is asked by a name that it is not known by."),
    "FOREIGN_ORIGIN": Refusal(403, "A web page from elsewhere asks."),
    "NOT_FOUND": Refusal(404, "There is nothing at this path."),
    "METER_NOT_FOUND": Refusal(404, "No meter has this id."),
    "TEMPLATE_NOT_FOUND": Refusal(404, "No template has this name."),
    "METHOD_NOT_ALLOWED": Refusal(405, "The path has other methods.", ("Allow",)),
    "REQUEST_TIMEOUT": Refusal(408, "The request did not arrive in time."),
    "DUPLICATE_NAME": Refusal(409, "Another meter has this name."),
    "TOO_MANY_METERS": Refusal(409, "There is no room for another meter."),
    "LENGTH_REQUIRED": Refusal(411, "A body needs a Content-Length."),
    "BODY_TOO_LARGE": Refusal(413, "The body is larger than 64 KiB."),
    "URI_TOO_LONG": Refusal(414, "The address is too long."),
    "UNSUPPORTED_MEDIA_TYPE": Refusal(415, "The body is not declared as JSON."),
    "EXPECTATION_FAILED": Refusal(417, "The only known `Expect` is `100-continue`."),
    "UPGRADE_REQUIRED": Refusal(426, "This path speaks WebSocket only.", ("Upgrade",)),
    "TOO_MANY_ATTEMPTS": Refusal(429, "Too many wrong tokens came from this address.", _RETRY),
    "HEADERS_TOO_LARGE": Refusal(431, "The headers are too many or too long."),
    "INTERNAL_ERROR": Refusal(500, "The service failed over this request, and restarts."),
    "TEMPLATE_FAULTY": Refusal(500, "A file of the device library cannot be used."),
    "NOT_READY": Refusal(503, "The service is starting."),
    "NOT_ALIVE": Refusal(503, "The control cycle stands still, so nothing is told."),
    "BUSY": Refusal(503, "Too many ask for this at once.", _RETRY),
    "JOURNAL_UNAVAILABLE": Refusal(503, "Nothing is recorded, or it cannot be read."),
    "PAGES_UNREADABLE": Refusal(503, "The files of the pages cannot be read."),
    "TOO_MANY_CLIENTS": Refusal(503, "The live view has no room for another client.", _RETRY),
    "TOO_MANY_CONNECTIONS": Refusal(503, "Too many clients are connected.", _RETRY),
    "HTTP_VERSION_NOT_SUPPORTED": Refusal(505, "This port speaks HTTP/1.1."),
    "NOT_STORED": Refusal(507, "The disk refuses the change; nothing was changed."),
}
"""Code → what it means, in order of status."""

OF_ANY_CALL = (
    "BAD_REQUEST", "FOREIGN_HOST", "REQUEST_TIMEOUT", "LENGTH_REQUIRED", "BODY_TOO_LARGE",
    "URI_TOO_LONG", "EXPECTATION_FAILED", "HEADERS_TOO_LARGE", "INTERNAL_ERROR",
    "TOO_MANY_CONNECTIONS", "HTTP_VERSION_NOT_SUPPORTED",
)  # fmt: skip
"""Refusals of the server itself."""
OF_A_QUERY = ("VALIDATION_ERROR",)
OF_A_CHANGE = ("FOREIGN_ORIGIN", "CSRF")
OF_A_BODY = ("MALFORMED_JSON", "VALIDATION_ERROR", "UNSUPPORTED_MEDIA_TYPE")
OF_A_CYCLE = ("NOT_READY", "NOT_ALIVE")
"""Of what tells of the snapshot."""
PROVING = ("UNAUTHORIZED", "TOO_MANY_ATTEMPTS", "BUSY")
"""Of what wants to know who asks."""
OF_AN_ADMIN = ("FORBIDDEN",)
STORING = ("NOT_STORED",)
OF_THE_PAST = ("BUSY", "JOURNAL_UNAVAILABLE")
"""Of what reads the journal."""
