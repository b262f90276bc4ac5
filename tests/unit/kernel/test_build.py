"""The build: nothing is compiled twice, whatever changed is compiled again, and what is missing is named in one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from build_backend import bpf, toolchain
from build_backend.toolchain import BuildError

ROOT = Path(__file__).parents[3]
HEADER = """#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, __u64); }
shared SEC(".maps") __attribute__((weak));
#define VERDICT 1
"""
PROGRAM = """#include "maps/shared.h"
SEC("cgroup/connect{family}") int connect{family}(struct bpf_sock_addr *ctx)
{{ __u32 key = 0; return bpf_map_lookup_elem(&shared, &key) ? VERDICT : 1; }}
char LICENSE[] SEC("license") = "Dual BSD/GPL";
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A source tree of two programs that share a header."""
    (tmp_path / "bpf" / "maps").mkdir(parents=True)
    (tmp_path / "bpf" / "maps" / "shared.h").write_text(HEADER)
    for family in (4, 6):
        (tmp_path / "bpf" / f"connect{family}.bpf.c").write_text(PROGRAM.format(family=family))
    return tmp_path


def build(tree: Path) -> bool:
    return bpf.build(tree, tree / "out.bpf.o")


def test_a_second_build_does_nothing(tree: Path) -> None:
    assert [build(tree), build(tree)] == [True, False]


def change_header(tree: Path) -> None:
    path = tree / "bpf" / "maps" / "shared.h"
    path.write_text(path.read_text().replace("VERDICT 1", "VERDICT 0"))


def add_program(tree: Path) -> None:
    (tree / "bpf" / "another.bpf.c").write_text(
        PROGRAM.format(family=4).replace("int connect4", "int another")
    )


def remove_program(tree: Path) -> None:
    (tree / "bpf" / "connect6.bpf.c").unlink()


def remove_object(tree: Path) -> None:
    (tree / "out.bpf.o").unlink()


def damage_object(tree: Path) -> None:
    (tree / "out.bpf.o").write_bytes(b"cut short")


@pytest.mark.parametrize(
    "change",
    [change_header, add_program, remove_program, remove_object, damage_object],
    ids=lambda f: f.__name__,
)
def test_whatever_changes_the_object_builds_it_again(tree: Path, change: Callable[[Path], None]) -> None:
    build(tree)
    before = (tree / "out.bpf.o").read_bytes()
    change(tree)
    assert build(tree)
    rebuilt = (tree / "out.bpf.o").read_bytes()
    assert (rebuilt == before) == (change in (remove_object, damage_object))


def test_builds_at_the_same_time_link_once(tree: Path) -> None:
    script = "import sys, pathlib; from build_backend import bpf; t = pathlib.Path(sys.argv[1]); "
    script += "print(bpf.build(t, t / 'out.bpf.o'))"
    command = [sys.executable, "-c", script, str(tree)]
    running = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = sorted(process.communicate()[0].strip() for process in running)
    assert said == ["False", "False", "True"]


def test_a_touched_file_with_the_same_content_is_not_compiled_again(tree: Path) -> None:
    build(tree)
    os.utime(tree / "bpf" / "maps" / "shared.h", (1, 1))
    assert not build(tree)


def test_a_program_that_does_not_compile_is_named_with_its_line_and_leaves_no_object(tree: Path) -> None:
    (tree / "bpf" / "connect4.bpf.c").write_text("int broken(void) { return missing; }\n")
    with pytest.raises(
        BuildError, match=r"connect4\.bpf\.c does not compile:[\s\S]*connect4\.bpf\.c:1:.*missing"
    ):
        build(tree)
    assert not (tree / "out.bpf.o").exists()


def test_the_object_keeps_btf_and_drops_dwarf(tree: Path) -> None:
    build(tree)
    data = (tree / "out.bpf.o").read_bytes()
    assert (b".BTF.ext\0" in data, b".debug_info\0" in data) == (True, False)


def test_a_tree_without_programs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="no BPF program in"):
        build(tmp_path)


def fake_compiler(directory: Path, refuses: str) -> Path:
    """A C compiler that finds every header but one."""
    path = directory / "cc"
    path.write_text(f'#!/bin/sh\nsource=$(cat)\ncase "$source" in *"<{refuses}>"*) exit 1;; esac\nexit 0\n')
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("header", "package"),
    [
        ("bpf/bpf.h", "libbpf-dev"),
        ("bpf/libbpf.h", "libbpf-dev"),
        ("stdio.h", "libc6-dev"),
        ("Python.h", "python3-dev"),
    ],
)
def test_a_missing_header_names_the_package_that_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, header: str, package: str
) -> None:
    monkeypatch.setenv("CC", str(fake_compiler(tmp_path, header)))
    with pytest.raises(BuildError, match=f"<{header}> is missing: `apt-get install {package}`"):
        toolchain.require_c_toolchain()


def test_this_machine_has_all_that_a_build_needs() -> None:
    toolchain.require_c_toolchain()


def test_a_missing_c_compiler_ends_a_build_with_one_sentence(tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": str(tmp_path)}
    environment.pop("CC", None)
    script = "from build_backend import backend; backend.build_wheel('/nonexistent')"
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stderr == "meshd cannot be built: no C compiler found: `apt-get install gcc libc6-dev`\n"
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("version", "targets", "linker", "asked_for"),
    [
        ("14.0.6", "bpf", "ld.lld", True),
        ("16.0.0", "bpf", "ld.lld", True),
        ("17.0.1", "bpf", "ld.lld", False),
        ("17.0.1", "bpf", "ld.other", True),
        ("22.1.8", "x86-64", "ld.lld", True),
    ],
)
def test_ziglang_is_asked_for_only_without_a_clang_and_a_linker_that_can(
    tmp_path: Path, version: str, targets: str, linker: str, asked_for: bool
) -> None:
    (tmp_path / linker).touch(mode=0o755)
    clang = tmp_path / "clang"
    clang.write_text(f'#!/bin/sh\necho "Debian clang version {version}"\necho "    {targets}  - a target"\n')
    clang.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:/bin:/usr/bin", "PYTHONPATH": str(ROOT)}
    script = "from build_backend import backend; print(backend.get_requires_for_build_wheel())"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ("ziglang" in done.stdout) == asked_for
