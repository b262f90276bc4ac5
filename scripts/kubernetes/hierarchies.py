"""A cgroup of one name in every hierarchy that this machine has: version 2, and where there is one, version 1 beside it.

Container runtimes make theirs in all of them, and so a node has one in all, which its programs and pods see as the root.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from meshd.kernel import cgroup

# What a kubelet wants to limit (https://kubernetes.io/docs/concepts/architecture/cgroups/).
CONTROLLERS = ("cpu", "cpuset", "io", "memory", "pids", "hugetlb")
# Those of version 1, as mount options call them; other words there are no affair of a hierarchy's other mounts.
VERSION_1 = frozenset(
    (
        *("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "net_cls", "net_prio"),
        *("perf_event", "hugetlb", "rdma", "misc", "none"),
    )
)


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """A mount of kind ``cgroup`` or ``cgroup2``; ``options``: which controllers of version 1, for mount(8)."""

    directory: Path
    kind: str
    options: str


def mounted(mounts: str | None = None) -> list[Hierarchy]:
    """All hierarchies, as /proc/self/mounts has them."""
    found = {}
    for line in (Path("/proc/self/mounts").read_text() if mounts is None else mounts).splitlines():
        _, directory, kind, options, *_ = line.split(" ")
        if kind in {"cgroup", "cgroup2"}:
            words = [word for word in options.split(",") if word in VERSION_1 or word.startswith("name=")]
            found[directory] = Hierarchy(Path(directory), kind, ",".join(words))
    return [*found.values()]


def version_1() -> list[Path]:
    """The roots of version 1's, none on most machines."""
    return [hierarchy.directory for hierarchy in mounted() if hierarchy.kind == "cgroup"]


def make(name: str, *, everywhere: bool) -> list[Path]:
    """The cgroups called ``name`` in version 2, and ``everywhere`` in version 1 too, made where they are missing."""
    roots = [cgroup.find_mount(), *(version_1() if everywhere else ())]
    for root in roots:
        _make_below(root, name)
    return [root / name for root in roots]


def _make_below(root: Path, name: str) -> None:
    parent = root
    for part in Path(name).parts:
        directory = parent / part
        directory.mkdir(exist_ok=True)
        # A cgroup of this controller takes processes only when it is said which processors and memory they may have.
        for needed in ("cpuset.cpus", "cpuset.mems"):
            values = directory / needed
            inherited = parent / needed
            if values.exists() and inherited.exists() and not values.read_text().strip():
                values.write_text(inherited.read_text())
        parent = directory


def delegate(name: str) -> None:
    """Controllers of version 2 are at work in all cgroups on the way to ``name``, and can be in its children.

    Which these are, is where they are not version 1's. No process may be in any of them but the root.
    """
    directory = cgroup.find_mount()
    for part in ("", *Path(name).parts):
        directory /= part
        present = (directory / "cgroup.controllers").read_text().split()
        at_work = (directory / "cgroup.subtree_control").read_text().split()
        wanted = [f"+{each}" for each in CONTROLLERS if each in present and each not in at_work]
        if wanted and "memory" in present:
            (directory / "cgroup.subtree_control").write_text(" ".join(wanted))
