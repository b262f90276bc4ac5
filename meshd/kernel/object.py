"""The BPF object: opened without privileges to read what it holds, set up, then loaded into the kernel once.

    with BpfObject.open() as bpf:
        bpf.set_globals({"affinity_enabled": 1})
        bpf.set_max_entries({"backends": 65536})
        bpf.leave_out({"trace_splice"})
        loaded = bpf.load(pins=Path("/run/.../maps"))
    loaded.programs["connect4"].fd, loaded.maps["backends"]

What was loaded lives on its own descriptors, so the object (and libbpf's copy of all instructions) is freed
after loading.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshd.errors import ConfigError, KernelError, LayoutError, VerifierError
from meshd.kernel._libbpf import ffi, lib
from meshd.kernel.btf import Btf
from meshd.kernel.codec import make_codec
from meshd.kernel.maps import Map
from meshd.kernel.pins import Reused, pin_new_maps, reuse_pinned
from meshd.kernel.program import Program
from meshd.kernel.result import checked, take_log

PACKAGED = Path(__file__).with_name("meshd.bpf.o")

# Room for the log of one refused program; the kernel touches only what it writes.
_LOG_BYTES = 16 * 1024 * 1024
_REFUSED = re.compile(r"prog '([^']+)': BPF program load failed")


@dataclass(frozen=True, slots=True)
class ProgramSpec:
    """A program of an object before it is loaded."""

    name: str
    section: str
    program_type: int
    attach_type: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the kernel accepted. ``reused`` names the maps that were there already."""

    programs: dict[str, Program]
    maps: dict[str, Map]
    reused: dict[str, Reused]

    def close(self) -> None:
        """Gives all descriptors back; what is pinned or attached stays."""
        for program in self.programs.values():
            program.close()
        for bpf_map in self.maps.values():
            bpf_map.close()


class BpfObject:
    """An open object file. Set it up, `load` it, close it."""

    def __init__(
        self, raw: Any, path: Path, log: mmap.mmap, log_view: Any
    ) -> None:  # cffi data has no static type
        self._raw, self._path, self._log, self._log_view = raw, path, log, log_view
        self._without_maps: set[str] = set()
        size = ffi.new("__u32 *")
        data = lib.btf__raw_data(lib.bpf_object__btf(raw), size)
        self.btf = Btf(bytes(ffi.buffer(data, size[0])))

    @classmethod
    def open(cls, path: Path = PACKAGED) -> BpfObject:
        """Opens ``path``, by default the object of this package.

        Raises:
            ConfigError: the file is missing (the package was not built) or is no BPF object.
        """
        if not path.exists():
            raise ConfigError(
                f"the BPF object {path} is missing: build it with `python -m build_backend.bpf`"
            )
        log = mmap.mmap(-1, _LOG_BYTES)
        log_view = ffi.from_buffer(log)
        name = ffi.new("char[]", path.name.split(".")[0].encode())
        opts = ffi.new(
            "struct bpf_object_open_opts *",
            {"object_name": name, "kernel_log_buf": log_view, "kernel_log_size": _LOG_BYTES},
        )
        opts.sz = ffi.sizeof(opts[0])
        raw = lib.bpf_object__open_file(os.fsencode(path), opts)
        if not raw:
            code, warnings = ffi.errno, take_log()
            ffi.release(log_view)
            log.close()
            raise ConfigError(f"the BPF object {path} cannot be opened: {os.strerror(code)}; {warnings}")
        return cls(raw, path, log, log_view)

    def __enter__(self) -> BpfObject:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Frees the object; may be repeated. What was loaded stays."""
        if self._raw:
            lib.bpf_object__close(self._raw)
            self._raw = ffi.NULL
            ffi.release(self._log_view)
            self._log.close()

    def programs(self) -> dict[str, ProgramSpec]:
        """Every program by name."""
        return {
            name: ProgramSpec(
                name,
                ffi.string(lib.bpf_program__section_name(raw)).decode(),
                lib.bpf_program__type(raw),
                lib.bpf_program__expected_attach_type(raw),
            )
            for name, raw in self._raw_programs()
        }

    def maps(self) -> list[str]:
        """The names of the declared maps (not libbpf's own for globals)."""
        return list(self._raw_maps())

    def set_globals(self, values: Mapping[str, Any]) -> None:
        """Gives globals their value before loading: numbers as int, structs as NamedTuple, byte arrays as
        bytes.

        Raises:
            LayoutError: no such global, or another type; InvalidObject: a number that does not fit.
        """
        known = self.btf.globals()
        for name, value in values.items():
            variable = known.get(name)
            if variable is None:
                raise LayoutError(f"global {name}", f"{self._path.name} has none of that name")
            packed = make_codec(name, variable.layout, type(value)).encode(value)
            self._patch_section(variable.section, variable.offset, packed)

    def set_max_entries(self, sizes: Mapping[str, int]) -> None:
        """Sizes maps before loading. A map that is reused from its pin keeps the size it has; `load` reports
        it."""
        for name, size in sizes.items():
            checked(lib.bpf_map__set_max_entries(self._raw_map(name), size), "size", f"map {name}")

    def leave_out_maps(self, names: Iterable[str]) -> None:
        """Does not make these maps; no program that is loaded may use one."""
        for name in names:
            self._without_maps.add(name)
            checked(lib.bpf_map__set_autocreate(self._raw_map(name), False), "leave out", f"map {name}")

    def leave_out(self, programs: Iterable[str]) -> None:
        """Does not load these programs; the others are loaded as before."""
        raw = dict(self._raw_programs())
        for name in programs:
            if name not in raw:
                raise LayoutError(f"program {name}", f"{self._path.name} has none of that name")
            checked(lib.bpf_program__set_autoload(raw[name], False), "leave out", f"program {name}")

    def load_only(self, programs: Iterable[str]) -> None:
        """Leaves out all programs but these."""
        wanted = set(programs)
        unknown = wanted - set(self.programs())
        if unknown:
            raise LayoutError(f"program {min(unknown)}", f"{self._path.name} has none of that name")
        self.leave_out(set(self.programs()) - wanted)

    def load(self, pins: Path | None = None) -> Loaded:
        """Creates the maps, or takes those of equal layout that are pinned in the bpffs directory ``pins``,
        loads the programs, and pins the new maps there.

        Raises:
            VerifierError: a program was refused; carries its name and the whole log.
            KernelError: a map could not be created, or a pin could not be read or made.
            In both cases nothing was loaded or pinned.
        """
        raw_maps = {name: raw for name, raw in self._raw_maps().items() if name not in self._without_maps}
        hashes = {name: self.btf.schema_hash(name) for name in raw_maps}
        reused = reuse_pinned(raw_maps, hashes, pins) if pins is not None else {}
        take_log()
        result = lib.bpf_object__load(self._raw)
        if result < 0:
            raise self._load_error(-result)
        loaded = self._take_loaded(reused)
        if pins is not None:
            try:
                new = {name: made for name, made in loaded.maps.items() if name not in reused}
                pin_new_maps(new, hashes, pins)
            except KernelError:
                loaded.close()
                raise
        return loaded

    def _take_loaded(self, reused: dict[str, Reused]) -> Loaded:
        programs = {
            name: Program(
                _duplicate(lib.bpf_program__fd(raw)), name, lib.bpf_program__expected_attach_type(raw)
            )
            for name, raw in self._raw_programs()
            if lib.bpf_program__autoload(raw)
        }
        maps = {
            name: Map(_duplicate(lib.bpf_map__fd(raw)), name)
            for name, raw in self._raw_maps().items()
            if name not in self._without_maps
        }
        return Loaded(programs, maps, reused)

    def _load_error(self, code: int) -> KernelError:
        warnings = take_log()
        refused = _REFUSED.search(warnings)
        if refused is None:
            return KernelError(
                "load", f"object {self._path.name}", code, warnings.splitlines()[0] if warnings else ""
            )
        end = self._log.find(b"\0")
        log = self._log[: end if end >= 0 else None].decode(errors="replace")
        return VerifierError(refused.group(1), code, log or warnings)

    def _patch_section(self, section: str, offset: int, packed: bytes) -> None:
        raw = next(
            raw for name, raw in self._all_maps() if name.endswith(section) and lib.bpf_map__is_internal(raw)
        )
        size = ffi.new("size_t *")
        data = bytearray(ffi.buffer(lib.bpf_map__initial_value(raw, size), size[0]))
        data[offset : offset + len(packed)] = packed
        checked(
            lib.bpf_map__set_initial_value(raw, ffi.from_buffer(data), len(data)),
            "set globals of",
            self._path.name,
        )

    def _raw_programs(self) -> Iterator[tuple[str, Any]]:
        raw = lib.bpf_object__next_program(self._raw, ffi.NULL)
        while raw:
            yield ffi.string(lib.bpf_program__name(raw)).decode(), raw
            raw = lib.bpf_object__next_program(self._raw, raw)

    def _all_maps(self) -> Iterator[tuple[str, Any]]:
        raw = lib.bpf_object__next_map(self._raw, ffi.NULL)
        while raw:
            yield ffi.string(lib.bpf_map__name(raw)).decode(), raw
            raw = lib.bpf_object__next_map(self._raw, raw)

    def _raw_maps(self) -> dict[str, Any]:
        return {name: raw for name, raw in self._all_maps() if not lib.bpf_map__is_internal(raw)}

    def _raw_map(self, name: str) -> Any:
        found = self._raw_maps().get(name)
        if found is None:
            raise LayoutError(f"map {name}", f"{self._path.name} has none of that name")
        return found


def _duplicate(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0)
