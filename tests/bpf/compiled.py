"""Compiles the BPF programs that only tests use, with the compiler, flags and linker of the package's own object."""

from __future__ import annotations

from pathlib import Path

from build_backend import bpf

PROGRAMS = Path(__file__).with_name("programs")


def compiled(*names: str, directory: Path) -> Path:
    """The object linked from tests/bpf/programs/NAME.bpf.c for each of ``names``, made in ``directory``."""
    target = directory / f"{names[0]}.bpf.o"
    bpf.link_programs([PROGRAMS / f"{name}.bpf.c" for name in names], target, directory)
    return target
