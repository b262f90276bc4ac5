"""Worker: dials, and says how long the kernel took, or when each backend was reached last.

    python -m meshd.bench.client CPU

Requests, one JSON object a line:
    {"connect": [[address, port], ...]}   one connection after another -> {"connect_ns": [...], "elapsed_ns": n}
    {"dial": [address, port]}             dial a telling server without pause -> {}
    {"seen": true}                        -> {"reached_ns": {backend: CLOCK_MONOTONIC}, "connections": n, "failed": n}
    {"rest": true}                        dial no longer -> as seen
"""

from __future__ import annotations

import gc
import json
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

NO_LINGER = struct.pack("ii", 1, 0)
# Blocking calls that end: a timeout of Python's own would make the socket non-blocking and add a poll to what is measured.
TIMEOUT_S = 5
TIMEOUT = struct.pack("ll", TIMEOUT_S, 0)


def opened() -> socket.socket:
    """A TCP socket that is closed by a reset, so that no port of the client waits for a minute."""
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, TIMEOUT)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, TIMEOUT)
    return made


def connects(targets: Sequence[tuple[str, int]]) -> dict[str, Any]:
    """Times ``connect`` alone for each target; ``elapsed_ns`` is from the first socket to the last close."""
    clock = time.perf_counter_ns
    taken = [0] * len(targets)
    began = clock()
    for index, target in enumerate(targets):
        made = opened()
        before = clock()
        made.connect(target)
        taken[index] = clock() - before
        made.close()
    return {"connect_ns": taken, "elapsed_ns": clock() - began}


class Dialler:
    """Dials one target without pause on a thread. The next connection waits until the server told who was reached, so no
    queue of the server's is between a connect() and its moment."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._reached_ns: dict[str, int] = {}
        self._connections = self._failed = 0
        self._going = True
        self._thread = threading.Thread(target=self._dial)
        self._thread.start()

    def seen(self) -> dict[str, Any]:
        """When connect() returned last for each backend, and how many attempts there were."""
        return {
            "reached_ns": dict(self._reached_ns),
            "connections": self._connections,
            "failed": self._failed,
        }

    def rest(self) -> dict[str, Any]:
        """Ends it."""
        self._going = False
        self._thread.join()
        return self.seen()

    def _dial(self) -> None:
        while self._going:
            with opened() as made:
                try:
                    made.connect(self._target)
                    reached_ns = time.monotonic_ns()
                    backend = made.recv(64).decode()
                except OSError:
                    self._failed += 1
                    continue
            self._connections += 1
            self._reached_ns[backend] = reached_ns


def main() -> int:
    """Answer requests until standard input ends."""
    os.sched_setaffinity(0, {int(sys.argv[1])})
    gc.disable()
    dialler: Dialler | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply, dialler = _answered(request, dialler)
        except OSError as error:
            reply = {"error": f"connect: {error.strerror}"}
        print(json.dumps(reply), flush=True)
    if dialler is not None:
        dialler.rest()
    return 0


def _answered(request: dict[str, Any], dialler: Dialler | None) -> tuple[dict[str, Any], Dialler | None]:
    if "connect" in request:
        return connects([(address, port) for address, port in request["connect"]]), dialler
    if "dial" in request:
        address, port = request["dial"]
        return {}, Dialler((address, port))
    if dialler is None:
        return {"error": "nothing is being dialled"}, None
    return (dialler.rest(), None) if "rest" in request else (dialler.seen(), dialler)


if __name__ == "__main__":
    sys.exit(main())
