"""Modbus framing as a server sees it: requests out of bytes, replies into bytes.

Written apart from every Modbus library, so that the simulator is an independent witness.

TCP: an MBAP header (transaction id, protocol id 0, length of what follows, unit id), then the PDU.
RTU, on a wire or over TCP: unit id, PDU, CRC-16 with its low byte first. RTU has no length field:
a request's length follows from its function code, and a pause ends a frame that does not add up.
Source: MODBUS Messaging on TCP/IP Implementation Guide V1.0b, 3.1; MODBUS over Serial Line V1.02,
2.5.1 and 6.2.2.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

READ_HOLDING = 3
READ_INPUT = 4

_MBAP = struct.Struct(">HHHB")
_MAX_PDU = 253
_RTU_READ_LENGTH = 8
_FIXED_LENGTH_FUNCTIONS = range(1, 7)


class Request(NamedTuple):
    """One request. transaction_id: 0 on RTU, which has none."""

    transaction_id: int
    unit_id: int
    pdu: bytes


class FramingError(Exception):
    """These bytes are not Modbus; on TCP a server can only close the connection."""


def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ 0xA001 if value & 1 else value >> 1
        table.append(value)
    return tuple(table)


_CRC_TABLE = _crc_table()


def crc16(data: bytes | bytearray) -> bytes:
    """Give the CRC-16 of `data` as it goes on the wire, low byte first."""
    crc = 0xFFFF
    for byte in data:
        crc = (crc >> 8) ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc.to_bytes(2, "little")


def split_tcp(buffer: bytearray) -> list[Request]:
    """Take every whole request from the front of `buffer`; what is not yet whole stays in it.

    Raises FramingError for a header that cannot be Modbus.
    """
    requests = []
    while len(buffer) > _MBAP.size:
        transaction_id, protocol_id, length, unit_id = _MBAP.unpack_from(buffer)
        if protocol_id != 0 or not 2 <= length <= _MAX_PDU + 1:
            raise FramingError(f"MBAP header {bytes(buffer[: _MBAP.size]).hex()}")
        end = length + 6
        if len(buffer) < end:
            break
        requests.append(Request(transaction_id, unit_id, bytes(buffer[_MBAP.size : end])))
        del buffer[:end]
    return requests


def split_rtu(buffer: bytearray) -> list[Request]:
    """Take every whole request with a good CRC from the front of `buffer`.

    A request of a function whose length is not known here is whole when all of the buffer has a
    good CRC. The caller empties the buffer after a pause, so that noise does not stay in it.
    """
    requests = []
    while len(buffer) >= 4:
        fixed = buffer[1] in _FIXED_LENGTH_FUNCTIONS
        end = _RTU_READ_LENGTH if fixed else len(buffer)
        if len(buffer) < end or crc16(buffer[: end - 2]) != buffer[end - 2 : end]:
            break
        requests.append(Request(0, buffer[0], bytes(buffer[1 : end - 2])))
        del buffer[:end]
    return requests


def pack_tcp(request: Request, pdu: bytes) -> bytes:
    """Frame a reply to `request` for TCP."""
    return _MBAP.pack(request.transaction_id, 0, len(pdu) + 1, request.unit_id) + pdu


def pack_rtu(request: Request, pdu: bytes) -> bytes:
    """Frame a reply to `request` for RTU."""
    frame = bytes((request.unit_id,)) + pdu
    return frame + crc16(frame)
