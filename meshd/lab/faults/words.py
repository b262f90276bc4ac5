"""What diallers and agents wrote down of a lab's nodes, read while they write."""

from __future__ import annotations

import json
import time
from datetime import datetime
from typing import NamedTuple

OPEN = "open"
NO_ANSWER = "node does not answer"
ELECTED = "elected publisher"


class Attempt(NamedTuple):
    """One connection of the dialler of ``node`` to backend ``pod`` (CLUSTER/POD); ``outcome``: open, refused, silent."""

    node: str
    begun_ns: int
    latency_us: int
    pod: str
    outcome: str


class Fall(NamedTuple):
    """The agent of ``observer`` said at ``at_ns`` (monotonic) that ``node`` does not answer, for ``silent_ms`` by then."""

    observer: str
    node: str
    at_ns: int
    silent_ms: int


def attempt(node: str, line: str) -> Attempt:
    """What the dialler of ``node`` wrote as ``line``."""
    begun, latency, pod, outcome = line.split()
    return Attempt(node, int(begun), int(latency), pod, outcome)


def event(line: str) -> dict[str, object]:
    """What an agent logged as ``line``; empty: a line that is no event (a traceback, a library's words)."""
    try:
        said = json.loads(line)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def monotonic_ns(said: dict[str, object]) -> int:
    """When an event was logged; log lines carry the time of day, which nobody sets while a lab is watched."""
    at_s = datetime.fromisoformat(str(said["timestamp"])).timestamp()
    return int(at_s * 1e9) - time.time_ns() + time.monotonic_ns()


def fall(observer: str, said: dict[str, object]) -> Fall | None:
    """The fall that an event tells of; None: of none."""
    if said.get("event") != NO_ANSWER:
        return None
    node = str(said["node"]).rpartition("/")[2]
    return Fall(observer, node, monotonic_ns(said), int(str(said["silent_ms"])))
