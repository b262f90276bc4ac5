"""Worker: accepts at every address of its namespace, and closes once the client has.

    python -m meshd.bench.server CPU

Requests, one JSON object a line; connections are served from the first answer on, which comes unasked:
    {"record": true}  from now on remember when each address was reached -> {}
    {"seen": true}    -> {"reached_ns": {address: CLOCK_MONOTONIC of its last connection}, "connections": n}
    {"rest": true}    forget that, remember no longer -> {}
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
import threading
import time
from typing import Any

from meshd.bench.population import BACKEND_PORT

BACKLOG = 4096
HELD = 256
NO_LINGER = struct.pack("ii", 1, 0)


class Server:
    """Accepts on a thread. What it remembers is when accept() returned, so never earlier than the client's connect() did."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("0.0.0.0", BACKEND_PORT), backlog=BACKLOG)  # noqa: S104 - its own namespace
        self._recording = False
        self._reached_ns: dict[str, int] = {}
        self._connections = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """What ``request`` asks for; see the module."""
        if "seen" in request:
            return {"reached_ns": dict(self._reached_ns), "connections": self._connections}
        self._recording = "record" in request
        self._reached_ns, self._connections = {}, 0
        return {}

    def _serve(self) -> None:
        held: list[socket.socket] = []
        while True:
            connection, _ = self._listener.accept()
            if self._recording:
                self._reached_ns[connection.getsockname()[0]] = time.monotonic_ns()
                self._connections += 1
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            # Closed some connections later, when the client has long done so: no packet of ours comes between.
            held.append(connection)
            if len(held) == HELD:
                for each in held[: HELD // 2]:
                    each.close()
                del held[: HELD // 2]


def main() -> int:
    """Serve until standard input ends."""
    os.sched_setaffinity(0, {int(sys.argv[1])})
    server = Server()
    print(json.dumps({"listening": BACKEND_PORT}), flush=True)
    for line in sys.stdin:
        print(json.dumps(server.answer(json.loads(line))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
