"""The pods of meshd on this node, told by their links, which outlive the agent; and waiting until there are none."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

LINKS = Path("/sys/class/net")
# As the dataplane names the host's end of a pod's link.
PREFIX = "mpod"
LOOK_EVERY_S = 0.2
# So many are named, the rest is counted.
NAMED = 10


def pods() -> list[str]:
    """What each link of a pod says of itself, `NAMESPACE/NAME`, or its own name where it says nothing."""
    found = []
    for link in LINKS.glob(f"{PREFIX}*"):
        try:
            found.append((link / "ifalias").read_text().strip() or link.name)
        except OSError:
            # Gone since it was listed.
            continue
    return sorted(found)


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
