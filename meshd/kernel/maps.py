"""A BPF map on a file descriptor. Keys and values are packed bytes; codecs (btf.py) make them from rows.

A batch is one system call for thousands of entries. When it fails in the middle the kernel says how many it
had written, and so do the errors here: nobody has to guess what holds now.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from meshd.errors import KernelError
from meshd.kernel._libbpf import ffi, lib
from meshd.kernel.result import ENOTSUPP, checked

ANY, NOEXIST, EXIST = lib.BPF_ANY, lib.BPF_NOEXIST, lib.BPF_EXIST

_PER_CPU = {
    lib.BPF_MAP_TYPE_PERCPU_HASH,
    lib.BPF_MAP_TYPE_PERCPU_ARRAY,
    lib.BPF_MAP_TYPE_LRU_PERCPU_HASH,
    lib.BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE,
}
# What kernels say that lack a batch operation for a map type.
_NO_BATCH = {ENOTSUPP, errno.EOPNOTSUPP, errno.EINVAL}
_BATCH = 4096


class PartialWrite(KernelError):
    """A batch stopped in the middle: exactly the first ``done`` of its ``total`` entries took effect, in the
    order given."""

    def __init__(self, operation: str, map_name: str, code: int, done: int, total: int) -> None:
        self.done = done
        self.total = total
        super().__init__(operation, f"map {map_name}", code, f"{done} of {total} entries written before it")


@dataclass(frozen=True, slots=True)
class MapInfo:
    """What the kernel says of a map. Sizes in bytes; ``value_size`` is that of one CPU. ``types``: what the map was declared
    with, as the kernel keeps it: its id of the BTF, and in that the types of key and value; 0 where it has none."""

    name: str
    map_type: int
    map_id: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    types: tuple[int, int, int] = (0, 0, 0)


def possible_cpus() -> int:
    """How many values a per-CPU map holds for each key: CPUs that may ever come up, not those that are up."""
    return checked(lib.libbpf_num_possible_cpus(), "count", "possible CPUs")


class Map:
    """An open map, named ``name`` in errors; `close` gives the descriptor back and leaves the map to its
    other owners."""

    def __init__(self, fd: int, name: str | None = None) -> None:
        """Takes ownership of ``fd``."""
        self.fd = fd
        self.info = read_info(fd, name or "map")
        self.name = name or self.info.name
        self.per_cpu = self.info.map_type in _PER_CPU
        self.key_size = self.info.key_size
        step = (self.info.value_size + 7) // 8 * 8
        self.value_size = step * possible_cpus() if self.per_cpu else self.info.value_size

    @classmethod
    def create(
        cls, map_type: int, name: str, key_size: int, value_size: int, max_entries: int, *, flags: int = 0
    ) -> Map:
        """A new map without BTF, for what no C declaration exists (tests, probes)."""
        opts = ffi.new("struct bpf_map_create_opts *", {"map_flags": flags})
        opts.sz = ffi.sizeof(opts[0])
        fd = lib.bpf_map_create(map_type, name.encode(), key_size, value_size, max_entries, opts)
        return cls(checked(fd, "create", f"map {name}"), name)

    @classmethod
    def open_pinned(cls, path: Path, name: str | None = None) -> Map:
        """The map pinned at ``path``.

        Raises:
            KernelError: nothing is there (ENOENT), or it is not a map.
        """
        return cls(checked(lib.bpf_obj_get(os.fsencode(path)), "open", f"pin {path}"), name)

    def __repr__(self) -> str:
        return f"Map({self.name!r}, fd={self.fd})"

    def close(self) -> None:
        """Gives the descriptor back; may be repeated."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def pin(self, path: Path) -> None:
        """Keeps the map alive at ``path`` in a bpffs, whose names may not contain a dot."""
        checked(lib.bpf_obj_pin(self.fd, os.fsencode(path)), "pin", f"map {self.name} at {path}")

    def freeze(self) -> None:
        """No write from user space from now on, for ever."""
        self._checked(lib.bpf_map_freeze(self.fd), "freeze")

    # One entry at a time.

    def lookup(self, key: bytes) -> bytes | None:
        """The value of ``key`` (all CPUs' values joined for per-CPU maps), None where there is none."""
        value = ffi.new("char[]", self.value_size)
        result = lib.bpf_map_lookup_elem(self.fd, self._key(key), value)
        if result == -errno.ENOENT:
            return None
        self._checked(result, "look up in")
        return bytes(ffi.buffer(value, self.value_size))

    def update(self, key: bytes, value: bytes, flags: int = ANY) -> None:
        """Writes one entry; NOEXIST refuses an existing key (EEXIST), EXIST a missing one (ENOENT)."""
        self._checked(lib.bpf_map_update_elem(self.fd, self._key(key), self._value(value), flags), "write to")

    def delete(self, key: bytes) -> bool:
        """Deletes one entry; False where there was none."""
        result = lib.bpf_map_delete_elem(self.fd, self._key(key))
        if result == -errno.ENOENT:
            return False
        self._checked(result, "delete from")
        return True

    # Many at a time.

    def update_batch(self, entries: Mapping[bytes, bytes], flags: int = ANY) -> None:
        """Writes all of ``entries`` in their order.

        Raises:
            PartialWrite: exactly its first ``done`` entries were written, the others not.
        """
        if not entries:
            return
        keys = self._joined(entries.keys(), self.key_size, "key")
        values = self._joined(entries.values(), self.value_size, "value")
        count = ffi.new("__u32 *", len(entries))
        opts = self._batch_opts
        opts.elem_flags = flags
        result = lib.bpf_map_update_batch(
            self.fd, ffi.from_buffer(keys), ffi.from_buffer(values), count, opts
        )
        if result < 0:
            done = _done(count[0], len(entries))
            if -result not in _NO_BATCH or done:
                raise PartialWrite("write to", self.name, -result, done, len(entries))
            self._update_each(entries, flags)

    def delete_batch(self, keys: Iterable[bytes]) -> int:
        """Deletes ``keys``, those that are not there included; how many were there.

        Raises:
            PartialWrite: its first ``done`` keys are gone, of the others nothing was touched.
        """
        wanted = list(keys)
        joined = self._joined(wanted, self.key_size, "key")
        done = missing = 0
        while done < len(wanted):
            count = ffi.new("__u32 *", len(wanted) - done)
            rest = ffi.from_buffer(joined)[done * self.key_size : len(joined)]
            result = lib.bpf_map_delete_batch(self.fd, rest, count, self._batch_opts)
            if -result in _NO_BATCH and done == 0:
                return sum(self.delete(key) for key in wanted)
            done += count[0] if result == 0 else _done(count[0], len(wanted) - done)
            if result == -errno.ENOENT:
                # The kernel stops at a key that is not there; absent is what was asked for.
                done, missing = done + 1, missing + 1
            elif result < 0:
                raise PartialWrite("delete from", self.name, -result, done, len(wanted))
        return len(wanted) - missing

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Every entry, thousands a system call. Entries written meanwhile may or may not be among them; no
        other entry is missed or seen twice in a hash map."""
        try:
            yield from self._items_batched()
        except KernelError as error:
            if error.errno not in _NO_BATCH:
                raise
            yield from self._items_one_by_one()

    def packed(self) -> Iterator[tuple[bytes, bytes, int]]:
        """The same as :meth:`items`, still together: keys one after the other, values one after the other, how many."""
        k, v = self.key_size, self.value_size
        try:
            for keys, values, count in self._batches():
                yield ffi.buffer(keys, count * k)[:], ffi.buffer(values, count * v)[:], count
        except KernelError as error:
            if error.errno not in _NO_BATCH:
                raise
            rows = dict(self._items_one_by_one())
            yield b"".join(rows), b"".join(rows.values()), len(rows)

    def keys(self) -> Iterator[bytes]:
        """Every key, as far as `items` goes."""
        return (key for key, _ in self.items())

    def count(self) -> int:
        """How many entries there are now. The kernel keeps no count, so this walks the map, without the GIL for the most
        part; of a large map better on a worker thread."""
        try:
            return sum(count for _, _, count in self._batches())
        except KernelError as error:
            if error.errno not in _NO_BATCH:
                raise
            return sum(1 for _ in self._items_one_by_one())

    def memlock_bytes(self) -> int:
        """The memory the kernel accounts to this map."""
        for line in Path(f"/proc/self/fdinfo/{self.fd}").read_text().splitlines():
            if line.startswith("memlock:"):
                return int(line.split()[1])
        return 0

    def has_batch_operations(self) -> bool:
        """Whether this kernel takes batches for this type of map; without, the methods above go entry by entry."""
        count = ffi.new("__u32 *", 0)
        return (
            -lib.bpf_map_update_batch(self.fd, ffi.NULL, ffi.NULL, count, self._batch_opts) not in _NO_BATCH
        )

    @cached_property
    def _batch_opts(self) -> Any:  # cffi data has no static type
        opts = ffi.new("struct bpf_map_batch_opts *")
        opts.sz = ffi.sizeof(opts[0])
        return opts

    def _update_each(self, entries: Mapping[bytes, bytes], flags: int) -> None:
        for done, (key, value) in enumerate(entries.items()):
            try:
                self.update(key, value, flags)
            except KernelError as error:
                raise PartialWrite("write to", self.name, error.errno, done, len(entries)) from error

    def _items_batched(self) -> Iterator[tuple[bytes, bytes]]:
        for keys, values, count in self._batches():
            yield from self._split(keys, values, count)

    def _batches(self) -> Iterator[tuple[Any, Any, int]]:  # cffi data has no static type
        """Buffers of keys and of values, and how many entries they hold; reused for the next batch."""
        size = min(_BATCH, max(self.info.max_entries, 1))
        # The cursor is a bucket number for hash maps and a key for the others.
        cursor, following = (ffi.new("char[]", max(self.key_size, 8)) for _ in range(2))
        count = ffi.new("__u32 *")
        keys, values = ffi.new("char[]", size * self.key_size), ffi.new("char[]", size * self.value_size)
        first = True
        while True:
            count[0] = size
            start = ffi.NULL if first else cursor
            result = lib.bpf_map_lookup_batch(
                self.fd, start, following, keys, values, count, self._batch_opts
            )
            if result == -errno.ENOSPC:
                size *= 2  # One bucket holds more than the whole batch.
                keys, values = (
                    ffi.new("char[]", size * self.key_size),
                    ffi.new("char[]", size * self.value_size),
                )
                continue
            if result not in (0, -errno.ENOENT):
                self._checked(result, "list")
            yield keys, values, count[0]
            if result == -errno.ENOENT:
                return
            cursor, following, first = following, cursor, False

    def _split(self, keys: Any, values: Any, count: int) -> Iterator[tuple[bytes, bytes]]:
        k, v = self.key_size, self.value_size
        all_keys, all_values = ffi.buffer(keys, count * k)[:], ffi.buffer(values, count * v)[:]
        for i in range(count):
            yield all_keys[i * k : i * k + k], all_values[i * v : i * v + v]

    def _items_one_by_one(self) -> Iterator[tuple[bytes, bytes]]:
        key, following = (ffi.new("char[]", self.key_size) for _ in range(2))
        result = lib.bpf_map_get_next_key(self.fd, ffi.NULL, following)
        while result == 0:
            key, following = following, key
            packed = bytes(ffi.buffer(key, self.key_size))
            value = self.lookup(packed)
            if value is not None:
                yield packed, value
            result = lib.bpf_map_get_next_key(self.fd, key, following)
        if result != -errno.ENOENT:
            self._checked(result, "list")

    def _joined(self, parts: Iterable[bytes], size: int, what: str) -> bytes:
        packed = list(parts)
        if not set(map(len, packed)) <= {size}:
            odd = next(part for part in packed if len(part) != size)
            raise KernelError(
                "write to", f"map {self.name}", errno.EINVAL, f"a {what} of {len(odd)} bytes, not {size}"
            )
        return b"".join(packed)

    def _key(self, key: bytes) -> bytes:
        return self._joined((key,), self.key_size, "key")

    def _value(self, value: bytes) -> bytes:
        return self._joined((value,), self.value_size, "value")

    def _checked(self, result: int, operation: str) -> int:
        return checked(result, operation, f"map {self.name}")


def _done(count: int, asked: int) -> int:
    """How many entries of a failed batch took effect: one that fails early leaves the count as it was asked."""
    return 0 if count == asked else count


def read_info(fd: int, name: str) -> MapInfo:
    """The kernel's description of the map on ``fd``."""
    raw = ffi.new("struct meshd_map_info *")
    checked(lib.meshd_map_info(fd, raw), "inspect", name)
    return MapInfo(
        ffi.string(raw.name, 16).decode(),
        raw.type,
        raw.id,
        raw.key_size,
        raw.value_size,
        raw.max_entries,
        raw.flags,
        (raw.btf_id, raw.key_type, raw.value_type),
    )
