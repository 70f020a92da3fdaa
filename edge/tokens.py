"""Tokens: who may use the API, kept as salted hashes in the state folder."""

from __future__ import annotations

from enum import Enum


class Role(str, Enum):
    """What a token permits."""

    READER = "reader"
    """To look."""
    ADMIN = "admin"
    """To change things, too."""
