"""What a machine holds that outlives a process: read from /proc, /sys and netlink tools, changed by nobody here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

# The whole network tree, and what daemons and test clusters are known to change elsewhere.
SYSCTLS = (
    "net",
    "kernel/bpf_stats_enabled",
    "kernel/unprivileged_bpf_disabled",
    "kernel/panic",
    "kernel/panic_on_oops",
    "vm/overcommit_memory",
    "fs/inotify/max_user_instances",
)
# Values that move by themselves: counters, and keys made on first use.
MOVING = ("nf_conntrack_count", "tcp_fastopen_key", "stable_secret")


def sysctls() -> dict[str, str]:
    """Name -> value for every readable sysctl that a test could have reason to change in the first namespace."""
    return {
        str(path.relative_to("/proc/sys")): value
        for root in SYSCTLS
        for path in _files(Path("/proc/sys", root))
        if not any(part in str(path) for part in MOVING) and (value := _read(path)) is not None
    }


def _files(root: Path) -> Iterator[Path]:
    if root.is_file():
        yield root
    for directory, _, names in os.walk(root):
        yield from (Path(directory, name) for name in names)


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return None


def named_netns() -> list[str]:
    """Names that ``ip netns`` would list."""
    return [str(path) for path in Path("/run/netns").glob("*")]


def links() -> list[str]:
    """Interfaces of this process's network namespace."""
    return [path.name for path in Path("/sys/class/net").iterdir()]


def nft_tables() -> list[str]:
    """``NAME`` of every nftables table here; none where there is no nft."""
    if not shutil.which("nft"):
        return []
    answer = subprocess.run(["nft", "--json", "list", "tables"], capture_output=True, check=False)
    if answer.returncode != 0:
        return []
    return [row["table"]["name"] for row in json.loads(answer.stdout)["nftables"] if "table" in row]


def mounts() -> list[str]:
    """Mount points of this mount namespace: bpffs, and network namespaces that are kept by a bind mount."""
    return [line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]


def cgroups() -> list[str]:
    """Every cgroup below the first cgroup v2 mount."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, directory, kind, *_ = line.split(" ")
        if kind == "cgroup2":
            return [str(Path(parent, name)) for parent, names, _ in os.walk(directory) for name in names]
    return []


def processes_with(setting: str) -> list[str]:
    """Processes other than this one that were started with ``NAME=value`` in their environment, by whomever.

    One that ended without being waited for has no environment any more: it is found by its parent, this process.
    """
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        if int(entry.name) == os.getpid():
            continue
        status = _read(entry / "status") or ""
        inherited = setting.encode() in (_read_bytes(entry / "environ")).split(b"\0")
        if inherited or f"\nPPid:\t{os.getpid()}\n" in status:
            command = _read_bytes(entry / "cmdline").replace(b"\0", b" ").decode(errors="replace").strip()
            name = status.partition("\n")[0].removeprefix("Name:\t")
            found.append(f"process {entry.name} {command or f'{name} (ended, nobody waited for it)'}")
    return found


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
