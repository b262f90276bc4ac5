"""Rows of one layout become rows of another by the names of their fields."""

from __future__ import annotations

import struct

import pytest

from meshd.errors import LayoutError
from meshd.kernel.conversion import conversion
from meshd.kernel.layout import Field, Layout, Number, Octets, Record

U64, U32, U16 = Number("__u64", 8, False), Number("__u32", 4, False), Number("__u16", 2, False)
BE16 = Number("__be16", 2, False, big_endian=True)


def record(*fields: tuple[str, Layout | None, int]) -> Record:
    made, at = [], 0
    for name, layout, size in fields:
        made.append(Field(name, at, size, layout))
        at += size
    return Record("row", at, tuple(made))


def test_fields_find_their_new_places_by_name_new_ones_are_zero_and_old_ones_are_gone() -> None:
    before = record(("seen", U64, 8), ("flags", U32, 4), ("gone", U32, 4))
    after = record(("new", U64, 8), ("flags", U32, 4), ("pad", None, 4), ("seen", U64, 8))
    rows = b"".join(struct.pack("=QII", n, n + 1, 99) for n in range(1000))
    wanted = b"".join(struct.pack("=QI4xQ", 0, n + 1, n) for n in range(1000))
    found = conversion("row", before, after)
    assert found.convert(rows, 1000) == wanted
    assert found.missing == {"row.gone", "row.new"}


@pytest.mark.parametrize("shift", [0, 1, 2, 4, 8])
def test_any_alignment_gives_the_same_bytes(shift: int) -> None:
    inner = record(("address", Octets(16, text=False), 16), ("port", BE16, 2), ("pad", None, 2))
    before = record(("ends", inner, inner.size), ("count", U16, 2))
    after = record(
        ("padding", Octets(shift, text=False), shift), ("count", U16, 2), ("ends", inner, inner.size)
    )
    rows = bytes(n % 251 for n in range(before.size * 50))
    made = conversion("row", before, after).convert(rows, 50)
    for n in range(50):
        old, new = rows[n * before.size :], made[n * after.size :]
        assert new[shift : shift + 2] == old[20:22]
        assert new[shift + 2 : shift + 20] == old[:18]
        assert not any(new[:shift])


def test_the_padding_of_the_old_layout_is_not_taken_over() -> None:
    before = record(("flags", U32, 4), ("pad", None, 4))
    made = conversion("row", before, record(("flags", U32, 4), ("fresh", U32, 4)))
    assert made.convert(struct.pack("=II", 1, 0xFFFFFFFF), 1) == struct.pack("=II", 1, 0)


@pytest.mark.parametrize("other", [U16, Number("__s32", 4, True), Octets(4, text=False)])
def test_a_field_of_another_kind_is_refused(other: Layout) -> None:
    with pytest.raises(LayoutError, match=r"row\.flags"):
        conversion("row", record(("flags", U32, 4)), record(("flags", other, other.size)))
