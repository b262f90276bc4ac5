"""What a BPF object says about itself: layouts, enums, globals and map definitions, so that no fact of C is
repeated.

btf = Btf(object_file.btf_bytes())
keys = btf.codec("frontend_key", FrontendKey)      # FrontendKey: NamedTuple with the same field names
keys.encode(FrontendKey(...)), keys.decode(data)
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from meshd.errors import LayoutError
from meshd.kernel.btf_types import BtfType, Kind, Member, parse, resolve
from meshd.kernel.codec import Codec, make_codec
from meshd.kernel.layout import Layout, Octets, canonical, layout_of

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class MapDefinition:
    """A map as its C declaration has it. ``key`` and ``value`` are None for maps without (ring buffer)."""

    name: str
    map_type: int
    max_entries: int
    flags: int
    key_type: str | None
    value_type: str | None
    key: Layout | None
    value: Layout | None


@dataclass(frozen=True, slots=True)
class Global:
    """A global variable: ``section`` (".rodata", ".data", ".bss"), place in it, layout."""

    name: str
    section: str
    offset: int
    layout: Layout


class Btf:
    """The BTF of one object. Codecs are made once for each pair of types and kept."""

    def __init__(self, data: bytes) -> None:
        self._types = parse(data)
        self._codecs: dict[tuple[str, object], Codec[object]] = {}
        self._hashes: dict[str, str] = {}

    def layout(self, type_name: str) -> Layout:
        """The layout of a struct, an enum or a typedef such as ``__u32``.

        Raises:
            LayoutError: the object has no such type, or it cannot be a map's key or value.
        """
        return layout_of(self._types, self._find(type_name))

    def codec(self, type_name: str, row_type: type[Row]) -> Codec[Row]:
        """The codec between C type ``type_name`` and ``row_type`` (see `make_codec`).

        Raises:
            LayoutError: no such type, or the two sides do not fit; names both.
        """
        key = (type_name, row_type)
        if key not in self._codecs:
            self._codecs[key] = make_codec(type_name, self.layout(type_name), row_type)
        # The key holds row_type, so the value under it is of that type; a dict cannot say so.
        return self._codecs[key]  # type: ignore[return-value]

    def enum(self, name: str) -> dict[str, int]:
        """Enumerator -> value of ``enum name``.

        Raises:
            LayoutError: the object has no such enum.
        """
        for found in self._types:
            if found.kind in {Kind.ENUM, Kind.ENUM64} and found.name == name:
                return dict(found.enumerators)
        raise LayoutError(
            f"enum {name}", "the BPF object has no such enum (is it used by a map, a global or a program?)"
        )

    def layout_at(self, type_id: int) -> Layout:
        """The layout of the type with that number, as the kernel tells of maps.

        Raises:
            LayoutError: there is none, or it cannot be a map's key or value.
        """
        if not 0 < type_id < len(self._types):
            raise LayoutError(f"type {type_id}", "is not in these types")
        return layout_of(self._types, type_id)

    def has_enum(self, name: str) -> bool:
        """Whether `enum` would find it."""
        return any(each.name == name and each.kind in {Kind.ENUM, Kind.ENUM64} for each in self._types)

    def maps(self) -> dict[str, MapDefinition]:
        """Every map declared in section .maps, by name."""
        return dict(self._maps)

    def globals(self) -> dict[str, Global]:
        """Every ``const volatile`` and other global of the object, by name, with its place in its section."""
        found = {}
        for section in self._types:
            if section.kind is not Kind.DATASEC or not section.name.startswith((".rodata", ".data", ".bss")):
                continue
            for place in section.members:
                variable = self._types[place.type_id]
                if variable.name.startswith("."):
                    continue
                try:
                    layout = layout_of(self._types, variable.refers_to)
                except LayoutError:
                    continue  # Pointers and strings of the compiler are no knobs.
                found[variable.name] = Global(variable.name, section.name, place.bit_offset // 8, layout)
        return found

    def schema_hash(self, map_name: str) -> str:
        """8 hex digits over the map's type, flags and the recursive layout of key and value; the same for
        every build that lays the map out in the same way, whatever else changed (also max_entries).

        Raises:
            LayoutError: no such map.
        """
        if map_name not in self._hashes:
            self._hashes[map_name] = self._schema_hash(map_name)
        return self._hashes[map_name]

    # Asked for with every status, of every map: the types of an object do not change.
    @cached_property
    def _maps(self) -> dict[str, MapDefinition]:
        return {name: self._definition(name, declared) for name, declared in self._section(".maps")}

    def _schema_hash(self, map_name: str) -> str:
        definition = self._maps.get(map_name)
        if definition is None:
            raise LayoutError(f"map {map_name}", "the BPF object has no such map")
        kind = f"{definition.map_type}/{definition.flags}"
        text = f"{kind}/{canonical(definition.key)}/{canonical(definition.value)}"
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def _find(self, type_name: str) -> int:
        kinds = {Kind.STRUCT, Kind.TYPEDEF, Kind.INT, Kind.ENUM, Kind.ENUM64}
        for type_id, found in enumerate(self._types):
            if found.name == type_name and found.kind in kinds:
                return type_id
        raise LayoutError(type_name, "the BPF object has no such type (is it the key or value of a map?)")

    def _section(self, name: str) -> list[tuple[str, BtfType]]:
        """(variable name, its resolved type) of one section."""
        variables = [
            self._types[place.type_id]
            for section in self._types
            if section.kind is Kind.DATASEC and section.name == name
            for place in section.members
        ]
        return [(variable.name, resolve(self._types, variable.refers_to)[0]) for variable in variables]

    def _definition(self, name: str, declared: BtfType) -> MapDefinition:
        members = {member.name: member for member in declared.members}
        key, value = self._pointed_to(members.get("key")), self._pointed_to(members.get("value"))
        return MapDefinition(
            name,
            self._number(members.get("type")),
            self._number(members.get("max_entries")),
            self._number(members.get("map_flags")),
            self._type_name(key),
            self._type_name(value),
            layout_of(self._types, key) if key else self._sized(members.get("key_size")),
            layout_of(self._types, value) if value else self._sized(members.get("value_size")),
        )

    def _number(self, member: Member | None) -> int:
        """libbpf spells a number in a map declaration as the length of an array that is pointed to."""
        if member is None:
            return 0
        return resolve(self._types, self._pointed_to(member))[0].count

    def _sized(self, member: Member | None) -> Layout | None:
        if member is None:
            return None
        return Octets(self._number(member), text=False)

    def _pointed_to(self, member: Member | None) -> int:
        return self._types[member.type_id].refers_to if member is not None else 0

    def _type_name(self, type_id: int) -> str | None:
        """The name a codec is asked for by: of the struct, or of the outermost typedef."""
        while type_id:
            found = self._types[type_id]
            if found.name:
                return found.name
            type_id = found.refers_to
        return None
