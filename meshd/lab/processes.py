"""Processes of a lab: each in a cgroup of its own, and in its network namespace, before its first instruction.

A socket belongs to the cgroup its process was in when it was made, so placing a process afterwards is too late. The cgroup
is also the list of what runs: it is right when this process did not start them, and after any crash.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from meshd.kernel import cgroup
from meshd.lab.record import LabError

# Enters the cgroup, then the network namespace, then becomes the program. If the cgroup is gone (the lab is being taken
# down) nothing starts. nsenter and not `ip netns exec`: that one hides cgroupfs and bpffs behind a new mount namespace.
ENTER = 'echo 0 >"$1/cgroup.procs" && netns=$2 && shift 2 && exec nsenter --net="$netns" -- "$@"'
POLL_S = 0.01
# Enough for a machine that is busy with everything else; reached only when something is wrong.
READY_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Program:
    """What to run and where. ``name`` is for people; ``directory`` holds its log and readiness socket."""

    name: str
    argv: Sequence[str]
    cgroup: Path
    netns: Path
    log: Path
    env: Mapping[str, str]


class Started:
    """A process this one started. ``notified`` is open if the program was asked to say when it is ready."""

    def __init__(
        self, program: Program, process: subprocess.Popen[bytes], notified: socket.socket | None
    ) -> None:
        self.program = program
        self.process = process
        self.notified = notified

    async def ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Returns when the program said READY=1 (sd_notify(3)); at once if it was not asked to.

        Raises:
            LabError: it ended, or said nothing for ``timeout_s``; shows the end of its log.
        """
        deadline = time.monotonic() + timeout_s
        while not self._said_ready():
            if self.process.poll() is not None:
                raise LabError(f"{self.program.name} ended with {self.process.returncode}{self.last_words()}")
            if time.monotonic() > deadline:
                raise LabError(f"{self.program.name} was not ready after {timeout_s:g} s{self.last_words()}")
            await asyncio.sleep(POLL_S)
        if self.notified is not None:
            self.notified.close()

    def _said_ready(self) -> bool:
        if self.notified is None:
            return True
        try:
            return b"READY=1" in self.notified.recv(4096)
        except BlockingIOError:
            return False

    def reap(self) -> int:
        """Its exit status, when it has ended; nothing of it is left in this process."""
        if self.notified is not None:
            self.notified.close()
        return self.process.wait()

    def reap_if_ended(self) -> None:
        """The same where it may still run; nothing is waited for."""
        if self.notified is not None:
            self.notified.close()
        self.process.poll()

    def last_words(self) -> str:
        """The end of the program's log, for an error message."""
        return last_words(self.program.log)


async def all_ready(started: Iterable[Started]) -> None:
    """Returns when all of ``started`` are ready; with the first that fails nobody is waited for any more.

    Raises:
        LabError: one of them ended, or said nothing in time.
    """
    try:
        async with asyncio.TaskGroup() as waiting:
            for each in started:
                waiting.create_task(each.ready())
    except ExceptionGroup as group:
        raise group.exceptions[0] from group


def start(program: Program, *, notify: bool = False) -> Started:
    """Starts ``program``, away from this terminal's signals; its output goes to its log, its cgroup is made if missing."""
    cgroup.create(program.cgroup)
    program.log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    env = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", **_inherited(), **program.env}
    notified = None
    if notify:
        path = program.log.with_suffix(".ready")
        notified = _readiness_socket(path)
        env["NOTIFY_SOCKET"] = str(path)
    with program.log.open("ab") as log:
        process = subprocess.Popen(
            ["/bin/sh", "-c", ENTER, program.name, str(program.cgroup), str(program.netns), *program.argv],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=env,
            cwd="/",
            start_new_session=True,
        )
    return Started(program, process, notified)


def _inherited() -> dict[str, str]:
    # Tests find processes that were left over by a variable of their own; nothing else of our environment is passed on.
    return {name: value for name, value in os.environ.items() if name.startswith("MESHD_TEST_")}


def _readiness_socket(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    notified.bind(str(path))
    return notified


def last_words(log: Path, lines: int = 8) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8192))
            tail = file.read().decode(errors="replace").splitlines()[-lines:]
    except OSError:
        return ""
    return "; its log ends:\n  " + "\n  ".join(tail) if tail else ""


def tree(root: Path) -> list[int]:
    """Ids of all processes in cgroup ``root`` and below; none where it is gone."""
    pids = cgroup.processes(root)
    try:
        children = [Path(entry.path) for entry in os.scandir(root) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return pids
    for child in children:
        pids += tree(child)
    return pids


def tell(root: Path, sign: signal.Signals) -> None:
    """Sends ``sign`` to every process in cgroup ``root`` and below."""
    for pid in tree(root):
        try:
            os.kill(pid, sign)
        except ProcessLookupError:
            continue


async def gone(root: Path, timeout_s: float = STOP_TIMEOUT_S) -> None:
    """Returns when no process is left in cgroup ``root`` and below.

    Raises:
        LabError: some are still there after ``timeout_s``.
    """
    deadline = time.monotonic() + timeout_s
    while left := tree(root):
        if time.monotonic() > deadline:
            raise LabError(f"processes {left} in {root} did not end within {timeout_s:g} s")
        await asyncio.sleep(POLL_S)


def kill_tree(root: Path, timeout_s: float = STOP_TIMEOUT_S) -> None:
    """Kills all in cgroup ``root`` and below at once, also what is forking meanwhile, and returns when it is empty.

    Raises:
        LabError: some survive (in an uninterruptible system call).
    """
    deadline = time.monotonic() + timeout_s
    while root.is_dir() and (left := tree(root)):
        try:
            (root / "cgroup.kill").write_text("1")
        except FileNotFoundError:
            # Before Linux 5.14 there is no cgroup.kill; the loop catches what forks in between.
            tell(root, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise LabError(f"processes {left} in {root} survive SIGKILL")
        time.sleep(POLL_S)
