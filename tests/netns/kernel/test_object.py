"""Loading: globals, sizes, what is left out, pins that outlive the process, and what a refusal says."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import NamedTuple

import pytest

from build_backend import bpf as build
from meshd.errors import KernelError, VerifierError
from meshd.kernel.maps import Map
from meshd.kernel.object import BpfObject, Loaded
from tests.bpf.compiled import PROGRAMS, compiled


class Address(NamedTuple):
    octets: bytes
    scope: int
    port: int


def load(path: Path, pins: Path | None = None, sizes: dict[str, int] | None = None) -> Loaded:
    with BpfObject.open(path) as bpf:
        bpf.set_max_entries(sizes or {})
        return bpf.load(pins)


def test_globals_reach_the_program(probe_object: Path) -> None:
    with BpfObject.open(probe_object) as bpf:
        address = bpf.btf.globals()["refused_address"].layout
        assert address.size == 24
        bpf.set_globals({"refused_address": Address(bytes(16), scope=77, port=0)})
        loaded = bpf.load()
    run = loaded.programs["emit"].test_run(context=bytes(8))
    loaded.close()
    assert int.from_bytes(run.context[:4], "big") == 77


def test_a_program_left_out_is_not_loaded_and_the_others_are(probe_object: Path) -> None:
    with BpfObject.open(probe_object) as bpf:
        bpf.leave_out(["count_connect", "emit"])
        loaded = bpf.load()
    names = set(loaded.programs)
    loaded.close()
    assert names == {"count_connect_second", "pass_packet", "pass_frame"}


def test_a_map_gets_the_size_it_was_given(probe_object: Path) -> None:
    loaded = load(probe_object, sizes={"rows": 1000})
    size = loaded.maps["rows"].info.max_entries
    loaded.close()
    assert size == 1000


def test_a_refused_program_is_named_with_its_whole_log(tmp_path: Path) -> None:
    path = compiled("refused", directory=tmp_path)
    with pytest.raises(VerifierError) as refused, BpfObject.open(path) as bpf:
        bpf.load()
    error = refused.value
    assert (error.program, error.errno) == ("dereferences_null", errno.EACCES)
    assert "R0 invalid mem access 'map_value_or_null'" in error.log
    assert "R0 invalid mem access" in str(error)
    assert error.log.count("\n") > 10


def test_a_refused_program_can_be_left_out(tmp_path: Path) -> None:
    with BpfObject.open(compiled("refused", directory=tmp_path)) as bpf:
        bpf.leave_out(["dereferences_null"])
        loaded = bpf.load()
    assert list(loaded.programs) == ["accepted"]
    loaded.close()


def test_a_second_load_finds_the_entries_of_the_first(probe_object: Path, bpffs: Path) -> None:
    first = load(probe_object, bpffs / "maps")
    rows = first.maps["rows"]
    key, value = bytes(rows.key_size), bytes(range(rows.value_size))
    rows.update(key, value)
    first.close()
    second = load(probe_object, bpffs / "maps")
    assert second.maps["rows"].lookup(key) == value
    assert sorted(second.reused) == ["events", "hits", "rows"]
    second.close()


def test_a_pinned_map_of_another_size_is_reused_and_reported(probe_object: Path, bpffs: Path) -> None:
    load(probe_object, bpffs, {"rows": 16}).close()
    loaded = load(probe_object, bpffs, {"rows": 32})
    reused = loaded.reused["rows"]
    assert (reused.max_entries, reused.wanted_max_entries) == (16, 32)
    assert loaded.maps["rows"].info.max_entries == 16
    loaded.close()


def test_a_changed_layout_makes_a_new_map_beside_the_old_one(
    probe_object: Path, bpffs: Path, tmp_path: Path
) -> None:
    load(probe_object, bpffs).close()
    source = tmp_path / "kernel_probe.bpf.c"
    text = (PROGRAMS / source.name).read_text().replace("__s32 weight;", "__u32 weight;")
    source.write_text(text)
    build.link_programs([source], tmp_path / "later.bpf.o", tmp_path)
    later = load(tmp_path / "later.bpf.o", bpffs)
    assert sorted(later.reused) == ["events", "hits"]
    assert len(list(bpffs.glob("rows_*"))) == 2
    later.close()


def test_a_pin_that_holds_another_kind_of_map_is_refused(probe_object: Path, bpffs: Path) -> None:
    with BpfObject.open(probe_object) as bpf:
        name = f"rows_{bpf.btf.schema_hash('rows')}"
    stranger = Map.create(1, "stranger", 4, 4, 1)
    stranger.pin(bpffs / name)
    stranger.close()
    with pytest.raises(KernelError, match=f"{name}.*remove the pin"):
        load(probe_object, bpffs)


def test_nothing_is_pinned_when_a_program_is_refused(tmp_path: Path, bpffs: Path) -> None:
    with pytest.raises(VerifierError):
        load(compiled("refused", directory=tmp_path), bpffs / "maps")
    assert not (bpffs / "maps").exists()


def test_pins_outside_a_bpffs_are_refused_and_leave_nothing_pinned(
    probe_object: Path, tmp_path: Path
) -> None:
    with pytest.raises(KernelError, match="pin map"):
        load(probe_object, tmp_path / "no_bpffs")
    assert list((tmp_path / "no_bpffs").iterdir()) == []


def test_equal_instructions_have_equal_tags(probe_object: Path) -> None:
    one, other = load(probe_object), load(probe_object)
    tags = [loaded.programs["count_connect"].info().tag for loaded in (one, other)]
    different = one.programs["pass_frame"].info().tag
    one.close()
    other.close()
    assert tags[0] == tags[1] != different


def test_a_packet_program_runs_without_a_hook(probe: Loaded) -> None:
    assert probe.programs["pass_frame"].test_run(data=bytes(64), repeat=3).retval == 2
    hits = probe.maps["hits"].lookup((7).to_bytes(4, "little"))
    assert hits is not None
    assert sum(memoryview(hits).cast("Q")) == 3


def test_the_packaged_object_loads(bpffs: Path) -> None:
    with BpfObject.open() as bpf:
        wanted = set(bpf.programs())
        loaded = bpf.load(bpffs)
    names = set(loaded.programs)
    loaded.close()
    assert names == wanted
