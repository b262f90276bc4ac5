"""Codecs come from the object's BTF; Python names fields, never bytes."""

from __future__ import annotations

import struct
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

import pytest

from meshd.errors import InvalidObject, LayoutError
from meshd.kernel.btf import Btf
from meshd.kernel.object import BpfObject
from tests.bpf.compiled import compiled


class Kind(IntEnum):
    FIRST = 1
    SECOND = 7


class Address(NamedTuple):
    octets: bytes
    port: int
    scope: int


class Row(NamedTuple):
    created_ns: int
    address: Address
    weight: int
    shares: tuple[int, int, int]
    kind: Kind
    name: bytes
    ready: bool


ADDRESS = Address(octets=bytes(range(16)), port=443, scope=0x01020304)
ROW = Row(2**63, ADDRESS, -5, (1, 2, 2**32 - 1), Kind.SECOND, b"rebel-base", True)
# The same row written by hand from kernel_probe.bpf.c: __be fields are the only big-endian ones.
ROW_BYTES = (
    struct.pack("=Q16s", 2**63, bytes(range(16)))
    + struct.pack(">IH", 0x01020304, 443)
    + struct.pack("=2xiIIII12s?7x", -5, 1, 2, 2**32 - 1, 7, b"rebel-base", True)
)


@pytest.fixture(scope="module")
def btf(tmp_path_factory: pytest.TempPathFactory) -> Btf:
    with BpfObject.open(compiled("kernel_probe", directory=tmp_path_factory.mktemp("codec"))) as bpf:
        return bpf.btf


def test_a_row_encodes_to_the_bytes_of_the_c_struct(btf: Btf) -> None:
    assert btf.codec("probe_row", Row).encode(ROW) == ROW_BYTES


def test_bytes_decode_to_the_row_they_came_from(btf: Btf) -> None:
    assert btf.codec("probe_row", Row).decode(ROW_BYTES) == ROW


def test_an_enum_decodes_to_its_member_and_an_unknown_value_to_a_plain_number(btf: Btf) -> None:
    codec = btf.codec("probe_row", Row)
    later_build = codec.encode(ROW._replace(kind=9))  # type: ignore[arg-type]
    assert [codec.decode(ROW_BYTES).kind, codec.decode(later_build).kind] == [Kind.SECOND, 9]


def test_a_scalar_key_needs_no_named_tuple(btf: Btf) -> None:
    codec = btf.codec("__u32", int)
    assert codec.decode(codec.encode(7)) == 7


def test_per_cpu_values_are_a_list_of_rows(btf: Btf) -> None:
    codec = btf.codec("__u32", int)
    assert codec.decode_cpus(struct.pack("=I4xI4x", 3, 4)) == [3, 4]


def test_per_cpu_rows_encode_with_the_rounding_of_the_kernel(btf: Btf) -> None:
    assert btf.codec("__u32", int).encode_cpus([3, 4]) == struct.pack("=I4xI4x", 3, 4)


def test_a_run_of_rows_decodes_one_by_one(btf: Btf) -> None:
    assert btf.codec("probe_row", Row).decode_many(ROW_BYTES * 3) == [ROW, ROW, ROW]


@pytest.mark.parametrize(
    ("row", "field"),
    [
        (ROW._replace(address=ADDRESS._replace(port=70_000)), "address.port"),
        (ROW._replace(address=ADDRESS._replace(port=-1)), "address.port"),
        (ROW._replace(address=ADDRESS._replace(octets=bytes(15))), "address.octets"),
        (ROW._replace(weight=2**31), "weight"),
        (ROW._replace(shares=(1, 2)), "shares"),  # type: ignore[arg-type]
        (ROW._replace(shares=(1, 2, -3)), "shares[2]"),
        (ROW._replace(name=b"thirteen char"), "name"),
        (ROW._replace(created_ns="now"), "created_ns"),  # type: ignore[arg-type]
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_its_field(btf: Btf, row: Row, field: str) -> None:
    with pytest.raises(InvalidObject) as refused:
        btf.codec("probe_row", Row).encode(row)
    assert (refused.value.object_name, refused.value.field) == ("probe_row", field)


class MissingScope(NamedTuple):
    octets: bytes
    port: int


class Misnamed(NamedTuple):
    octets: bytes
    port: int
    zone: int


class TextPort(NamedTuple):
    octets: bytes
    port: str
    scope: int


@pytest.mark.parametrize("row_type", [MissingScope, Misnamed])
def test_other_fields_than_in_c_are_refused_naming_both_sides(btf: Btf, row_type: type) -> None:
    with pytest.raises(LayoutError, match=r"octets, scope, port in C.*in Python"):
        btf.codec("probe_address", row_type)


def test_another_kind_of_field_than_in_c_is_refused(btf: Btf) -> None:
    with pytest.raises(LayoutError, match=r"probe_address.port: is __be16 in C and str in Python"):
        btf.codec("probe_address", TextPort)


def test_a_type_the_object_does_not_have_is_named(btf: Btf) -> None:
    with pytest.raises(LayoutError, match="no_such_struct"):
        btf.codec("no_such_struct", Address)


def test_padding_is_zero_and_no_field_of_a_row(btf: Btf) -> None:
    dirty = bytearray(ROW_BYTES)
    dirty[-1] = 255
    codec = btf.codec("probe_row", Row)
    assert codec.encode(codec.decode(bytes(dirty))) == ROW_BYTES


def test_the_packaged_object_declares_no_type_that_a_codec_cannot_read() -> None:
    with BpfObject.open() as bpf:
        unreadable = [m.name for m in bpf.btf.maps().values() if m.key is None or m.value is None]
        ring_buffers = [name for name in unreadable if bpf.btf.maps()[name].map_type == 27]
    assert unreadable == ring_buffers


def test_objects_of_two_directories_are_the_same_bytes(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    assert (
        compiled("refused", directory=one).read_bytes() == compiled("refused", directory=other).read_bytes()
    )
