"""Reads BTF, the type information inside a BPF object, into plain values.

Format: Documentation/bpf/btf.rst of the kernel. Only what layouts, enums, globals and map definitions need is
kept.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from meshd.errors import LayoutError

_MAGIC = 0xEB9F
_HEADER = struct.Struct("=HBBIIIII")
_TYPE = struct.Struct("=III")


class Kind(IntEnum):
    """BTF_KIND_*"""

    VOID = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


# Kinds that only qualify or rename the type they refer to.
_TRANSPARENT = {Kind.TYPEDEF, Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.TYPE_TAG}


@dataclass(frozen=True, slots=True)
class Member:
    """One field of a struct or union; for a section of globals one variable, with its place in bytes * 8."""

    name: str
    type_id: int
    bit_offset: int
    bitfield: bool = False


@dataclass(frozen=True, slots=True)
class BtfType:
    """One BTF type. ``refers_to`` is the type id of what a pointer, typedef, array, variable ... is of."""

    kind: Kind
    name: str
    size: int = 0
    refers_to: int = 0
    members: tuple[Member, ...] = ()
    enumerators: tuple[tuple[str, int], ...] = ()
    count: int = 0
    signed: bool = False
    boolean: bool = False


VOID = BtfType(Kind.VOID, "void")


def parse(data: bytes) -> tuple[BtfType, ...]:
    """All types of one BTF blob, indexed by type id (0 is void).

    Raises:
        LayoutError: the blob is not BTF of this machine's byte order, or is cut short.
    """
    try:
        magic, _version, _flags, header_size, type_at, type_size, string_at, string_size = (
            _HEADER.unpack_from(data)
        )
        if magic != _MAGIC:
            raise LayoutError(
                "BTF", f"magic is {magic:#x}, expected {_MAGIC:#x} in this machine's byte order"
            )
        strings = data[header_size + string_at : header_size + string_at + string_size]
        reader = _Reader(data, header_size + type_at, header_size + type_at + type_size, strings)
        return (VOID, *reader.types())
    except (struct.error, ValueError) as error:
        raise LayoutError("BTF", f"cut short or damaged: {error}") from error


def resolve(types: tuple[BtfType, ...], type_id: int) -> tuple[BtfType, tuple[str, ...]]:
    """The type behind qualifiers and typedefs, and the typedef names passed on the way."""
    names = []
    while types[type_id].kind in _TRANSPARENT:
        if types[type_id].kind is Kind.TYPEDEF:
            names.append(types[type_id].name)
        type_id = types[type_id].refers_to
    return types[type_id], tuple(names)


class _Reader:
    """A cursor over the type section; each kind says how much follows its common part."""

    def __init__(self, data: bytes, start: int, end: int, strings: bytes) -> None:
        self._data, self._at, self._end, self._strings = data, start, end, strings

    def types(self) -> list[BtfType]:
        found = []
        while self._at < self._end:
            found.append(self._next())
        return found

    def _take(self, layout: str) -> tuple[int, ...]:
        values = struct.unpack_from("=" + layout, self._data, self._at)
        self._at += struct.calcsize("=" + layout)
        return values

    def _name(self, offset: int) -> str:
        return self._strings[offset : self._strings.index(b"\0", offset)].decode()

    def _next(self) -> BtfType:
        name_at, info, size_or_type = _TYPE.unpack_from(self._data, self._at)
        self._at += _TYPE.size
        kind, count, flag = Kind(info >> 24 & 0x1F), info & 0xFFFF, bool(info >> 31)
        name = self._name(name_at)
        match kind:
            case Kind.INT:
                (encoding,) = self._take("I")
                bits = encoding >> 24
                return BtfType(kind, name, size_or_type, signed=bool(bits & 1), boolean=bool(bits & 4))
            case Kind.ARRAY:
                element, _index, length = self._take("III")
                return BtfType(kind, name, refers_to=element, count=length)
            case Kind.STRUCT | Kind.UNION:
                members = tuple(self._member(flag) for _ in range(count))
                return BtfType(kind, name, size_or_type, members=members)
            case Kind.ENUM | Kind.ENUM64:
                pairs = tuple(self._enumerator(kind, flag) for _ in range(count))
                return BtfType(kind, name, size_or_type, enumerators=pairs, signed=flag)
            case Kind.DATASEC:
                return BtfType(
                    kind, name, size_or_type, members=tuple(self._variable() for _ in range(count))
                )
            case _:
                self._skip(kind, count)
                return BtfType(kind, name, refers_to=size_or_type)

    def _skip(self, kind: Kind, count: int) -> None:
        match kind:
            case Kind.FUNC_PROTO:
                self._at += 8 * count
            case Kind.VAR | Kind.DECL_TAG:
                self._at += 4

    def _member(self, bitfields: bool) -> Member:
        name_at, type_id, offset = self._take("III")
        if bitfields:
            return Member(self._name(name_at), type_id, offset & 0xFFFFFF, bitfield=offset >> 24 != 0)
        return Member(self._name(name_at), type_id, offset)

    def _enumerator(self, kind: Kind, signed: bool) -> tuple[str, int]:
        if kind is Kind.ENUM:
            name_at, value = self._take("Ii" if signed else "II")
            return self._name(name_at), value
        name_at, low, high = self._take("IIi" if signed else "III")
        return self._name(name_at), high << 32 | low

    def _variable(self) -> Member:
        type_id, offset, _size = self._take("III")
        return Member("", type_id, offset * 8)
