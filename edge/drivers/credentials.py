"""What proves who a server is and who we are: secrets in files, and the ground for TLS.

Each protocol says in its own errors what that means for it.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from edge.errors import DlmError


class UnreadableError(DlmError):
    """A file with a secret cannot be read; one sentence."""


def read_secret(file: str, key: str) -> str:
    """Read a secret from a file, without the line breaks around it. Blocks for the disk.

    key: what the configuration calls the file. Raises UnreadableError.
    """
    try:
        return Path(file).read_text(encoding="utf-8").strip("\r\n")
    except (OSError, UnicodeDecodeError) as exc:
        words = exc.strerror if isinstance(exc, OSError) else "not UTF-8 text"
        raise UnreadableError(
            f"{key} {file} cannot be read ({words}); give a text file that this user may read."
        ) from exc


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """Make a context that verifies by the authorities in a file, or else by the system's.

    Raises OSError (ssl.SSLError is one) and ValueError where the file holds none.
    """
    context = ssl.create_default_context(cafile=ca_file)
    # What a site made for itself is seldom all that RFC 5280 wants; Python 3.13 would insist.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
