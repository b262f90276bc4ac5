"""The short circuit as metrics. Everything is read when somebody asks for it.

By pair only what this node's workloads of now sent, and of so many pairs only: the number of pairs grows with the square of
that of pods, and pods come and go. `meshctl short-circuit pairs` has all of them, and what the metrics leave out is in the
sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from meshd.agent.short_circuit_reading import Reading
from meshd.agent.short_circuit_sums import NOTHING, Counts, Ends, Sent, Summed, added
from meshd.dataplane.short_circuit.circuit import ShortCircuit
from meshd.servers.introspection import Figure, Sample

# Who sends to whom, as names of workloads.
Names = tuple[str, str]

PAIRS_SHOWN = 200
WAYS = ("handed_over", "tcp")


class Figures:
    """Of ``circuit``."""

    def __init__(self, circuit: ShortCircuit, reading: Reading) -> None:
        self._circuit = circuit
        self._reading = reading
        # A pair that was shown once goes on being shown while it exists: a series does not come and go.
        self._shown: dict[Names, None] = {}

    def all(self) -> Sequence[Figure]:
        """Every one."""
        return [*self._node(), *self._sums(self._reading.sums.now())]

    def _node(self) -> Iterator[Figure]:
        circuit = self._circuit
        on, selected = Sample(float(circuit.switchboard.is_on)), Sample(float(circuit.selected()))
        excluded = Sample(float(len(self._reading.excluded())))
        yield Figure("short_circuit_on", "1: messages may be handed from socket to socket.", "gauge", (on,))
        yield Figure(
            "short_circuit_selected_addresses",
            "Addresses of workloads that are selected for the short circuit, and of this node if it is.",
            "gauge",
            (selected,),
        )
        yield Figure(
            "short_circuit_excluded_workloads",
            "Workloads that stay on TCP because they splice or tee.",
            "gauge",
            (excluded,),
        )
        yield _by(
            "short_circuit_outcomes",
            "What became of connections that were looked at for the short circuit, by outcome.",
            "counter",
            "outcome",
            circuit.events(),
        )

    def _sums(self, summed: Summed) -> Iterator[Figure]:
        found, sent = summed.walk, self._reading.sent(summed.sent)
        pairs = self._pairs(summed.by_pair)
        handing_over = found.connections - found.joining - found.leaving
        yield _by(
            "short_circuit_connections",
            "Connections that are admitted to the short circuit now, by state.",
            "gauge",
            "state",
            {"joining": found.joining, "handing_over": handing_over, "leaving": found.leaving},
        )
        yield _by(
            "short_circuit_bytes",
            "Bytes of admitted connections, by way: handed over, or sent on TCP all the same.",
            "counter",
            "way",
            _ways(sent.bytes, sent.tcp_bytes),
        )
        yield _by(
            "short_circuit_messages",
            "Messages of admitted connections, by way: handed over, or sent on TCP all the same.",
            "counter",
            "way",
            _ways(sent.messages, sent.tcp_messages),
        )
        yield _by(
            "short_circuit_passed_messages",
            "Messages of admitted connections that went on TCP, by cause.",
            "counter",
            "cause",
            sent.causes,
        )
        yield Figure(
            "short_circuit_pair_bytes",
            "Bytes from one workload to another, by way, for up to 200 such pairs of workloads that are here now.",
            "counter",
            _samples(pairs, 0),
        )
        yield Figure(
            "short_circuit_pair_messages",
            "Messages from one workload to another, by way, for the same pairs.",
            "counter",
            _samples(pairs, 1),
        )

    def _pairs(self, found: Mapping[Ends, Sent]) -> Mapping[Names, Counts]:
        names, by_name = self._reading.names(), dict[Names, Counts]()
        for (first, second), sent in found.items():
            if first in names and second in names:
                # A workload has an address of each family.
                for ends, counts in zip(((first, second), (second, first)), sent, strict=True):
                    key = names[ends[0]], names[ends[1]]
                    by_name[key] = added(by_name.get(key, NOTHING), counts)
        shown = [pair for pair in self._shown if pair in by_name]
        anew = sorted(by_name.keys() - set(shown))
        self._shown = dict.fromkeys([*shown, *anew][:PAIRS_SHOWN])
        return {pair: by_name[pair] for pair in self._shown}


def _ways(handed_over: int, tcp: int) -> dict[str, int]:
    return dict(zip(WAYS, (handed_over, tcp), strict=True))


def _samples(pairs: Mapping[Names, Counts], at: int) -> tuple[Sample, ...]:
    """Of each pair the count at ``at``, and the same of what went on TCP, two further."""
    return tuple(
        Sample(float(counts[at + 2 * number]), {"from": sender, "to": receiver, "way": way})
        for (sender, receiver), counts in pairs.items()
        for number, way in enumerate(WAYS)
    )


def _by(
    name: str, help_text: str, kind: Literal["counter", "gauge"], label: str, values: Mapping[str, int]
) -> Figure:
    samples = tuple(Sample(float(count), {label: of}) for of, count in values.items())
    return Figure(name, help_text, kind, samples)
