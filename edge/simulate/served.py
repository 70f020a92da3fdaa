"""What the simulated sites have in common, whichever way their meters are reached."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, TypeVar

from edge.simulate.fault import Fault

S = TypeVar("S", bound="ServedSite")


class ServedSite(ABC):
    """A site's meters, served by background threads between start() and stop().

    Meters are numbered from 1. A context manager, for one thread.
    """

    @property
    @abstractmethod
    def registrations(self) -> list[dict[str, Any]]:
        """The body to POST for each meter, once the site is started."""

    @abstractmethod
    def set_fault(self, number: int, fault: Fault) -> None:
        """Switch a fault on for meter `number`; `refuse` is for the whole endpoint it is behind.

        Raises ValueError for a number or fault that there is none of.
        """

    @abstractmethod
    def start(self: S) -> S:
        """Serve; returns when every meter can be reached. Raises OSError when one cannot be."""

    @abstractmethod
    def stop(self) -> None:
        """Close everything and wait for the threads to end; also when it does not run."""

    def __enter__(self: S) -> S:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @staticmethod
    def _check_number(number: int, count: int) -> None:
        if not 1 <= number <= count:
            raise ValueError(f"there is no meter {number}: use 1 to {count}")
