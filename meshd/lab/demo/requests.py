"""What the clients wrote down: one request per line, read while they write (format: ``workloads/x_wing.py``)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from meshd.lab.tail import Tail
from meshd.lab.workloads.x_wing import DEADLINE


class Request(NamedTuple):
    """One request of one client. ``cluster`` and ``pod`` answered it; ``lost`` says why nobody did (empty: answered)."""

    client: str
    begun_ns: int
    latency_us: int
    family: int
    cluster: str = ""
    pod: str = ""
    lost: str = ""

    @property
    def ended_ns(self) -> int:
        return self.begun_ns + self.latency_us * 1000

    @property
    def decided_ns(self) -> int:
        """When what decided its outcome happened: its end, but for a silence its beginning.

        What a phase does can be seen in requests that were under way when it began, and never in one that had ended. A
        silence until the deadline is older than its end; what the demo kills is closed by its kernel, and answers at once.
        """
        return self.begun_ns if self.lost == DEADLINE else self.ended_ns

    @property
    def stream(self) -> tuple[str, int]:
        """The client and address family: what one caller of one address sees."""
        return self.client, self.family


def parse(client: str, line: str) -> Request:
    """The request that ``client`` wrote as ``line``.

    Raises:
        ValueError: it is no such line.
    """
    begun, latency, family, outcome, *rest = line.split()
    numbers = int(begun), int(latency), int(family)
    if outcome == "ok":
        cluster, pod = rest
        return Request(client, *numbers, cluster=cluster, pod=pod)
    (reason,) = rest
    return Request(client, *numbers, lost=reason)


class Log:
    """The growing log of one client."""

    def __init__(self, client: str, path: Path) -> None:
        self.client = client
        self._tail = Tail(path)

    def new(self) -> list[Request]:
        """The requests that were completely written since the last call; none while the file is not there."""
        return [parse(self.client, line) for line in self._tail.new()]


def between(requests: Iterable[Request], first_ns: int, end_ns: int) -> list[Request]:
    """Those begun at or after ``first_ns`` and before ``end_ns``."""
    return [request for request in requests if first_ns <= request.begun_ns < end_ns]


def decided(requests: Iterable[Request], first_ns: int, end_ns: int) -> list[Request]:
    """Those decided at or after ``first_ns`` and before ``end_ns``: the requests of a phase."""
    return [request for request in requests if first_ns <= request.decided_ns < end_ns]


def answers(requests: Iterable[Request]) -> Counter[str]:
    """Complete answers by the cluster that gave them."""
    return Counter(request.cluster for request in requests if not request.lost)


def losses(requests: Iterable[Request]) -> list[Request]:
    return [request for request in requests if request.lost]


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that ``share`` (0..1) of ``values`` do not exceed (nearest rank); None of none."""
    if not values:
        return None
    rank = max(1, math.ceil(share * len(values)))
    return sorted(values)[rank - 1]
