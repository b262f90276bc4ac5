"""Child processes of a bench: in their namespace and cgroup before their first socket, and gone with this process.

A worker is a module of this package that reads requests from its standard input, one JSON value a line, and answers each
with one; it ends when its input does, so none survives a bench that was killed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from meshd.bench.places import BenchError, Cpus, Place, Places
from meshd.kernel import cgroup
from meshd.kernel.netns import Netns

# A socket belongs to the cgroup its process was in when it was made, so first the cgroup, then the namespace. pdeathsig:
# what does not read our pipe (an agent) dies with us as well.
_ENTER = (
    'echo 0 >"$1/cgroup.procs" && netns=$2 && shift 2 '
    '&& exec nsenter --net="$netns" -- setpriv --pdeathsig KILL -- "$@"'
)


def entering(group: Path, netns: Netns, command: Sequence[str]) -> list[str]:
    """``command`` as a command line that runs in ``group`` and ``netns``."""
    cgroup.create(group)
    return ["/bin/sh", "-c", _ENTER, "bench", str(group), f"/proc/{os.getpid()}/fd/{netns.fd}", *command]


class Worker:
    """A running worker; `ask` is all there is."""

    def __init__(self, name: str, module: str, group: Path, netns: Netns, *arguments: str) -> None:
        self._name = name
        command = [sys.executable, "-m", f"meshd.bench.{module}", *arguments]
        self._process = subprocess.Popen(
            entering(group, netns, command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C is for us alone: workers end when their input does.
            start_new_session=True,
        )

    def send(self, **request: Any) -> None:  # Any: JSON values, as the worker's module defines them
        """Asks without waiting for the answer, which `answer` returns later."""
        try:
            self._input.write(json.dumps(request) + "\n")
            self._input.flush()
        except BrokenPipeError:
            raise BenchError(f"{self._name} ended with {self._process.wait()}") from None

    def answer(self) -> Any:  # Any: as above
        """The answer to the oldest request that is not answered yet.

        Raises:
            BenchError: the worker ended, or says why it cannot do it.
        """
        line = self._output.readline()
        if not line:
            raise BenchError(f"{self._name} ended with {self._process.wait()}")
        reply = json.loads(line)
        if "error" in reply:
            raise BenchError(f"{self._name}: {reply['error']}")
        return reply

    def ask(self, **request: Any) -> Any:  # Any: as above
        """The answer to one request; errors as in `answer`."""
        self.send(**request)
        return self.answer()

    def close(self) -> None:
        """Ends the worker and waits for that."""
        self._input.close()
        self._process.wait()
        self._output.close()

    @property
    def _input(self) -> Any:  # Any: Popen's pipes are IO[str] or None, and ours are never None
        return self._process.stdin

    @property
    def _output(self) -> Any:  # Any: as above
        return self._process.stdout


def serve_at(place: Place, places: Places, cpus: Cpus) -> Worker:
    """The server of ``place``, listening at every backend address when this returns; its requests: ``server.py``."""
    group = places.cgroup / "servers"
    server = Worker(f"server of {place.name}", "server", group, place.server, str(cpus.server))
    server.answer()
    return server


def client_at(place: Place, cpus: Cpus) -> Worker:
    """A client of ``place``; its requests are those of ``client.py``."""
    return Worker(f"client of {place.name}", "client", place.cgroup, place.client, str(cpus.client))
