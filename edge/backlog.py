"""What of a gap is sent next: its points, in pieces of a size that a server takes in good time.

A gap is read as one, so that a block is decoded once, and each piece is taken from there.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing

from edge.errors import JournalError
from edge.journal.history import History
from edge.lineprotocol import points_of_chunk

SLOW_S = 0.5
"""A piece that takes longer is too large: live readings wait meanwhile."""
FEWEST = 100
LOOK_UP = 100_000
"""So many numbers of a gap are looked up at a time: retention may delete some meanwhile."""

Piece = tuple[list[bytes], int]
"""Points, and the number below which all of the gap was given with them."""


class Backlog:
    """Gives gaps piece by piece. One thread only.

    most: points of a piece, at most. open_history: gives the journal, to be closed here.
    """

    def __init__(self, most: int, open_history: Callable[[], History]) -> None:
        self._most = self._size = most
        self._open_history = open_history
        self._pieces: Generator[Piece, None, None] | None = None
        self._to_seq = 0

    def next_piece(self, from_seq: int, end_seq: int) -> Piece:
        """Give the next piece of the gap that is left. The journal is open from the first one on.

        Raises JournalError. A gap is to be given to its end, or dropped, before another.
        """
        if self._pieces is None:
            self._to_seq = min(end_seq, from_seq + LOOK_UP)
            self._pieces = self._pieces_of(from_seq, self._to_seq)
        try:
            points, done_seq = next(self._pieces)
        except JournalError:
            self.drop()
            raise
        if done_seq >= self._to_seq:
            self.drop()
        return points, done_seq

    def took(self, took_s: float) -> None:
        """Fit the size to the time that it took to send a piece."""
        if took_s > SLOW_S:
            self._size = max(min(FEWEST, self._size), self._size // 2)
        elif took_s < SLOW_S / 2:
            self._size = min(self._most, 2 * self._size)

    def drop(self) -> None:
        """Close the journal; begin anew with the next piece, where the gap then begins."""
        if self._pieces is not None:
            self._pieces.close()
            self._pieces = None

    def _pieces_of(self, from_seq: int, to_seq: int) -> Generator[Piece, None, None]:
        """A piece ends with a chunk where it can, since only then the number moves on."""
        points: list[bytes] = []
        done_seq = from_seq
        with closing(self._open_history()) as history:
            for chunk, given_seq in history.since(from_seq, to_seq):
                points += points_of_chunk(chunk)
                while len(points) > (size := self._size):
                    yield points[:size], done_seq
                    points = points[size:]
                if len(points) + len(chunk) > self._size:
                    yield points, given_seq
                    points, done_seq = [], given_seq
        yield points, to_seq
