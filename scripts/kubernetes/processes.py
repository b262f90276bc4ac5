"""Programs of a site: each in a cgroup of its own before its first instruction, in the namespaces it belongs to.

The cgroup is the list of what runs. It is right after any crash and for whoever did not start them, and one write kills all
of a site: containers, what holds them, and what would start them again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from meshd.errors import KernelError
from meshd.kernel import cgroup
from meshd.lab.processes import kill_tree, last_words, tell, tree
from scripts.kubernetes import hierarchies
from scripts.kubernetes.errors import SiteError

# Enters its cgroups, then the namespaces, then becomes the program. If a cgroup is gone (the site goes), nothing starts.
ENTER = 'while [ "$1" != -- ]; do echo 0 >"$1/cgroup.procs" || exit 1; shift; done; shift; exec "$@"'
POLL_S = 0.02
# The kernel keeps so much of a program's name.
COMM = 15
STOP_S = 60.0


@dataclass(frozen=True, slots=True)
class Program:
    """``cgroup``: relative to the hierarchies' roots; ``enter``: the words before ``argv``, nsenter and its options."""

    name: str
    argv: Sequence[str]
    cgroup: str
    enter: Sequence[str]
    log: Path
    # In all hierarchies and not in version 2 alone: the programs of nodes, whose containers are in all.
    everywhere: bool = False

    @property
    def directory(self) -> Path:
        """Its cgroup in version 2."""
        return cgroup.find_mount() / self.cgroup


class Started:
    """Children of this process: waited for when they have ended, or nobody would."""

    def __init__(self) -> None:
        self._children: list[subprocess.Popen[bytes]] = []

    def start(self, program: Program) -> None:
        """Starts ``program``, away from this terminal's signals; its output goes to its log."""
        directories = hierarchies.make(program.cgroup, everywhere=program.everywhere)
        program.log.parent.mkdir(parents=True, exist_ok=True)
        words = [*map(str, directories), "--", *program.enter, *program.argv]
        with program.log.open("ab") as log:
            child = subprocess.Popen(
                ["/bin/sh", "-c", ENTER, program.name, *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(),
                cwd="/",
                start_new_session=True,
            )
        self._children.append(child)

    def reap(self) -> None:
        """Takes note of those that ended."""
        self._children = [child for child in self._children if child.poll() is None]

    def reap_all(self) -> None:
        """The same when all were killed."""
        for child in self._children:
            child.wait()
        self._children = []


def _environment() -> dict[str, str]:
    # Tests find processes that were left over by a variable of their own; nothing else of our environment is passed on.
    ours = {name: value for name, value in os.environ.items() if name.startswith("MESHD_TEST_")}
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"PATH": path, "LANG": "C.UTF-8", "HOME": "/root", **ours}


def stop(program: Program, started: Started, sign: signal.Signals = signal.SIGTERM) -> None:
    """Sends ``sign`` to ``program`` and returns when it is gone; one that does not run is no error.

    Raises:
        SiteError: it still runs after STOP_S; shows the end of its log.
    """
    for pid in _own(program):
        with suppress(ProcessLookupError):
            os.kill(pid, sign)
    deadline = time.monotonic() + STOP_S
    while runs(program):
        started.reap()
        if time.monotonic() > deadline:
            raise SiteError(f"{program.name} does not end{last_words(program.log)}")
        time.sleep(POLL_S)


def runs(program: Program) -> bool:
    """Whether it runs, or is about to."""
    return bool(_own(program))


def _own(program: Program) -> list[int]:
    """Process ids of the program itself: what containerd started to hold containers is in its cgroup and outlives it."""
    becoming = {
        program.name[:COMM],
        *(Path(word).name[:COMM] for word in (*program.enter[:1], "sh", program.argv[0])),
    }
    return [pid for pid in cgroup.processes(program.directory) if _comm(pid) in becoming]


def _comm(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return None


def wait(what: str, ready: Callable[[], bool], programs: Sequence[Program], patience_s: float) -> None:
    """Returns when ``ready`` says so.

    Raises:
        SiteError: one of ``programs`` ended meanwhile, or ``patience_s`` was over; shows the ends of their logs.
    """
    deadline = time.monotonic() + patience_s
    begun = time.monotonic()
    while not ready():
        # The shell that becomes the program takes a moment to be in its cgroup.
        for program in programs if time.monotonic() > begun + 2 else ():
            if not runs(program):
                raise SiteError(f"{program.name} ended{last_words(program.log, 20)}")
        if time.monotonic() > deadline:
            logs = "".join(f"\n{program.name}{last_words(program.log)}" for program in programs)
            raise SiteError(f"{what} is not ready after {patience_s:g} s{logs}")
        time.sleep(POLL_S)


def kill_all(name: str) -> None:
    """Kills everything in the cgroups called ``name`` and removes these, in every hierarchy.

    Raises:
        SiteError: something cannot be killed, or a cgroup not be removed; may be repeated.
    """
    deadline = time.monotonic() + STOP_S
    newest, older = cgroup.find_mount() / name, [root / name for root in hierarchies.version_1()]
    while any(directory.is_dir() for directory in (newest, *older)):
        kill_tree(newest)
        for directory in older:
            tell(directory, signal.SIGKILL)
        for directory in (newest, *older):
            # A process on its way in when all were killed arrives afterwards: then once more.
            with suppress(KernelError):
                cgroup.remove_tree(directory)
        if time.monotonic() > deadline:
            raise SiteError(f"cgroups called {name} cannot be removed: processes {tree(newest)}")
        time.sleep(POLL_S)
