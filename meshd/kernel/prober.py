"""Asks addresses again and again whether anything is there, on a thread in C (prober.c): on time, whatever Python does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from meshd.errors import KernelError
from meshd.kernel._libbpf import ffi, lib
from meshd.kernel.result import checked

NS = 1e-9


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to ask: 16 bytes of address, and of the source (None: as routes say). ``id``: 32 bits, not used again."""

    id: int
    address: bytes
    port: int
    source: bytes | None = None


class Sample(NamedTuple):
    """What came of asking one target so far. Times in seconds of `time.monotonic`; 0: never, or not known.

    ``unanswered``: sent since the last answer came; ``unsent``: could not be sent since then, because this host would not.
    ``asked``: both, since ever. ``rtt_s``: smoothed (RFC 6298). ``last_error``: errno of the last that was unsent, or that
    an ICMP error answered.
    """

    unanswered: int
    unsent: int
    asked: int
    answered: int
    asked_at: float
    answered_at: float
    rtt_s: float
    last_error: int


class Health(NamedTuple):
    """Of the prober itself. ``late_s``: for so long, in all, it was kept from asking; below 100 ms does not count."""

    now: float
    late_s: float


class Prober:
    """A thread in the namespace and cgroup of whoever makes this. `close` ends it.

    Raises:
        KernelError: it cannot be started.
    """

    def __init__(self) -> None:
        self._prober = lib.meshd_prober_start()
        if not self._prober:
            raise KernelError("start", "prober", ffi.errno)
        self._room = 0

    def set(self, targets: Sequence[Target], interval_s: float) -> None:
        """From now on asks these, each every ``interval_s``; one of the same id keeps what is known of it.

        Raises:
            KernelError: there is no memory.
        """
        made = ffi.new("struct meshd_probe_target[]", max(len(targets), 1))
        for place, target in zip(made, targets, strict=False):
            place.address, place.source = target.address, target.source or bytes(16)
            place.id, place.port = target.id, target.port
        result = lib.meshd_prober_set(self._prober, made, len(targets), int(interval_s / NS))
        checked(result, "set", "targets of the prober")
        self._room = len(targets)

    def read(self) -> tuple[Mapping[int, Sample], Health]:
        """Id -> what came of asking it so far."""
        states = ffi.new("struct meshd_probe_state[]", max(self._room, 1))
        health = ffi.new("struct meshd_prober_health *")
        count = min(lib.meshd_prober_read(self._prober, states, self._room, health), self._room)
        samples = {state.id: _sample(state) for state in _first(states, count)}
        return samples, Health(health.now_ns * NS, health.late_ns * NS)

    def close(self) -> None:
        """Ends the thread; waits for it. More than once is no error."""
        if self._prober:
            lib.meshd_prober_stop(self._prober)
            self._prober = None


def _first(states: ffi.CData, count: int) -> Iterable[ffi.CData]:
    return (states[index] for index in range(count))


def _sample(state: ffi.CData) -> Sample:
    return Sample(
        state.unanswered,
        state.unsent,
        state.asked,
        state.answered,
        state.last_asked_ns * NS,
        state.last_answer_ns * NS,
        state.srtt_ns * NS,
        state.last_error,
    )
