"""Real programs in the namespaces of pods."""

from __future__ import annotations

import subprocess
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from meshd.kernel.netns import Netns
from tests.netns.pod_network.host import Pod
from tests.patience import patience, wait_until

LISTENS = "0A"  # include/net/tcp_states.h


@contextmanager
def running(pod: Pod, port: int, log: Path, *command: str) -> Iterator[None]:
    """A server of a pod, from when it listens on; what it says goes to ``log``."""
    with (
        log.open("ab") as output,
        pod.netns.run(
            lambda: subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        ) as process,
    ):
        try:
            wait_until(lambda: process.poll() is not None or listens(pod.netns, port), 30)
            assert process.poll() is None, log.read_text()
            yield
        finally:
            process.terminate()
            process.wait(patience(20))


def listens(netns: Netns, port: int) -> bool:
    """Whether somebody in the namespace listens on a port."""
    tables = netns.run(lambda: [Path("/proc/thread-self/net", name).read_text() for name in ("tcp", "tcp6")])
    rows = [line.split() for table in tables for line in table.splitlines()[1:]]
    return any(row[1].endswith(f":{port:04X}") and row[3] == LISTENS for row in rows)


def said(pod: Pod, *command: str, seconds: float = 60) -> str:
    """What a client says that runs in a pod and succeeds."""
    done = pod.netns.run(
        lambda: subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=patience(seconds),
        )
    )
    assert done.returncode == 0, f"{' '.join(command)[:200]}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def written(path: Path, text: str) -> str:
    """The file's name, with ``text`` in it."""
    path.write_text(textwrap.dedent(text))
    return str(path)
