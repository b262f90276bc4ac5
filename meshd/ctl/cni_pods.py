"""The pods of meshd on this node, told by their links, which outlive the agent; and waiting until there are none."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

# As the dataplane names the host's end of a pod's link.
PREFIX = "mpod"
LOOK_EVERY_S = 0.2
# So many are named, the rest is counted.
NAMED = 10


def pods() -> list[str]:
    """What each link of a pod says of itself, `NAMESPACE/NAME`, or its own name where it says nothing.

    Asked of the network namespace that this process is in; /sys/class/net would show the one that /sys was mounted in.
    """
    if not any(name.startswith(PREFIX) for _, name in socket.if_nameindex()):
        return []
    # Its import takes longer than all the rest of this command.
    from pyroute2 import IPRoute  # noqa: PLC0415

    with IPRoute() as route:
        links = [(link.get("ifname"), link.get("ifalias")) for link in route.get_links()]
    return sorted(alias or name for name, alias in links if name.startswith(PREFIX))


def drained(timeout_s: float, say: Callable[[str], None]) -> list[str]:
    """Waits until the runtime has deleted all pods; those left after ``timeout_s``. ``say`` hears whenever it changes."""
    deadline = time.monotonic() + timeout_s
    said: list[str] = []
    while (left := pods()) and time.monotonic() < deadline:
        if left != said:
            say(f"waiting for {named(left)}")
            said = left
        time.sleep(LOOK_EVERY_S)
    return left


def named(running: list[str]) -> str:
    """``running`` as a phrase: how many, and their names."""
    more = f" and {len(running) - NAMED} more" if len(running) > NAMED else ""
    count = "1 pod" if len(running) == 1 else f"{len(running)} pods"
    return f"{count} of meshd ({', '.join(running[:NAMED])}{more})"
