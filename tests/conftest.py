"""What holds for every test."""

from __future__ import annotations

from hypothesis import settings

# A slow machine is no fault of the code, so no example has a deadline of its own.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
