"""How rows of one layout become rows of another: field by field, by name, thousands at a time.

A field that only the new layout has is zero, one that only the old one had is left out. What a field means is its name's
affair: a build that changes the meaning changes the name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from meshd.errors import LayoutError
from meshd.kernel.layout import Layout, Record, canonical

# Bytes that are moved at once, and how a memoryview calls them.
STEPS: tuple[tuple[int, Literal["Q", "I", "H", "B"]], ...] = ((8, "Q"), (4, "I"), (2, "H"), (1, "B"))


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes that are the same in both, and where."""

    before: int
    after: int
    size: int


@dataclass(frozen=True, slots=True)
class Conversion:
    """From rows of ``size_before`` bytes to rows of ``size_after``. ``missing``: names of fields that only one has."""

    size_before: int
    size_after: int
    pieces: tuple[Piece, ...]
    missing: frozenset[str]

    def convert(self, rows: bytes, count: int) -> bytes:
        """``count`` rows, one after the other, in the new layout."""
        made = bytearray(count * self.size_after)
        for piece in self.pieces:
            # Column by column, over all rows at once, in the widest step that fits: nothing is done per row.
            step, letter = self._step(piece)
            source, target = memoryview(rows).cast(letter), memoryview(made).cast(letter)
            for at in range(0, piece.size, step):
                before, after = (piece.before + at) // step, (piece.after + at) // step
                target[after :: self.size_after // step] = source[before :: self.size_before // step]
        return bytes(made)

    def _step(self, piece: Piece) -> tuple[int, Literal["Q", "I", "H", "B"]]:
        numbers = (piece.before, piece.after, piece.size, self.size_before, self.size_after)
        return next((step, letter) for step, letter in STEPS if not any(number % step for number in numbers))


def conversion(name: str, before: Layout, after: Layout) -> Conversion:
    """The conversion from ``before`` to ``after``, two layouts of ``name``.

    Raises:
        LayoutError: a field of that name is of another kind or size in the other.
    """
    missing: set[str] = set()
    pieces = list(_pieces(name, before, after, 0, 0, missing))
    return Conversion(before.size, after.size, tuple(_joined(pieces)), frozenset(missing))


def _pieces(
    path: str, before: Layout, after: Layout, before_at: int, after_at: int, missing: set[str]
) -> Iterator[Piece]:
    if not (isinstance(before, Record) and isinstance(after, Record)):
        if canonical(before) != canonical(after):
            raise LayoutError(path, f"was {canonical(before)} and is {canonical(after)}")
        yield Piece(before_at, after_at, after.size)
        return
    # Fields without a layout are padding and the kernel's own.
    had = {field.name: field for field in before.fields if field.layout is not None}
    has = {field.name: field for field in after.fields if field.layout is not None}
    missing |= {f"{path}.{field}" for field in had.keys() ^ has.keys()}
    for name, new in has.items():
        old = had.get(name)
        if old is None or old.layout is None or new.layout is None:
            continue
        places = before_at + old.offset, after_at + new.offset
        yield from _pieces(f"{path}.{name}", old.layout, new.layout, *places, missing)


def _joined(pieces: list[Piece]) -> Iterator[Piece]:
    """Neighbours in both layouts as one."""
    last: Piece | None = None
    for piece in pieces:
        if last and (last.before + last.size, last.after + last.size) == (piece.before, piece.after):
            last = Piece(last.before, last.after, last.size + piece.size)
            continue
        if last:
            yield last
        last = piece
    if last:
        yield last
