"""Debian's kernels, each as what QEMU starts: an image, and an initial file system with its modules.

They come from Debian's archive through apt, with lists and cache of their own, so that the machine's own sources do not
matter and nothing is installed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scripts import stamps
from scripts.kernels import initramfs

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "kernels"
# Kernel -> the release of Debian whose own kernel it is.
KERNELS: Mapping[str, str] = {"6.1": "bookworm", "6.12": "trixie"}
# Always the newest of the release. Those for virtual machines are smaller, with the same BPF and networks.
PACKAGE = "linux-image-cloud-amd64"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


class KernelError(Exception):
    """A kernel could not be had; the text says why."""


@dataclass(frozen=True, slots=True)
class Image:
    """What QEMU starts. ``release`` is what `uname -r` says there."""

    release: str
    vmlinuz: Path
    initramfs: Path


def image(kernel: str) -> Image:
    """The image of ``kernel``, made before by :func:`fetch`."""
    directory = BUILD / kernel
    release = (directory / "release").read_text().strip()
    return Image(release, directory / "vmlinuz", directory / "initramfs")


def fetch_missing() -> bool:
    """All kernels are there, made as this code makes them; whether anything had to be done. After `make clean`: the newest.

    Raises:
        KernelError: apt or dpkg failed.
    """
    made_by = [Path(__file__), Path(initramfs.__file__), initramfs.GUEST]
    key = stamps.key_of(ROOT, made_by, [])
    missing = [kernel for kernel in KERNELS if not stamps.is_current(BUILD / kernel / "stamp", key)]
    for kernel in missing:
        fetch(kernel)
        stamps.write(BUILD / kernel / "stamp", key)
    return bool(missing)


def fetch(kernel: str) -> None:
    """Downloads the newest package of ``kernel`` and makes the image.

    Raises:
        KernelError: apt or dpkg failed; what was there before is as it was.
    """
    directory = BUILD / kernel
    scratch = BUILD / f"{kernel}.new"
    shutil.rmtree(scratch, ignore_errors=True)
    download, unpacked = scratch / "download", scratch / "unpacked"
    for made in (download, unpacked):
        made.mkdir(parents=True)
    package = _download(KERNELS[kernel], download)
    _run(["dpkg-deb", "--extract", str(package), str(unpacked)], scratch)
    release = package.name.split("_")[0].removeprefix("linux-image-")
    (unpacked / "boot" / f"vmlinuz-{release}").rename(scratch / "vmlinuz")
    # A merged /usr in newer packages.
    modules = next(path for path in unpacked.glob("**/lib/modules/*") if path.name == release)
    initramfs.write(scratch / "initramfs", modules)
    (scratch / "release").write_text(release + "\n")
    for made in (download, unpacked):
        shutil.rmtree(made)
    shutil.rmtree(directory, ignore_errors=True)
    scratch.rename(directory)


def _download(suite: str, directory: Path) -> Path:
    """The package of the kernel that is the newest in ``suite``."""
    for name in ("lists/partial", "archives/partial"):
        (directory / name).mkdir(parents=True)
    sources = directory / "sources.list"
    sources.write_text(f"deb [arch=amd64 signed-by={KEYRING}] http://deb.debian.org/debian {suite} main\n")
    options = [
        *("-o", f"Dir::Etc::sourcelist={sources}", "-o", "Dir::Etc::sourceparts=/dev/null"),
        *("-o", f"Dir::State::lists={directory}/lists", "-o", f"Dir::Cache={directory}"),
        *("-o", "APT::Architecture=amd64", "-o", "APT::Sandbox::User=root"),
    ]
    _run(["apt-get", *options, "--quiet", "update"], directory)
    shown = _run(["apt-cache", *options, "show", "--no-all-versions", PACKAGE], directory)
    found = re.search(r"^Depends: (linux-image-[^ ,]+)", shown, re.MULTILINE)
    if found is None:
        raise KernelError(f"Debian's {suite} has no {PACKAGE}")
    _run(["apt-get", *options, "--quiet", "download", found[1]], directory)
    return next(directory.glob("linux-image-*.deb"))


def _run(command: list[str], directory: Path) -> str:
    done = subprocess.run(
        command, cwd=directory, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise KernelError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout
