"""What an object says about itself before it is loaded; nothing here needs root."""

from __future__ import annotations

from pathlib import Path

import pytest

from build_backend import bpf as build
from meshd.errors import ConfigError, InvalidObject, LayoutError
from meshd.kernel.object import BpfObject
from tests.bpf.compiled import PROGRAMS, compiled

SIZE_OF_ROWS = "__uint(max_entries, 8);\n\t__type(key, struct probe_address);"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled("kernel_probe", directory=tmp_path_factory.mktemp("object"))


def hash_after(directory: Path, before: str, after: str) -> str:
    """The schema hash of map `rows` once one line of its declaration reads otherwise."""
    source = directory / "kernel_probe.bpf.c"
    text = (PROGRAMS / source.name).read_text()
    assert before in text
    source.write_text(text.replace(before, after))
    build.link_programs([source], directory / "changed.bpf.o", directory)
    with BpfObject.open(directory / "changed.bpf.o") as bpf:
        return bpf.btf.schema_hash("rows")


def test_programs_are_listed_with_their_sections(path: Path) -> None:
    with BpfObject.open(path) as bpf:
        sections = {name: spec.section for name, spec in bpf.programs().items()}
    assert sections == {
        "count_connect": "cgroup/connect4",
        "count_connect_second": "cgroup/connect4",
        "pass_packet": "tc",
        "pass_frame": "xdp",
        "emit": "syscall",
    }


def test_maps_are_listed_with_the_types_of_their_keys_and_values(path: Path) -> None:
    with BpfObject.open(path) as bpf:
        types = {name: (m.key_type, m.value_type, m.max_entries) for name, m in bpf.btf.maps().items()}
    assert types == {
        "rows": ("probe_address", "probe_row", 8),
        "hits": ("__u32", "__u64", 8),
        "events": (None, None, 65536),
    }


def test_enums_of_c_are_read_never_retyped(path: Path) -> None:
    with BpfObject.open(path) as bpf:
        assert bpf.btf.enum("probe_kind") == {"PROBE_FIRST": 1, "PROBE_SECOND": 7}


def test_an_unknown_global_is_named(path: Path) -> None:
    with BpfObject.open(path) as bpf, pytest.raises(LayoutError, match="global no_such_knob"):
        bpf.set_globals({"no_such_knob": 1})


def test_a_global_value_that_does_not_fit_is_refused(path: Path) -> None:
    with (
        BpfObject.open(path) as bpf,
        pytest.raises(InvalidObject, match=r"refused_port.*70000 does not fit __be16"),
    ):
        bpf.set_globals({"refused_port": 70_000})


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("__s32 weight;", "__s32 heft;"),
        ("__be32 scope;", "__u32 scope;"),
        ("__s32 weight;", "__u32 weight;"),
        ("char name[12];", "__u8 name[12];"),
        ("__u32 shares[3];\n\tenum probe_kind kind;", "enum probe_kind kind;\n\t__u32 shares[3];"),
        ("__uint(type, BPF_MAP_TYPE_HASH);", "__uint(type, BPF_MAP_TYPE_LRU_HASH);"),
    ],
    ids=["renamed", "byte order", "sign", "text or bytes", "order", "map type"],
)
def test_the_schema_hash_changes_with_the_layout(path: Path, tmp_path: Path, before: str, after: str) -> None:
    with BpfObject.open(path) as bpf:
        assert bpf.btf.schema_hash("rows") != hash_after(tmp_path, before, after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (SIZE_OF_ROWS, SIZE_OF_ROWS.replace("8", "9")),
        ("PROBE_SECOND = 7,", "PROBE_SECOND = 7,\n\tPROBE_THIRD = 8,"),
        ("\treturn verdict;", "\treturn verdict && ctx->family;"),
    ],
    ids=["max_entries", "new enumerator", "program"],
)
def test_the_schema_hash_survives_every_other_change(
    path: Path, tmp_path: Path, before: str, after: str
) -> None:
    with BpfObject.open(path) as bpf:
        assert bpf.btf.schema_hash("rows") == hash_after(tmp_path, before, after)


def test_a_missing_object_says_how_to_build_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing: build it with"):
        BpfObject.open(tmp_path / "none.bpf.o")


def test_a_file_that_is_no_object_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "text.bpf.o").write_text("hello")
    with pytest.raises(ConfigError, match=r"text\.bpf\.o cannot be opened"):
        BpfObject.open(tmp_path / "text.bpf.o")
