"""The stack of each program's deepest chain of calls, as the strictest verifier counts it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from meshd.kernel.object import PACKAGED

# kernel/bpf/verifier.c of Linux 6.1, check_max_stack_depth: each function's share is rounded up, also where it has none.
LIMIT_BYTES, STEP_BYTES = 512, 32
# ELF-64: section types, and what symbols are.
RELOCATIONS, SYMBOLS, FUNCTION, SECTION = 9, 2, 2, 3
FRAME_POINTER = 10
LOAD_MEMORY, STORES, MOVE, ADD, CALL, OF_OURS = 1, (2, 3), 0xBF, 0x07, 0x85, 1


class Object:
    """Functions of an object file: how much stack each uses itself, and whom it calls."""

    def __init__(self, path: Path) -> None:
        self._data = path.read_bytes()
        (start,) = struct.unpack_from("<Q", self._data, 0x28)
        size, count, _ = struct.unpack_from("<HHH", self._data, 0x3A)
        self._sections = [
            struct.unpack_from("<IIQQQQIIQQ", self._data, start + i * size) for i in range(count)
        ]
        self._symbols = list(self._read_symbols())
        self._names = {(each[2], each[3]): each[0] for each in self._symbols if each[1] & 15 == FUNCTION}
        self._relocated = dict(self._read_relocations())
        self.uses: dict[str, int] = {}
        self.calls: dict[str, set[str]] = {}
        for name, info, section, value, length in self._symbols:
            if info & 15 == FUNCTION:
                self._read_function(name, section, value, length)

    def depth(self, name: str) -> int:
        """Of ``name`` and all below it, in bytes."""
        own = -(-max(self.uses[name], 1) // STEP_BYTES) * STEP_BYTES
        return own + max((self.depth(each) for each in self.calls[name]), default=0)

    def _read_symbols(self) -> Iterator[tuple[str, int, int, int, int]]:
        table = next(each for each in self._sections if each[1] == SYMBOLS)
        texts = self._sections[table[6]][4]
        for at in range(table[4], table[4] + table[5], 24):
            name, info, _, section, value, size = struct.unpack_from("<IBBHQQ", self._data, at)
            end = self._data.index(b"\0", texts + name)
            yield self._data[texts + name : end].decode(), info, section, value, size

    def _read_relocations(self) -> Iterator[tuple[tuple[int, int], int]]:
        for each in self._sections:
            if each[1] == RELOCATIONS:
                for at in range(each[4], each[4] + each[5], 16):
                    offset, info = struct.unpack_from("<QQ", self._data, at)
                    yield (each[7], offset), info >> 32

    def _read_function(self, name: str, section: int, value: int, length: int) -> None:
        base, used, before = self._sections[section][4] + value, 0, (0, 0, 0, 0)
        called: set[str] = set()
        for at in range(0, length, 8):
            code, registers, offset, number = struct.unpack_from("<BBhi", self._data, base + at)
            to, of = registers & 15, registers >> 4
            writes = code & 7 in STORES and to == FRAME_POINTER
            reads = code & 7 == LOAD_MEMORY and of == FRAME_POINTER
            if writes or reads:
                used = max(used, -offset)
            # An address on the stack: the frame pointer, and something less.
            if code == ADD and before[0] == MOVE and before[1] == FRAME_POINTER << 4 | to:
                used = max(used, -number)
            if code == CALL and of == OF_OURS:
                callee = self._callee(section, value + at, number)
                # What is in no section is a function of the kernel.
                called |= {self._names[callee]} if callee[0] else set()
            before = (code, registers, offset, number)
        self.uses[name], self.calls[name] = used, called

    def _callee(self, section: int, at: int, number: int) -> tuple[int, int]:
        symbol = self._relocated.get((section, at))
        if symbol is None:
            return section, at + 8 * (number + 1)
        _, info, where, value, _ = self._symbols[symbol]
        return (where, 8 * (number + 1)) if info & 15 == SECTION else (where, value)


def test_the_deepest_chain_of_calls_fits_the_stack_on_every_kernel() -> None:
    found = Object(PACKAGED)
    depths = {name: found.depth(name) for name in found.uses}
    assert max(depths.values()) > LIMIT_BYTES // 2
    assert {name: depth for name, depth in depths.items() if depth > LIMIT_BYTES} == {}
