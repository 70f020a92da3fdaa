"""What of a request must not be shown where a server repeats it: pure.

Source: RFC 7617 (Basic).
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Collection, Iterator
from urllib.parse import parse_qsl, unquote

from edge.communication import HttpCommunication
from edge.meterspec.secrets import is_secret_name, secrets_in_body

_HARMLESS_HEADERS = frozenset(
    {"accept", "accept-charset", "accept-encoding", "accept-language", "content-type", "user-agent"}
)
_SHORTEST = 4
_DISTINCT = 8
"""Characters from which on a word that stands within another is no chance."""
_LIKE_A_TOKEN = re.compile(r"(?=.*[0-9])\S{16,}")
_ESCAPE = re.compile(r"\\(?:u([0-9a-f]{4})|(.))")


def may_be_shown(communication: HttpCommunication, body: bytes) -> bool:
    """Whether a text of a server repeats nothing that may be secret."""
    hidden, doubtful = secrets(communication)
    return not repeats(body.decode("utf-8", "replace"), hidden | doubtful)


def secrets(communication: HttpCommunication) -> tuple[frozenset[str], frozenset[str]]:
    """Give the words of a request that a registration hides, and others that may be secret.

    The former are told by the names that they stand under, in headers and query. In a body such
    a name may stand for what is asked for, as in `{"key": "power"}`, which an answer repeats.
    """
    hidden: set[str] = set()
    doubtful: set[str] = set()
    for name, value in communication.headers:
        if is_secret_name(name):
            hidden.update(_words(name, value))
        elif name.lower() not in _HARMLESS_HEADERS:
            doubtful.update(_words(name, value))
    for name, value in parse_qsl(communication.target.partition("?")[2]):
        if is_secret_name(name) and len(value) >= _DISTINCT:
            hidden.add(value)
        elif is_secret_name(name) or _LIKE_A_TOKEN.fullmatch(value):  # `?key=power` is no secret
            doubtful.add(value)
    for value in _in_body(communication.body or b""):
        (hidden if _LIKE_A_TOKEN.fullmatch(value) else doubtful).update([value, *value.split()])
    return _long_enough(hidden), _long_enough(doubtful)


def _long_enough(words: Collection[str]) -> frozenset[str]:
    # A short number is in many an answer, as a value.
    return frozenset(
        word
        for word in words
        if len(word) >= _DISTINCT or (len(word) >= _SHORTEST and not word.isdigit())
    )


def _in_body(body: bytes) -> Iterator[str]:
    """What a body hides, be it JSON, a form, or another text."""
    text = body.decode("utf-8", "replace")
    try:
        document = json.loads(text)
    except ValueError:
        document = text
        yield from (value for name, value in parse_qsl(text) if is_secret_name(name))
    yield from secrets_in_body(document)


def _words(name: str, value: str) -> Iterator[str]:
    """The words of a header that may be told on their own, such as a password."""
    words = value.split()
    if name.lower() == "authorization" and len(words) > 1:
        scheme = words.pop(0)
        if scheme.lower() == "basic":
            yield from _basic_words(words[0])
    for word in words:
        yield word
        yield word.partition("=")[2].rstrip(";")  # of a cookie


def _basic_words(encoded: str) -> Iterator[str]:
    try:
        pair = base64.b64decode(encoded).decode("utf-8", "replace")
    except ValueError:
        return
    yield pair
    yield pair.partition(":")[2]


def repeats(text: str, words: Collection[str]) -> bool:
    """Whether a text holds one of the words, be it escaped as in JSON or as in a URL.

    A short word counts where it stands by itself only: 1234 is in many a number.
    """
    if not words:
        return False
    found = re.compile(
        "|".join(
            re.escape(word) if len(word) >= _DISTINCT else rf"(?<![\w.]){re.escape(word)}(?![\w.])"
            for word in map(str.casefold, words)
        )
    )
    text = text.replace("\0", "").casefold()  # UTF-16 has zeros between
    unescaped = _ESCAPE.sub(lambda match: chr(int(match[1], 16)) if match[1] else match[2], text)
    return any(
        found.search(form.casefold()) for raw in (text, unescaped) for form in (raw, unquote(raw))
    )
