"""What a lab leaves on a machine, looked for by its id; and the way the command is run in these tests."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from meshd.kernel import cgroup
from meshd.lab.down import mounts_below
from meshd.lab.layout import Places
from meshd.lab.processes import tree
from tests.patience import patience

# Reached only when something hangs: the tests say what they wait for, never how long it takes.
TIMEOUT_S = patience(60)
POLL_S = patience(0.005)


def places(lab_id: str) -> Places:
    return Places(lab_id, cgroup.find_mount())


def traces(lab: Places) -> list[str]:
    """Processes, cgroups, mounts (network namespaces, pins), files and directories of a lab; none: it is gone."""
    found = [f"process {pid}" for pid in tree(lab.cgroup)]
    found += [f"mount {path}" for path in mounts_below(lab.run)]
    found += [f"there is {path}" for path in (lab.cgroup, lab.run, lab.state) if path.exists()]
    return found


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "meshd.lab.cli", *arguments]


def lab(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`meshctl lab` to its end."""
    return subprocess.run(command(*arguments), capture_output=True, text=True, check=False, timeout=TIMEOUT_S)


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Returns when ``condition`` holds; fails naming ``what`` did not come."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come within {TIMEOUT_S:g} s"
        time.sleep(POLL_S)


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
