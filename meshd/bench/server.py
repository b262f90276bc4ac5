"""Worker: accepts at every address of its namespace, and closes once the client has.

    python -m meshd.bench.server CPU

It says one JSON line when it listens. Requests, one JSON object a line:
    {"telling": true | false}   whether each connection is sent the address it reached (at first not) -> {}
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
import threading
from typing import Any

from meshd.bench.population import BACKEND_PORT

BACKLOG = 4096
HELD = 256
NO_LINGER = struct.pack("ii", 1, 0)


class Server:
    """Accepts on a thread, from the start on."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("0.0.0.0", BACKEND_PORT), backlog=BACKLOG)  # noqa: S104 - own namespace
        self._telling = False
        threading.Thread(target=self._serve, daemon=True).start()

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Does what ``request`` asks for; see the module."""
        self._telling = request["telling"]
        return {}

    def _serve(self) -> None:
        held: list[socket.socket] = []
        while True:
            connection, _ = self._listener.accept()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            if self._telling:
                _tell(connection)
            # Closed some connections later, when the client has long done so: no packet of ours comes between.
            held.append(connection)
            if len(held) == HELD:
                for each in held[: HELD // 2]:
                    each.close()
                del held[: HELD // 2]


def _tell(connection: socket.socket) -> None:
    try:
        connection.send(connection.getsockname()[0].encode())
    except OSError:
        return  # the client gave up; it counts that


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
