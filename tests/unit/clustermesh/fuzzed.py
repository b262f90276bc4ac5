"""Tries to break one decoder, led by which of its lines a value reaches; a program, because libFuzzer ends the process.

    python -m tests.unit.clustermesh.fuzzed DECODER [libFuzzer's options and directories]

Status 0: every value was a record or refused; 77: one was neither, its traceback and the value are shown.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import atheris

with atheris.instrument_imports(include=["clustermesh"]):
    from clustermesh.compression import compress
    from tests.unit.clustermesh.decoders import DECODERS, attempt, endpoint_slice

CONTROL = "control"


def weak(value: bytes) -> None:
    """A decoder with a fault behind four bytes that have to be right one after the other: chance does not find it."""
    if value[:1] == b"m" and value[1:2] == b"e" and value[2:3] == b"s" and value[3:4] == b"h":
        raise IndexError("found")


def unpacked(value: bytes) -> object:
    """Of a slice before it is packed, where libFuzzer's changes mean something."""
    return endpoint_slice(compress(value))


def main(arguments: list[str]) -> None:
    program, name, *options = arguments
    decoders: dict[str, Callable[[bytes], object]] = {**DECODERS, "unpacked slice": unpacked}
    decode = atheris.instrument_func(weak) if name == CONTROL else decoders[name]
    atheris.Setup([program, *options], lambda value: attempt(decode, value))
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)
