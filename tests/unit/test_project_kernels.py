"""The first file system of a guest: made here, read by Linux. And what is read from what pytest says there."""

from __future__ import annotations

import lzma
import subprocess
from pathlib import Path

import pytest

from scripts.kernels import images, initramfs
from scripts.kernels.__main__ import TESTS, arguments_of
from scripts.kernels.outcome import Outcome, counts_in


def module(path: Path, depends: str) -> None:
    """As much of a module as is read: its section .modinfo."""
    content = b"\x7fELF\0name=" + path.name.encode() + b"\0depends=" + depends.encode() + b"\0"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lzma.compress(content) if path.suffix == ".xz" else content)


def test_modules_come_after_what_they_depend_on_and_those_not_asked_for_do_not_come(tmp_path: Path) -> None:
    module(tmp_path / "kernel/net/vxlan.ko.xz", "udp_tunnel,ip6_udp_tunnel")
    module(tmp_path / "kernel/net/udp-tunnel.ko.xz", "")
    module(tmp_path / "kernel/net/ip6-udp-tunnel.ko", "udp_tunnel")
    module(tmp_path / "kernel/sound/snd.ko", "")
    ordered = initramfs.in_order(tmp_path)
    assert list(ordered) == ["udp_tunnel", "ip6_udp_tunnel", "vxlan"]
    assert ordered["vxlan"].startswith(b"\x7fELF")


@pytest.mark.needs("command:busybox")
def test_the_archive_unpacks_to_what_went_in(tmp_path: Path) -> None:
    files = [("bin", initramfs.DIRECTORY, b""), ("bin/init", initramfs.PROGRAM, b"#!/bin/sh\n")]
    archive = initramfs.archive([*files, ("odd", initramfs.FILE, b"12345")])
    subprocess.run(["busybox", "cpio", "-i"], input=archive, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "odd").read_bytes() == b"12345"
    assert (tmp_path / "bin" / "init").read_bytes() == b"#!/bin/sh\n"
    assert (tmp_path / "bin" / "init").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(
    ("line", "counts"),
    [
        (
            "= 2 failed, 104 passed, 1 skipped in 62.31s (0:01:02) =",
            {"failed": 2, "passed": 104, "skipped": 1},
        ),
        ("1 passed in 12.75s", {"passed": 1}),
        ("tests/netns/kernel/test_maps.py ......   [ 12%]", {}),
        ("tcx: 1 test: making a link answers EINVAL", {}),
    ],
)
def test_counts_come_from_the_last_line_only(line: str, counts: dict[str, int]) -> None:
    assert counts_in(line) == counts


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (
            Outcome("6.1.0", 0, 301.2, {"passed": 104, "skipped": 1}),
            "6.1.0: ok: 104 passed, 1 left out, 301 s",
        ),
        (Outcome("6.1.0", 1, 9.0, {"passed": 1}), "6.1.0: FAILED: 1 passed, pytest's status is 1, 9 s"),
        (Outcome("6.1.0", None, 9.0, reason="it ended"), "6.1.0: it ended, after 9 s"),
    ],
)
def test_an_outcome_says_what_was_left_out_and_whether_all_was_agreed(outcome: Outcome, said: str) -> None:
    assert (str(outcome), outcome.passed) == (said, outcome.status == 0)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], [*TESTS]),
        (["-x", "-k", "weights"], [*TESTS, "-x", "-k", "weights"]),
        (["-q", "tests/unit::test_one"], ["-q", "tests/unit::test_one"]),
    ],
)
def test_options_alone_do_not_replace_the_tests(given: list[str], told: list[str]) -> None:
    assert arguments_of(given) == told


@pytest.mark.parametrize("test", TESTS)
def test_every_kernels_tests_are_there(test: str) -> None:
    path, _, name = test.partition("::")
    assert (images.ROOT / path).exists()
    assert f"def {name}(" in ((images.ROOT / path).read_text() if name else "def (")
