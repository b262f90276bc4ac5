"""The layout of a C type as far as bytes and names go: what codecs are made from and what schema hashes are
taken over."""

from __future__ import annotations

from dataclasses import dataclass

from meshd.errors import LayoutError
from meshd.kernel.btf_types import BtfType, Kind, Member, resolve

# Kernel-owned fields: user space writes zeros and never reads them.
_OPAQUE = {"bpf_spin_lock", "bpf_timer", "bpf_refcount", "bpf_list_head", "bpf_rb_root", "bpf_wq"}


@dataclass(frozen=True, slots=True)
class Number:
    """An integer; ``big_endian`` where C says __be16, __be32 or __be64."""

    c_name: str
    size: int
    signed: bool
    big_endian: bool = False
    boolean: bool = False
    enum: bool = False


@dataclass(frozen=True, slots=True)
class Octets:
    """An array of bytes; ``text`` where C says char, which is NUL-padded."""

    size: int
    text: bool


@dataclass(frozen=True, slots=True)
class Sequence:
    """An array of anything wider than a byte."""

    element: Layout
    count: int

    @property
    def size(self) -> int:
        """In bytes."""
        return self.element.size * self.count


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a struct; padding and the kernel's own fields have no layout, only a ``size``."""

    name: str
    offset: int
    size: int
    layout: Layout | None


@dataclass(frozen=True, slots=True)
class Record:
    """A struct without holes: every byte belongs to a field or to a field named pad*."""

    name: str
    size: int
    fields: tuple[Field, ...]


Layout = Number | Octets | Sequence | Record


def layout_of(types: tuple[BtfType, ...], type_id: int) -> Layout:
    """The layout of one BTF type.

    Raises:
        LayoutError: the type has a union, pointer, bit field or unnamed hole, which no map of ours may have.
    """
    found, typedefs = resolve(types, type_id)
    match found.kind:
        case Kind.INT:
            names = (*typedefs, found.name)
            big_endian = any(name in {"__be16", "__be32", "__be64"} for name in names)
            return Number(names[0], found.size, found.signed, big_endian, found.boolean)
        case Kind.ENUM | Kind.ENUM64:
            return Number(f"enum {found.name}", found.size, found.signed, enum=True)
        case Kind.ARRAY:
            return _array(types, found)
        case Kind.STRUCT:
            return _record(types, found)
    raise LayoutError(
        found.name or found.kind.name, f"a {found.kind.name.lower()} cannot be a map's key or value"
    )


def _array(types: tuple[BtfType, ...], array: BtfType) -> Layout:
    element = layout_of(types, array.refers_to)
    if isinstance(element, Number) and element.size == 1 and not element.boolean and not element.enum:
        return Octets(array.count, text=element.c_name == "char")
    return Sequence(element, array.count)


def _record(types: tuple[BtfType, ...], record: BtfType) -> Record:
    fields, end = [], 0
    for member in record.members:
        field = _field(types, record.name, member)
        if field.offset != end:
            raise LayoutError(
                f"struct {record.name}",
                f"{field.offset - end} unnamed bytes before {field.name}: name them pad",
            )
        fields.append(field)
        end = field.offset + field.size
    if end != record.size:
        raise LayoutError(
            f"struct {record.name}", f"{record.size - end} unnamed bytes at its end: name them pad"
        )
    return Record(record.name, record.size, tuple(fields))


def _field(types: tuple[BtfType, ...], record_name: str, member: Member) -> Field:
    if member.bitfield or not member.name:
        raise LayoutError(
            f"struct {record_name}", "has a bit field or an unnamed member, which maps must not have"
        )
    offset = member.bit_offset // 8
    found, _ = resolve(types, member.type_id)
    if found.kind is Kind.STRUCT and found.name in _OPAQUE:
        return Field(member.name, offset, found.size, None)
    layout = layout_of(types, member.type_id)
    if member.name.startswith("pad"):
        return Field(member.name, offset, layout.size, None)
    return Field(member.name, offset, layout.size, layout)


def canonical(layout: Layout | None) -> str:
    """A text that is equal exactly for layouts that hold the same fields in the same bytes.

    The name of a struct is no part of it, the names of its fields are: swapping two equal ones changes the
    meaning.
    """
    match layout:
        case None:
            return "none"
        case Number():
            order = "be" if layout.big_endian else "host"
            return f"{'s' if layout.signed else 'u'}{layout.size * 8}{order}"
        case Octets():
            return f"{'char' if layout.text else 'byte'}[{layout.size}]"
        case Sequence():
            return f"{canonical(layout.element)}[{layout.count}]"
        case Record():
            inner = ",".join(f"{f.name}@{f.offset}+{f.size}:{canonical(f.layout)}" for f in layout.fields)
            return f"{layout.size}{{{inner}}}"
