"""Codecs between the bytes of a map and Python rows, made from the C layout: no format string is written by
hand.

A codec is compiled once into two straight-line Python functions (one struct.Struct call each), because 50,000
rows are packed in one go at start. Numbers are host order in Python whatever they are in C; bytes stay bytes.
"""

from __future__ import annotations

import socket
import struct
import sys
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Generic, TypeVar

from meshd.errors import InvalidObject, LayoutError
from meshd.kernel.layout import Layout, Number, Octets, Record, Sequence, canonical

Row = TypeVar("Row")

_LETTERS = {1: "B", 2: "H", 4: "I", 8: "Q"}


@dataclass(frozen=True, slots=True)
class Codec(Generic[Row]):
    """``encode`` turns a row into exactly ``size`` bytes, ``decode`` turns them back.

    ``encode`` raises InvalidObject naming the type, the field and the value that does not fit.
    """

    name: str
    size: int
    encode: Callable[[Row], bytes]
    decode: Callable[[bytes | memoryview], Row]
    layout: Layout

    def decode_many(self, data: bytes | memoryview) -> list[Row]:
        """The rows of a run of values without gaps, as in a ring buffer's arena."""
        view, size, decode = memoryview(data), self.size, self.decode
        return [decode(view[at : at + size]) for at in range(0, len(view), size)]

    def decode_cpus(self, data: bytes | memoryview) -> list[Row]:
        """The rows of one per-CPU value, one a possible CPU; the kernel rounds each up to 8 bytes."""
        view, step, decode = memoryview(data), (self.size + 7) // 8 * 8, self.decode
        return [decode(view[at : at + self.size]) for at in range(0, len(view), step)]

    def encode_cpus(self, rows: list[Row]) -> bytes:
        """The reverse of `decode_cpus`."""
        padding = bytes(-self.size % 8)
        return b"".join(self.encode(row) + padding for row in rows)


def make_codec(name: str, layout: Layout, row_type: type[Row]) -> Codec[Row]:
    """The codec of C type ``name`` for ``row_type``: a NamedTuple for a struct (matched by field name), int
    or an IntEnum for a number, bytes for an array of bytes, tuple for other arrays.

    Raises:
        LayoutError: field names or kinds differ; the sentence names both sides.
    """
    if isinstance(layout, Octets) and row_type is bytes:
        return _octets_codec(name, layout)
    program = _Program(name)
    pattern = program.bind(layout, row_type, name)
    fixed = struct.Struct("=" + program.format)
    if fixed.size != layout.size:
        raise LayoutError(name, f"is {layout.size} bytes in C and {fixed.size} in the codec")
    environment = program.environment | {
        "pack": fixed.pack,
        "unpack": fixed.unpack,
        "new": tuple.__new__,
        "refuse": lambda row, error: _refusal(name, layout, row, error),
    }
    checks = "".join(f"  if {check}: raise ValueError\n" for check in program.checks)
    source = (
        f"def encode(row):\n try:\n  {pattern} = row\n{checks}  return pack({', '.join(program.packed)})\n"
        f" except (TypeError, ValueError, OverflowError, error) as reason:\n"
        f"  raise refuse(row, reason) from None\n"
        f"def decode(data):\n t = unpack(data)\n return {program.built}\n"
    )
    environment["error"] = struct.error
    # The text is made of indices and locals only; no name of C or of a row gets into it.
    exec(compile(source, f"<codec of {name}>", "exec"), environment)  # noqa: S102
    return Codec(name, layout.size, environment["encode"], environment["decode"], layout)


def _octets_codec(name: str, layout: Octets) -> Codec[Any]:
    def encode(row: bytes) -> bytes:
        if len(row) != layout.size and not (layout.text and len(row) < layout.size):
            raise InvalidObject(name, "value", f"{len(row)} bytes, expected {layout.size}")
        return row.ljust(layout.size, b"\0")

    def decode(data: bytes | memoryview) -> bytes:
        return bytes(data).rstrip(b"\0") if layout.text else bytes(data)

    return Codec(name, layout.size, encode, decode, layout)


class _Program:
    """Collects, field by field, the format and the expressions of the two functions."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.format = ""
        self.packed: list[str] = []
        self.checks: list[str] = []
        self.environment: dict[str, Any] = {}
        self.built = ""
        self._values = 0

    def bind(self, layout: Layout, wanted: Any, path: str) -> str:
        """Adds ``layout``; the pattern that takes a row apart. ``self.built`` holds what puts it together."""
        wanted = getattr(wanted, "__supertype__", wanted)
        match layout:
            case Number():
                return self._number(layout, wanted, path)
            case Octets():
                return self._octets(layout, wanted, path)
            case Sequence():
                return self._sequence(layout, wanted, path)
            case Record():
                return self._record(layout, wanted, path)

    def _local(self) -> tuple[str, int]:
        index = self._values
        self._values += 1
        return f"v{index}", index

    def _number(self, layout: Number, wanted: Any, path: str) -> str:
        if not (isinstance(wanted, type) and issubclass(wanted, int)):
            raise LayoutError(path, f"is {layout.c_name} in C and {_shown(wanted)} in Python, expected int")
        local, index = self._local()
        letter = "?" if layout.boolean else _LETTERS[layout.size]
        self.format += letter.lower() if layout.signed else letter
        swap = self._swap(layout)
        self.packed.append(f"{swap}({local})" if swap else local)
        value = f"{swap}(t[{index}])" if swap else f"t[{index}]"
        if issubclass(wanted, IntEnum):
            members = self._bound({member.value: member for member in wanted}, "enum")
            # A value of a later build stays a plain number rather than making the row unreadable.
            value = f"{members}.get({value}, {value})"
        self.built = value
        return local

    def _swap(self, layout: Number) -> str | None:
        if not layout.big_endian or sys.byteorder == "big":
            return None
        swaps: dict[int, Callable[[int], int]] = {2: socket.htons, 4: socket.htonl, 8: _swap64}
        self.environment[f"swap{layout.size}"] = swaps[layout.size]
        return f"swap{layout.size}"

    def _octets(self, layout: Octets, wanted: Any, path: str) -> str:
        if wanted is not bytes:
            raise LayoutError(
                path, f"is {canonical(layout)} in C and {_shown(wanted)} in Python, expected bytes"
            )
        local, index = self._local()
        self.format += f"{layout.size}s"
        self.packed.append(local)
        # struct would cut or pad without a word.
        comparison = ">" if layout.text else "!="
        self.checks.append(f"len({local}) {comparison} {layout.size}")
        self.built = f't[{index}].rstrip(b"\\0")' if layout.text else f"t[{index}]"
        return local

    def _sequence(self, layout: Sequence, wanted: Any, path: str) -> str:
        arguments = typing.get_args(wanted)
        if typing.get_origin(wanted) is not tuple or not arguments:
            raise LayoutError(
                path, f"is an array of {layout.count} in C and {_shown(wanted)} in Python, expected tuple"
            )
        patterns, built = [], []
        for position in range(layout.count):
            patterns.append(self.bind(layout.element, arguments[0], f"{path}[{position}]"))
            built.append(self.built)
        self.built = f"({', '.join(built)},)"
        return f"({', '.join(patterns)},)"

    def _record(self, layout: Record, wanted: Any, path: str) -> str:
        names = tuple(field.name for field in layout.fields if field.layout is not None)
        hints = _row_fields(layout, wanted, names, path)
        patterns, built = {}, {}
        for field in layout.fields:
            if field.layout is None:
                self.format += f"{field.size}x"
                continue
            patterns[field.name] = self.bind(field.layout, hints[field.name], f"{path}.{field.name}")
            built[field.name] = self.built
        row_class = self._bound(wanted, "row")
        self.built = f"new({row_class}, ({', '.join(built[name] for name in hints)},))"
        return f"({', '.join(patterns[name] for name in hints)},)"

    def _bound(self, value: Any, kind: str) -> str:
        name = f"{kind}_{len(self.environment)}"
        self.environment[name] = value
        return name


def _row_fields(layout: Record, wanted: Any, names: tuple[str, ...], path: str) -> dict[str, Any]:
    """Field name -> annotation of the NamedTuple ``wanted``, in its own order."""
    fields = getattr(wanted, "_fields", None)
    if fields is None:
        raise LayoutError(
            path, f"is struct {layout.name} in C and {_shown(wanted)} in Python, expected a NamedTuple"
        )
    if set(fields) != set(names):
        raise LayoutError(
            path,
            f"struct {layout.name} has the fields {', '.join(names)} in C, "
            f"{wanted.__name__} has {', '.join(fields)} in Python",
        )
    hints = typing.get_type_hints(wanted)
    return {name: hints[name] for name in fields}


def _shown(wanted: Any) -> str:
    return (
        wanted.__name__
        if isinstance(wanted, type) and not isinstance(wanted, types.GenericAlias)
        else str(wanted)
    )


def _swap64(value: int) -> int:
    return int.from_bytes(value.to_bytes(8, "big"), "little")


def _refusal(name: str, layout: Layout, row: Any, error: Exception) -> InvalidObject:
    """Why ``row`` could not be encoded: the first field that does not fit."""
    return _first_misfit(name, layout, row, "") or InvalidObject(
        name, "row", f"{row!r} cannot be encoded: {error}"
    )


def _first_misfit(name: str, layout: Layout, value: Any, path: str) -> InvalidObject | None:
    match layout:
        case Number():
            lowest = -(1 << 8 * layout.size - 1) if layout.signed else 0
            highest = (1 << 8 * layout.size - layout.signed) - 1
            if not isinstance(value, int) or not lowest <= value <= highest:
                return InvalidObject(name, path or "value", f"{value!r} does not fit {layout.c_name}")
        case Octets():
            if not isinstance(value, bytes) or (
                len(value) > layout.size if layout.text else len(value) != layout.size
            ):
                return InvalidObject(name, path, f"{value!r} is not {layout.size} bytes")
        case Sequence():
            if not isinstance(value, tuple) or len(value) != layout.count:
                return InvalidObject(name, path, f"{value!r} is not a tuple of {layout.count}")
            inner = (_first_misfit(name, layout.element, v, f"{path}[{i}]") for i, v in enumerate(value))
            return next(filter(None, inner), None)
        case Record():
            for field in layout.fields:
                if field.layout is None:
                    continue
                inner_path = f"{path}.{field.name}".lstrip(".")
                found = _first_misfit(name, field.layout, getattr(value, field.name, None), inner_path)
                if found is not None:
                    return found
    return None
