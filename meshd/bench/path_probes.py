"""Both ends of a path and what is sent between them: by the probe (``path_probe.c``), and by iperf3 for bulk.

Servers stay for the whole run; each measurement is a client process of its own, on the CPU it is told.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshd.bench.path_results import ANY, ONE, TWO
from meshd.bench.places import BenchError
from meshd.bench.workers import entering
from meshd.kernel.netns import Netns

PROBE = Path(__file__).with_name("path-probe")
PROBE_PORT, BULK_PORT = 7701, 7702
# Longer than any measurement by far.
TIMEOUT_S = 30.0
# The server of iperf3 stops counting when the client has written all: what is in buffers then must not matter.
BULK_BYTES_MIN = 32 << 20
BYTES = {"64 B": 64, "1 KB": 1024, "16 KB": 16384}


@dataclass(frozen=True, slots=True)
class Placement:
    """Which CPU the client and which the server runs on; None: where the scheduler puts them."""

    name: str
    client: int | None
    server: int | None

    @classmethod
    def chosen(cls) -> tuple[Placement, ...]:
        """The placements of this machine; on a single CPU there is only one that says something."""
        first, last = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))
        one = cls(ONE, first, first)
        if first == last:
            return (one,)
        return (one, cls(TWO, first, last), cls(ANY, None, None))


@dataclass(frozen=True, slots=True)
class End:
    """Where processes of one end run, and the address others reach them by."""

    name: str
    netns: Netns
    cgroup: Path
    address: str


class Server:
    """Answers at ``end`` from when it is made; its processes end with `close`. ``iperf3``: it takes part in `bulk`, too."""

    def __init__(self, end: End, *, iperf3: bool = True) -> None:
        self.end = end
        self._placement: Placement | None = None
        self._processes: list[subprocess.Popen[str]] = []
        probe = [str(PROBE), "serve", end.address, str(PROBE_PORT)]
        bulk = ["iperf3", "--server", "--bind", end.address, "--port", str(BULK_PORT), "--forceflush"]
        try:
            for command, word in ((probe, "serving"), (bulk, "listening"))[: 1 + iperf3]:
                self._processes.append(started(end, command))
                wait_for(word, self._processes[-1], f"{Path(command[0]).name} at {end.name}")
        except BenchError:
            self.close()
            raise

    @property
    def pids(self) -> list[int]:
        """The ids of its processes."""
        return [process.pid for process in self._processes]

    def place(self, placement: Placement) -> None:
        """Moves it to the CPU of ``placement``."""
        if placement == self._placement:
            return
        cpus = os.sched_getaffinity(0) if placement.server is None else {placement.server}
        for pid in self.pids:
            os.sched_setaffinity(pid, cpus)
        self._placement = placement

    def close(self) -> None:
        """Ends it."""
        for process in self._processes:
            process.kill()
            process.wait()
            _output(process).close()


def started(end: End, command: Sequence[str]) -> subprocess.Popen[str]:
    """``command`` at ``end``; what it says is to be read."""
    return subprocess.Popen(
        entering(end.cgroup, end.netns, command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(word: str, process: subprocess.Popen[str], name: str) -> None:
    """Returns when ``process`` has said ``word``.

    Raises:
        BenchError: it ended before; with what it said.
    """
    said = ""
    for line in _output(process):
        if word in line.lower():
            return
        said += line
    raise BenchError(f"{name} ended with {process.wait()}: {said.strip()}")


def _output(
    process: subprocess.Popen[str],
) -> Any:  # Any: Popen's pipes are IO[str] or None, and this one is never None
    return process.stdout


@dataclass(frozen=True, slots=True)
class Metric:
    """One thing to measure, and how: ``measure`` answers one value for each of ``names``."""

    names: tuple[str, ...]
    unit: str
    measure: Callable[[End, End, Placement, float], tuple[float, ...]]


def messages(size: int) -> Callable[[End, End, Placement, float], tuple[float, ...]]:
    """Round trips of ``size`` bytes each way for some seconds: p50 and p99 in microseconds."""

    def measure(client: End, server: End, placement: Placement, seconds: float) -> tuple[float, ...]:
        found = _probe(
            client,
            "messages",
            server.address,
            PROBE_PORT,
            size,
            _milliseconds(seconds),
            _cpu(placement.client),
        )
        return found["p50_ns"] / 1000, found["p99_ns"] / 1000

    return measure


def connections(client: End, server: End, placement: Placement, seconds: float) -> tuple[float, ...]:
    """One connection after another, each with a message of 64 bytes and its answer: how many a second."""
    found = _probe(
        client, "connections", server.address, PROBE_PORT, _milliseconds(seconds), _cpu(placement.client)
    )
    return (found["count"] * 1e9 / found["elapsed_ns"],)


def bulk(client: End, server: End, placement: Placement, seconds: float) -> tuple[float, ...]:
    """One stream of iperf3, in Gbit/s: as many bytes as 10 Gbit/s carry in ``seconds``, twice over."""
    size = max(int(2.5e9 * seconds), BULK_BYTES_MIN)
    affinity = [] if placement.client is None else ["--affinity", str(placement.client)]
    command = [
        "iperf3",
        "--client",
        server.address,
        "--port",
        str(BULK_PORT),
        "--bytes",
        str(size),
        "--json",
        *affinity,
    ]
    found = _run(client, command)
    # Told in the document alone: some versions end with status 0 all the same.
    if "error" in found:
        raise BenchError(f"iperf3 at {client.name}: {found['error']}")
    return (found["end"]["sum_received"]["bits_per_second"] / 1e9,)


def stream(size: int) -> Callable[[End, End, Placement, float], tuple[float, ...]]:
    """One stream, ``size`` bytes in a write, until all of it is read: Gbit/s."""

    def measure(client: End, server: End, placement: Placement, seconds: float) -> tuple[float, ...]:
        words = size, _milliseconds(seconds), _cpu(placement.client)
        found = _probe(client, "stream", server.address, PROBE_PORT, *words)
        return (8 * found["bytes"] / found["elapsed_ns"],)

    return measure


def calls(client: End, _: End, placement: Placement, seconds: float) -> tuple[float, ...]:
    """A system call that does nothing, over and over: nanoseconds."""
    found = _probe(client, "calls", _milliseconds(seconds), _cpu(placement.client))
    return (found["elapsed_ns"] / found["count"],)


def wakeups(client: End, _: End, placement: Placement, seconds: float) -> tuple[float, ...]:
    """Two processes at ``client`` that wake each other by eventfd, and nothing else: p50 and p99 in microseconds."""
    found = _probe(client, "wakeups", _milliseconds(seconds), _cpu(placement.client), _cpu(placement.server))
    return found["p50_ns"] / 1000, found["p99_ns"] / 1000


METRICS = (
    *(Metric((f"{size} p50", f"{size} p99"), "us", messages(count)) for size, count in BYTES.items()),
    Metric(("connections",), "1/s", connections),
    Metric(("bulk",), "Gbit/s", bulk),
)
FLOOR_METRIC = Metric(("wake-up p50", "wake-up p99"), "us", wakeups)


def _milliseconds(seconds: float) -> int:
    return max(round(seconds * 1000), 1)


def _cpu(cpu: int | None) -> int:
    return -1 if cpu is None else cpu


def _probe(end: End, *words: object) -> Any:  # Any: JSON, as path_probe.c says
    return _run(end, [str(PROBE), *map(str, words)])


def _run(end: End, command: Sequence[str]) -> Any:  # Any: JSON of the program
    """What ``command`` says at ``end``.

    Raises:
        BenchError: it failed; with what it says.
    """
    try:
        done = subprocess.run(
            entering(end.cgroup, end.netns, command),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BenchError(
            f"{Path(command[0]).name} at {end.name} did not end within {TIMEOUT_S:g} s"
        ) from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise BenchError(f"{Path(command[0]).name} at {end.name} ended with {done.returncode}: {said}")
    return json.loads(done.stdout)
