"""The image's Debian: Python, libbpf, certificates and what these need; no package of them is there for anything else.

It is the release that the build runs on, because the extension module is compiled here and must find there the libraries
that it was linked with. A shell stays, for whoever has to look around in a pod, and dpkg's list, which scanners for
vulnerabilities read.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scripts.image.run import ImageError, run

PACKAGES: Mapping[str, str] = {
    "python3": "runs meshd",
    "libbpf1": "loads its programs",
    "libstdc++6": "what grpcio's wheel takes from the system",
    "ca-certificates": "who else signs: collectors of traces, API servers with public certificates",
}
# Documents, less the licences, and languages.
_LEFT_OUT = ("man/*", "locale/*", "doc/*", "info/*", "zoneinfo/*")
_KEPT = ("doc/*/copyright",)
OPTIONS = (
    "--mode=root",
    # dpkg and what Debian calls essential; no apt.
    "--variant=essential",
    # Else Debian 12 brings all of Perl, once, to merge /usr.
    "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
    *(f"--dpkgopt=path-exclude=/usr/share/{path}" for path in _LEFT_OUT),
    *(f"--dpkgopt=path-include=/usr/share/{path}" for path in _KEPT),
    # Bytecode as Debian compiles it is valid for a source of one time stamp, and in an image all are the same.
    "--customize-hook=chroot $1 /usr/bin/python3 -m compileall -q -f --invalidation-mode=unchecked-hash /usr/lib/python3*",
)


@dataclass(frozen=True, slots=True)
class Debian:
    """``libc``: its version, which says what wheels it runs; ``python``: (major, minor)."""

    root: Path
    python: tuple[int, int]
    libc: tuple[int, int]


def suite() -> str:
    """The release of this machine's Debian, as its archive calls it.

    Raises:
        ImageError: this is no Debian.
    """
    lines = Path("/etc/os-release").read_text().splitlines()
    said = {name: value.strip('"') for name, _, value in (line.partition("=") for line in lines)}
    if said.get("ID") != "debian" or not said.get("VERSION_CODENAME"):
        raise ImageError(
            "an image is made on a released Debian, which it then is made of; elsewhere: deploy/image/Dockerfile"
        )
    return said["VERSION_CODENAME"]


def bootstrap(release: str, archive: Path, epoch: int) -> None:
    """A root file system of ``release`` as a tar at ``archive``, with the newest packages, security updates included.

    Raises:
        ImageError: mmdebstrap failed.
    """
    packages = ",".join(PACKAGES)
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch), "PYTHONHASHSEED": "0"}
    run(
        ["mmdebstrap", "--quiet", *OPTIONS, f"--include={packages}", release, str(archive)],
        environment=environment,
    )


def unpack(archive: Path, root: Path) -> None:
    """``archive`` as a directory, to run its Python in; without devices."""
    root.mkdir()
    run(["tar", "--extract", f"--file={archive}", f"--directory={root}", "--exclude=./dev/*"])


def described(root: Path) -> Debian:
    """What wheels need to know of the Debian in ``root``.

    Raises:
        ImageError: no Python or libc is installed there.
    """
    versions = {}
    for stanza in (root / "var/lib/dpkg/status").read_text().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line and line[0] != " ")
        if "Package" in fields:
            versions[fields["Package"]] = fields.get("Version", "")
    try:
        python, libc = (_two(versions[name]) for name in ("python3", "libc6"))
    except (KeyError, ValueError) as error:
        raise ImageError(f"{root} has no {error}") from error
    return Debian(root, python, libc)


def _two(version: str) -> tuple[int, int]:
    major, minor = version.rpartition(":")[2].replace("-", ".").split(".")[:2]
    return int(major), int(minor)


def python_in(debian: Debian, opt: Path, *arguments: str) -> None:
    """Runs the image's own Python with ``opt`` as its /opt, in a mount namespace that ends with it.

    Raises:
        ImageError: it failed.
    """
    script = 'mount --bind "$1" "$2/opt" && root=$2 && shift 2 && exec chroot "$root" /usr/bin/python3 "$@"'
    separate = ["unshare", "--mount", "--propagation", "private"]
    run(
        [*separate, "sh", "-c", script, "sh", str(opt), str(debian.root), *arguments],
        # Sets in constants are written in the order of their hashes.
        environment={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"},
    )


def architecture() -> str:
    """As `uname -m` says it."""
    return subprocess.run(["uname", "-m"], capture_output=True, text=True, check=True).stdout.strip()
