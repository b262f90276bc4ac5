"""The probe of the path bench: compiled once, and what it cannot do it says, with a status."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from build_backend import path_probe
from build_backend.toolchain import BuildError

ROOT = Path(__file__).parents[3]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A source tree with the probe's sources in it."""
    (tmp_path / "meshd" / "bench").mkdir(parents=True)
    for source in (ROOT / "meshd" / "bench").glob("path_probe*.[ch]"):
        shutil.copy(source, tmp_path / "meshd" / "bench")
    return tmp_path


@pytest.mark.parametrize("name", ["path_probe.c", "path_probe_server.c", "path_probe.h"])
def test_it_is_compiled_once_until_a_source_changes(tree: Path, name: str) -> None:
    source = tree / "meshd" / "bench" / name
    assert [path_probe.build(tree), path_probe.build(tree)] == [True, False]
    source.write_text(source.read_text() + "/* more */\n")
    assert path_probe.build(tree)


def test_a_source_that_does_not_compile_is_an_error_with_the_compilers_words(tree: Path) -> None:
    before = {each.name for each in (tree / "meshd" / "bench").iterdir()}
    (tree / "meshd" / "bench" / "path_probe.c").write_text("int main(void) { return missing; }\n")
    with pytest.raises(BuildError, match="missing"):
        path_probe.build(tree)
    assert {each.name for each in (tree / "meshd" / "bench").iterdir()} == before


def _run(tree: Path, *words: str) -> subprocess.CompletedProcess[str]:
    path_probe.build(tree)
    probe = tree / "meshd" / "bench" / "path-probe"
    return subprocess.run([probe, *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ((), 2, "usage"),
        (("messages", "127.0.0.1"), 2, "usage"),
        (("messages", "localhost", "1", "64", "1", "-1"), 1, "localhost: Invalid argument"),
        (("messages", "127.0.0.1", "1", "65537", "1", "-1"), 1, "SIZE"),
        # tcpmux: nobody listens there, and nobody but root could.
        (("connections", "127.0.0.1", "1", "1", "-1"), 1, "connect: Connection refused"),
        (("wakeups", "1", "100000", "0"), 1, "sched_setaffinity"),
    ],
)
def test_what_cannot_be_is_said(tree: Path, words: tuple[str, ...], status: int, said: str) -> None:
    done = _run(tree, *words)
    assert (done.returncode, said in done.stderr, done.stdout) == (status, True, "")


def test_its_quantiles_are_of_what_it_counted(tree: Path) -> None:
    found = json.loads(_run(tree, "wakeups", "20", "-1", "-1").stdout)
    assert found["count"] > 0
    assert found["p50_ns"] <= found["p99_ns"]
