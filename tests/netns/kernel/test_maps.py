"""Maps by single entries and by batches; a batch that stops in the middle says exactly where."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshd.errors import KernelError
from meshd.kernel.maps import EXIST, NOEXIST, Map, PartialWrite, possible_cpus

HASH, ARRAY, PERCPU_HASH, PERCPU_ARRAY, LPM_TRIE = 1, 2, 5, 6, 11
NO_PREALLOC = 1

MakeMap = Callable[..., Map]


@pytest.fixture
def make() -> Iterator[MakeMap]:
    """Makes maps of 4-byte keys and 8-byte values unless told otherwise."""
    made: list[Map] = []

    def make(kind: int, max_entries: int, key_size: int = 4, value_size: int = 8, flags: int = 0) -> Map:
        made.append(Map.create(kind, "test", key_size, value_size, max_entries, flags=flags))
        return made[-1]

    yield make
    for bpf_map in made:
        bpf_map.close()


def entries(count: int, start: int = 0) -> dict[bytes, bytes]:
    return {struct.pack("=I", i): struct.pack("=Q", i * i) for i in range(start, start + count)}


def test_what_was_written_is_found_until_it_is_deleted(make: MakeMap) -> None:
    rows = make(HASH, 4)
    rows.update(b"key1", b"12345678")
    assert rows.lookup(b"key1") == b"12345678"
    assert [rows.delete(b"key1"), rows.delete(b"key1")] == [True, False]
    assert rows.lookup(b"key1") is None


@pytest.mark.parametrize(
    ("flags", "present", "code"), [(NOEXIST, True, errno.EEXIST), (EXIST, False, errno.ENOENT)]
)
def test_a_conditional_write_is_refused_with_its_reason(
    make: MakeMap, flags: int, present: bool, code: int
) -> None:
    rows = make(HASH, 4)
    if present:
        rows.update(b"key1", bytes(8))
    with pytest.raises(KernelError, match="map test") as refused:
        rows.update(b"key1", bytes(8), flags)
    assert refused.value.errno == code


@pytest.mark.parametrize("kind", [HASH, LPM_TRIE])
def test_a_batch_writes_all_and_lists_all(make: MakeMap, kind: int) -> None:
    if kind == HASH:
        rows, wanted = make(HASH, 20_000), entries(20_000)
    else:
        rows = make(LPM_TRIE, 2_000, key_size=8, flags=NO_PREALLOC)
        wanted = {struct.pack("=I", 32) + struct.pack(">I", i): struct.pack("=Q", i) for i in range(2_000)}
    rows.update_batch(wanted)
    assert dict(rows.items()) == wanted
    assert rows.count() == len(wanted)


def test_an_array_lists_every_index(make: MakeMap) -> None:
    rows = make(ARRAY, 100)
    rows.update_batch(entries(100))
    assert dict(rows.items()) == entries(100)


def test_a_batch_that_fills_the_map_says_how_many_were_written(make: MakeMap) -> None:
    rows = make(HASH, 10)
    wanted = entries(25)
    with pytest.raises(PartialWrite) as stopped:
        rows.update_batch(wanted)
    error = stopped.value
    assert (error.errno, error.total) == (errno.E2BIG, 25)
    assert dict(rows.items()) == dict(list(wanted.items())[: error.done])
    assert error.done == 10


def test_a_conditional_batch_stops_at_the_first_entry_that_exists(make: MakeMap) -> None:
    rows = make(HASH, 100)
    rows.update(struct.pack("=I", 7), bytes(8))
    with pytest.raises(PartialWrite) as stopped:
        rows.update_batch(entries(20), NOEXIST)
    assert (stopped.value.errno, stopped.value.done) == (errno.EEXIST, 7)
    assert rows.count() == 8


def test_a_batch_delete_passes_over_keys_that_are_not_there(make: MakeMap) -> None:
    rows = make(HASH, 100)
    rows.update_batch(entries(50))
    doomed = [struct.pack("=I", i) for i in (0, 70, 1, 71, 72, 2, 49, 99)]
    assert rows.delete_batch(doomed) == 4
    assert rows.count() == 46


def test_a_per_cpu_value_holds_one_value_for_each_possible_cpu(make: MakeMap) -> None:
    counters = make(PERCPU_HASH, 4, value_size=4)
    value = b"".join(struct.pack("=I4x", cpu + 1) for cpu in range(possible_cpus()))
    counters.update(b"key1", value)
    assert counters.lookup(b"key1") == value


@pytest.mark.parametrize("kind", [PERCPU_HASH, PERCPU_ARRAY])
def test_per_cpu_maps_are_written_and_listed_in_batches(make: MakeMap, kind: int) -> None:
    counters = make(kind, 300)
    wanted = {struct.pack("=I", i): struct.pack("=Q", i) * possible_cpus() for i in range(300)}
    counters.update_batch(wanted)
    assert dict(counters.items()) == wanted


def test_a_value_of_the_wrong_size_is_refused_before_anything_is_written(make: MakeMap) -> None:
    rows = make(HASH, 10)
    with pytest.raises(KernelError, match="a value of 7 bytes, not 8"):
        rows.update_batch({b"key1": bytes(8), b"key2": bytes(7)})
    assert rows.count() == 0


def test_wrong_sizes_that_cancel_out_are_refused_as_well(make: MakeMap) -> None:
    rows = make(HASH, 10)
    with pytest.raises(KernelError, match="a value of 9 bytes"):
        rows.update_batch({b"key1": bytes(9), b"key2": bytes(7)})


def test_an_empty_batch_is_no_error(make: MakeMap) -> None:
    rows = make(HASH, 10)
    rows.update_batch({})
    assert rows.delete_batch([]) == 0
    assert list(rows.items()) == []


def test_a_pinned_map_is_opened_by_its_path(make: MakeMap, bpffs: Path) -> None:
    rows = make(HASH, 10)
    rows.update(b"key1", b"12345678")
    rows.pin(bpffs / "rows")
    again = Map.open_pinned(bpffs / "rows", "rows")
    assert again.lookup(b"key1") == b"12345678"
    assert again.info.map_id == rows.info.map_id
    again.close()


def test_a_missing_pin_is_named(bpffs: Path) -> None:
    with pytest.raises(KernelError, match="none: No such file") as missing:
        Map.open_pinned(bpffs / "none")
    assert missing.value.errno == errno.ENOENT


def test_a_frozen_map_refuses_writes_from_user_space(make: MakeMap) -> None:
    rows = make(HASH, 10)
    rows.freeze()
    with pytest.raises(KernelError) as refused:
        rows.update(b"key1", bytes(8))
    assert refused.value.errno == errno.EPERM


def test_the_kernel_accounts_memory_to_a_map(make: MakeMap) -> None:
    assert make(HASH, 10_000).memlock_bytes() > 10_000 * 12
