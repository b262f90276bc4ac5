"""Maps as people read them: rows by the field names of their C structs, addresses as text, sums over CPUs."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping

from meshd.kernel.btf import Btf
from meshd.kernel.layout import Layout, Number, Octets, Record, Sequence
from meshd.kernel.maps import Map, possible_cpus
from meshd.model import Address, format_address

Shown = object  # int, str, bytes, or a mapping or list of these


def dump(kernel_map: Map, btf: Btf) -> Iterator[tuple[Mapping[str, Shown], Mapping[str, Shown]]]:
    """(key, value) of every entry, read in batches as the iterator is."""
    definition = btf.maps()[kernel_map.name]
    names = {value: name for name, value in _enumerators(btf, definition.key_type).items()}
    for key, value in kernel_map.items():
        shown = _named(show(definition.key, key), "key")
        if names and isinstance(shown.get("key"), int):
            shown = {"key": names.get(shown["key"], shown["key"])}  # type: ignore[call-overload]
        values = _split_cpus(kernel_map, value)
        if len(values) > 1:
            yield shown, {"sum": sum(int.from_bytes(each, sys.byteorder) for each in values)}
        else:
            yield shown, _named(show(definition.value, value), "value")


def show(layout: Layout | None, data: bytes) -> Shown:
    """The value of ``data`` with this layout; bytes where it has none."""
    match layout:
        case Number():
            order = "big" if layout.big_endian else sys.byteorder
            return int.from_bytes(data, order, signed=layout.signed)
        case Octets(text=True):
            return data.rstrip(b"\0").decode(errors="replace")
        case Octets():
            return format_address(Address(data)) if layout.size == 16 else data
        case Sequence():
            step = layout.element.size
            return [show(layout.element, data[at : at + step]) for at in range(0, len(data), step)]
        case Record():
            return {
                field.name: show(field.layout, data[field.offset : field.offset + field.size])
                for field in layout.fields
                if field.layout is not None
            }
    return data


def _named(value: Shown, name: str) -> Mapping[str, Shown]:
    return value if isinstance(value, dict) else {name: value}


def _split_cpus(kernel_map: Map, value: bytes) -> list[bytes]:
    if not kernel_map.per_cpu:
        return [value]
    step = kernel_map.value_size // possible_cpus()
    return [value[at : at + step] for at in range(0, len(value), step)]


def _enumerators(btf: Btf, type_name: str | None) -> Mapping[str, int]:
    definition = btf.layout(type_name) if type_name else None
    if isinstance(definition, Number) and definition.enum and type_name:
        return btf.enum(type_name)
    return {}
