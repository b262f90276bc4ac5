"""The first file system of a guest: made here, read by Linux."""

from __future__ import annotations

import lzma
import subprocess
from pathlib import Path

import pytest

from scripts.kernels import initramfs


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
