"""Takes rows over from a map that an earlier build made with another layout, while that build's programs go on using it.

What the old map holds, the kernel itself knows: it keeps the types that a map was made with. So neither build has to know
the other, and a downgrade is no other case than an upgrade.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from meshd.errors import KernelError, LayoutError
from meshd.kernel._libbpf import ffi, lib
from meshd.kernel.btf import Btf, MapDefinition
from meshd.kernel.conversion import Conversion, conversion
from meshd.kernel.layout import Layout, Number, Record, Sequence
from meshd.kernel.maps import ANY, NOEXIST, Map, PartialWrite
from meshd.kernel.result import checked


@dataclass(frozen=True, slots=True)
class Copied:
    """Rows that are there now, those of them that were written, and those that the new map had no room for."""

    rows: Mapping[bytes, bytes]
    written: int
    refused: int


@dataclass(frozen=True, slots=True)
class Copying:
    """From one map into another; see `copying`."""

    key: Conversion
    value: Conversion

    def all_rows(self, former: Map, own: Map) -> Copied:
        """Every row of ``former`` is in ``own``, which no program uses yet.

        Raises:
            KernelError: a map cannot be read or written; what was written before stays.
        """
        rows = self._rows(former)
        return Copied(rows, *_written(own, rows, ANY))

    def changed_rows(self, former: Map, own: Map, before: Mapping[bytes, bytes]) -> Copied:
        """What was begun, changed or ended in ``former`` since it had the rows ``before``, which were copied, is so in
        ``own``. What changed in ``own`` stays as it is there, because the programs of that map are the newer ones.

        Raises:
            KernelError: as above.
        """
        rows, theirs = self._rows(former), dict(own.items())
        changed = {key: value for key, value in rows.items() if before.get(key) != value}
        begun = {key: value for key, value in changed.items() if key not in before and key not in theirs}
        other = {key: value for key, value in changed.items() if before.get(key) == theirs.get(key, b"")}
        # What ends in one map to go on in another one is there first.
        written, refused = _written(own, begun, NOEXIST)
        more_written, more_refused = _written(own, other, ANY)
        own.delete_batch(
            [key for key, value in before.items() if key not in rows and theirs.get(key) == value]
        )
        return Copied(rows, written + more_written, refused + more_refused)

    def _rows(self, former: Map) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        for keys, values, count in former.packed():
            found |= zip(
                _split(self.key.convert(keys, count), self.key.size_after),
                _split(self.value.convert(values, count), self.value.size_after),
                strict=True,
            )
        return found


def _split(rows: bytes, size: int) -> list[bytes]:
    return [rows[at : at + size] for at in range(0, len(rows), size)]


def copying(name: str, former: Map, definition: MapDefinition, btf: Btf) -> Copying:
    """How rows of ``former`` become those of the map ``definition`` of ``btf``, both called ``name``.

    Raises:
        LayoutError: they cannot: keys of other fields, a field of another kind, enumerators with other values.
        KernelError: the kernel does not tell what ``former`` holds.
    """
    before = types_of(former)
    _, key_type, value_type = former.info.types
    old_key, old_value = before.layout_at(key_type), before.layout_at(value_type)
    if definition.key is None or definition.value is None:
        raise LayoutError(f"map {name}", "has no keys and values")
    key = conversion(f"key of {name}", old_key, definition.key)
    if key.missing:
        # Rows that differ in such a field only would become one.
        raise LayoutError(f"map {name}", f"keys of another build have other fields: {min(key.missing)}")
    for old in {*_enums(old_key), *_enums(old_value)}:
        _require_same_numbers(old, before, btf)
    return Copying(key, conversion(f"value of {name}", old_value, definition.value))


def types_of(found: Map) -> Btf:
    """What the kernel knows of the types of a map.

    Raises:
        KernelError: nothing (ENOENT), or it may not be read.
    """
    number = found.info.types[0]
    if not number:
        raise KernelError("read types of", f"map {found.name}", errno.ENOENT, "it was made without")
    what, size = f"types of map {found.name}", ffi.new("__u32 *", 0)
    checked(lib.meshd_btf_data(number, ffi.NULL, size), "read", what)
    room = ffi.new("char[]", size[0])
    checked(lib.meshd_btf_data(number, room, size), "read", what)
    return Btf(bytes(ffi.buffer(room, size[0])))


def _written(own: Map, rows: dict[bytes, bytes], flags: int) -> tuple[int, int]:
    """Writes ``rows``; how many were written and how many refused. One that is there meanwhile is neither."""
    written = refused = 0
    while rows:
        try:
            own.update_batch(rows, flags)
        except PartialWrite as error:
            if error.errno not in {errno.EEXIST, errno.E2BIG, errno.ENOMEM}:
                raise
            written += error.done
            refused += error.errno != errno.EEXIST
            # Without those before it, and without the one that was refused.
            rows = dict(list(rows.items())[error.done + 1 :])
            continue
        return written + len(rows), refused
    return written, refused


def _enums(layout: Layout | None) -> Iterator[str]:
    match layout:
        case Number(enum=True):
            yield layout.c_name.removeprefix("enum ")
        case Sequence():
            yield from _enums(layout.element)
        case Record():
            for field in layout.fields:
                yield from _enums(field.layout)


def _require_same_numbers(name: str, before: Btf, after: Btf) -> None:
    if not after.has_enum(name):
        return
    new = after.enum(name)
    for enumerator, number in before.enum(name).items():
        if new.get(enumerator, number) != number:
            raise LayoutError(f"enum {name}", f"{enumerator} was {number} and is {new[enumerator]}")
