"""JSON as Go's encoding/json writes it, so that our records compare equal, byte for byte, with those of
other exporters.

Compact, fields in declared order, maps sorted by key, and the characters HTML could trip over escaped.
"""

from __future__ import annotations

import msgspec

_ESCAPES = (
    (b"&", b"\\u0026"),
    (b"<", b"\\u003c"),
    (b">", b"\\u003e"),
    ("\u2028".encode(), b"\\u2028"),
    ("\u2029".encode(), b"\\u2029"),
)
_encoder = msgspec.json.Encoder(order="deterministic")


def encode(record: msgspec.Struct) -> bytes:
    """``record`` as Go would write the struct with the same fields in the same order."""
    text = _encoder.encode(record)
    # None of these characters is JSON syntax, so wherever they occur they are inside a string.
    for character, escape in _ESCAPES:
        if character in text:
            text = text.replace(character, escape)
    return text
