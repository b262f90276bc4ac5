"""Taking a lab down, from its id alone: whatever state it is in, and as often as one likes.

Every process of a lab is in its cgroup, every mount and file below its two directories, and every link in its namespaces; so
nothing has to be remembered, and a lab whose maker was killed between any two steps goes like any other. Order: processes
(they hold everything else), cgroups (with them what is attached to them), mounts (network namespaces and pins), files.
"""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from pathlib import Path

from meshd.errors import KernelError
from meshd.kernel import cgroup
from meshd.kernel.netns import remove_named
from meshd.kernel.pins import unmount_bpffs
from meshd.lab.layout import Places
from meshd.lab.processes import kill_tree
from meshd.lab.record import LabError, existing, held, is_held, read

REMOVE_TIMEOUT_S = 10.0


def down(places: Places) -> None:
    """Removes all of lab ``places.id``. The caller holds the lab (``record.held``) or is its maker.

    Raises:
        LabError, KernelError: something cannot be removed; what it is. The rest is gone, and `down` may be repeated.
    """
    _remove_cgroups(places.cgroup)
    for path in reversed(mounts_below(places.run)):
        if path.is_dir():
            unmount_bpffs(path)
        else:
            remove_named(path)
    for directory in (places.state, places.run):
        shutil.rmtree(directory, ignore_errors=True)
        if directory.exists():
            shutil.rmtree(directory)
        # The last lab takes the directory of all labs along.
        with suppress(OSError):
            directory.parent.rmdir()


def take_down(places: Places) -> None:
    """`down` for someone who does not hold the lab yet.

    Raises:
        LabError: another process is working on it.
    """
    with held(places):
        down(places)


def _remove_cgroups(root: Path) -> None:
    # A process on its way into the cgroup when all in it were killed may arrive afterwards: then once more.
    deadline = time.monotonic() + REMOVE_TIMEOUT_S
    while root.is_dir():
        kill_tree(root)
        try:
            cgroup.remove_tree(root)
        except KernelError as error:
            if time.monotonic() > deadline:
                raise LabError(f"cgroup {root} cannot be removed: {error}") from error


def mounts_below(directory: Path) -> list[Path]:
    """Mount points below ``directory``, in the order they were made."""
    found = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        path = Path(line.split(" ")[1].encode().decode("unicode_escape"))
        if directory in path.parents:
            found.append(path)
    return found


def abandoned(all_places: list[Places]) -> list[Places]:
    """Labs that nobody will finish or end: their maker or demo died. One that `up` finished stays until `down`."""
    return [places for places in all_places if not is_held(places) and not _is_finished(places)]


def _is_finished(places: Places) -> bool:
    try:
        return read(places).keeper == "up"
    except LabError:
        return False


def sweep(places: Places) -> list[str]:
    """Removes labs of this machine that were abandoned; their ids. ``places`` says only where labs are."""
    gone = []
    candidates = [
        Places(name, places.cgroup_mount, places.run_root, places.state_root)
        for name in existing(places.run_root, places.state_root)
        if name != places.id
    ]
    for left in abandoned(candidates):
        take_down(left)
        gone.append(left.id)
    return gone
