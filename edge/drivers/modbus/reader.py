"""One Modbus meter's requests, and what its replies come to: pure, learns what is not there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from edge.communication import ModbusCommunication, RawWords, ReadRequest, Register
from edge.decode import combine, decode_values, pack, raw_words, split
from edge.errors import BadReply

_WORD = "@"
"""Starts the name of a register that is no quantity: an exponent, or a word to be checked."""


class ModbusReader:
    """What is asked of one meter, and what is made of the replies. Line thread only.

    registers: where its quantities are. expected: address → word, of holding registers that must
    be so in every poll, or the device's map is not what it was.
    """

    def __init__(
        self,
        communication: ModbusCommunication,
        registers: Sequence[Register],
        expected: Mapping[int, int],
    ) -> None:
        self._communication = communication
        self._wanted = frozenset(register.quantity for register in registers)
        self._expected = expected
        places = {(r.function, r.exponent) for r in registers if r.exponent is not None}
        places |= {(3, address) for address in expected}
        words = [Register(f"{_WORD}{at}", function, (at,), "uint") for function, at in places]
        self.requests = pack(
            [*registers, *words],
            communication.unit_id,
            communication.max_registers_per_request,
            communication.max_gap,
        )

    def split(self, request: ReadRequest) -> tuple[ReadRequest, ...]:
        """Take a refused request apart; empty when it holds a single value already.

        The parts replace it in `requests`, so that the next poll asks for them at once.
        """
        parts = split(request, self._communication.max_registers_per_request)
        if parts:
            at = self.requests.index(request)
            self.requests = self.requests[:at] + parts + self.requests[at + 1 :]
        return parts

    def decode(
        self, replies: Iterable[tuple[ReadRequest, Sequence[int]]]
    ) -> tuple[dict[str, float], RawWords]:
        """Decode all blocks that could be read: quantity → value in its unit, and raw words.

        Raises BadReply when a word that is expected is another one.
        """
        raw: dict[str, tuple[Register, tuple[int, ...]]] = {}
        for request, words in replies:
            raw.update(raw_words(request, words))
        alone = {name: raw.pop(name) for name in list(raw) if name.startswith(_WORD)}
        at = {register.start: words[0] for register, words in alone.values()}
        for address, word in self._expected.items():
            if at.get(address, word) != word:
                raise BadReply(
                    f"Register {address} holds {at[address]} where it held {word} before: the "
                    "device's register map has changed and is searched anew at the next poll."
                )
        values = combine(decode_values(raw, at), self._wanted, invert=self._communication.invert)
        # Without its exponent a word says nothing to who looks for a wrong type or scale.
        return values, {name: raw[name] for name in raw if raw[name][0].exponent is None}
