"""zstd(protobuf), as endpoint slices are written: unpacked and looked through within bounds that the exporter cannot move.

A frame of a kilobyte may unpack to gigabytes, and a message of 16 MiB may consist of eight million parts of two bytes, each
of which becomes an object. So the size is known before anything is unpacked, and the parts are counted before any is built.
"""

from __future__ import annotations

from collections.abc import Mapping

import zstandard

from clustermesh.errors import InvalidRecord
from clustermesh.records import MAX_VALUE_BYTES

MAX_UNPACKED_BYTES = 16 << 20
"""What readers of Cilium unpack at most; no exporter of a slice comes near it."""
MAX_PARTS = 150_000
"""Fields of a message and of those inside it. A slice of Kubernetes' limit, 1000 endpoints, has some 15,000."""
COUNTED_BYTES = 256 << 10
"""Smaller messages are not looked through: what they can become is small, too."""

Nested = Mapping[int, "Nested"]
"""Field number -> the fields of the message in it that are messages again."""

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def compress(message: bytes) -> bytes:
    """``message`` as one frame that says how long it is, with a checksum, as Cilium's exporter writes it."""
    return zstandard.ZstdCompressor(write_checksum=True).compress(message)


def decompress(key: str, value: bytes) -> bytes:
    """What one frame unpacks to, at most MAX_UNPACKED_BYTES.

    Raises:
        InvalidRecord: larger, cut short, damaged, or not a frame; names ``key``.
    """
    if len(value) > MAX_VALUE_BYTES:
        raise InvalidRecord(
            key, "value", f"{len(value)} bytes, more than the {MAX_VALUE_BYTES} that are allowed"
        )
    try:
        said = zstandard.get_frame_parameters(value).content_size
        if zstandard.CONTENTSIZE_UNKNOWN != said > MAX_UNPACKED_BYTES:
            raise InvalidRecord(
                key, "value", f"unpacks to {said} bytes, more than the {MAX_UNPACKED_BYTES} that are allowed"
            )
        unpacker = zstandard.ZstdDecompressor(max_window_size=MAX_UNPACKED_BYTES)
        return unpacker.decompress(value, max_output_size=MAX_UNPACKED_BYTES, allow_extra_data=False)
    except zstandard.ZstdError as error:
        reason = f"is not one zstd frame of at most {MAX_UNPACKED_BYTES} bytes ({str(error)[:120]})"
        raise InvalidRecord(key, "value", reason) from error


def check_parts(key: str, message: bytes, nested: Nested) -> None:
    """InvalidRecord if ``message``, with the messages inside it that ``nested`` tells of, has more than MAX_PARTS fields.

    Of a large one that cannot be looked through, too: what the parser would step over, it could hide behind.
    """
    if len(message) <= COUNTED_BYTES:
        return
    try:
        count = _parts(message, 0, len(message), nested, MAX_PARTS)
    except (IndexError, ValueError) as error:
        raise InvalidRecord(key, "value", f"cannot be looked through ({error})") from error
    if count > MAX_PARTS:
        raise InvalidRecord(key, "value", f"has more than the {MAX_PARTS} fields that are allowed")


def _parts(message: bytes, at: int, end: int, nested: Nested, most: int) -> int:
    """How many fields there are from ``at`` to ``end``, or some number above ``most``."""
    count = 0
    while at < end and count <= most:
        count += 1
        tag, at = _varint(message, at)
        start, at = _body(message, at, tag & 7)
        if at > end:
            raise ValueError("a field ends behind its message")
        if tag & 7 == _LENGTH and tag >> 3 in nested:
            count += _parts(message, start, at, nested[tag >> 3], most - count)
    return count


def _body(message: bytes, at: int, kind: int) -> tuple[int, int]:
    """Where the content of a field begins and ends."""
    if kind == _LENGTH:
        length, at = _varint(message, at)
        return at, at + length
    if kind == _VARINT:
        return at, _varint(message, at)[1]
    if kind in (_FIXED64, _FIXED32):
        return at, at + (8 if kind == _FIXED64 else 4)
    raise ValueError("groups are in no message of ours")


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("no number is that long")
