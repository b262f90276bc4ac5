"""The paths of `meshctl bench short-circuit`: two ends each, and what is between them, ready to be measured.

All of them are on one node. Those of meshd have an agent each, because how much may wait is what its programs were loaded
with.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from meshd.bench.path_meshd import MeshNode
from meshd.bench.path_network import Network, Node
from meshd.bench.path_probes import End, Metric, Placement, Server, bulk, connections, messages, stream
from meshd.bench.path_results import LOOPBACK, ROUTING, Results
from meshd.bench.short_circuit_envoy import Envoy
from meshd.bench.short_circuit_handed import HandedOver
from meshd.bench.short_circuit_results import (
    LIMITS,
    NOT_SELECTED,
    ONE_ENVOY,
    SELECTED,
    TWO_ENVOYS,
    UNIX,
    WITHOUT,
    limited,
)

BYTES = {"64 B": 64, "1 KB": 1024, "16 KB": 16384, "64 KB": 65536}
# Nobody is watched first: what runs here is known not to splice.
_SELECTED: Mapping[str, object] = {"default": True, "watchS": 0}
# What iperf3 writes at once, and what TCP puts together better.
WRITES = {"stream": 131072, "stream, 1 KB writes": 1024}
MESSAGES = tuple(
    Metric((f"{size} p50", f"{size} p99"), "us", messages(count)) for size, count in BYTES.items()
)
CONNECTIONS = Metric(("connections",), "1/s", connections)
STREAMS = tuple(Metric((name,), "Gbit/s", stream(size)) for name, size in WRITES.items())
# So many times as long as anything else: a stream that stays on TCP leaves after a quarter of a second or two.
BULK_TIMES = 3


def _long_bulk(client: End, server: End, placement: Placement, seconds: float) -> tuple[float, ...]:
    return bulk(client, server, placement, BULK_TIMES * seconds)


BULK = Metric(("bulk",), "Gbit/s", _long_bulk)
METRICS = (*MESSAGES, CONNECTIONS, *STREAMS, BULK)
# What can be sent through a Unix socket, or a proxy that knows one port.
BY_THE_PROBE = (*MESSAGES, CONNECTIONS, *STREAMS)
ONE_WAY = (*STREAMS, BULK)


@dataclass(frozen=True, slots=True)
class Lane:
    """One path: who dials, the address that is dialled, who answers, and what was measured. ``handed``: None where nothing
    can go from socket to socket."""

    client: End
    to: End
    server: Server
    results: Results
    metrics: Sequence[Metric] = METRICS
    proxies: tuple[Envoy, ...] = ()
    handed: HandedOver | None = None

    def place(self, placement: Placement) -> None:
        """Moves all that answers to where ``placement`` says; a proxy goes with the end that it is beside."""
        self.server.place(placement)
        for proxy in self.proxies:
            cpu = placement.server if proxy.with_server else placement.client
            proxy.place(os.sched_getaffinity(0) if cpu is None else {cpu})


@dataclass(frozen=True, slots=True)
class Lanes:
    """Opens lanes; all that runs in them ends with ``stack``."""

    network: Network
    stack: contextlib.ExitStack

    def routing(self) -> Lane:
        """The baseline: veth pairs and routes, and nothing besides."""
        _, client, server = self._routed(ROUTING)
        return self._lane(ROUTING, client, server)

    def loopback(self) -> Lane:
        """Both ends in one namespace."""
        node = self.network.node(LOOPBACK)
        end = self.network.end(node, node.netns, 1, "127.0.0.1")
        return self._lane(LOOPBACK, end, end)

    def unix(self) -> Lane:
        """A Unix socket: what there is on one machine without a network."""
        node = self.network.node(UNIX)
        end = self.network.end(node, node.netns, 1, str(self.network.places.run / "probe.sock"))
        return replace(self._lane(UNIX, end, end, iperf3=False), metrics=BY_THE_PROBE)

    def meshd(self) -> Iterator[Lane]:
        """Pods of meshd: where nobody can be selected, not selected, and selected; then with other limits."""
        yield self._meshd(WITHOUT, {"enabled": False})
        yield self.not_selected()
        yield self.selected()
        for name, limit in LIMITS.items():
            lane = self._meshd(limited(name), {**_SELECTED, "queueBytes": limit})
            yield replace(lane, metrics=ONE_WAY)

    def not_selected(self) -> Lane:
        """Pods of meshd that could be selected."""
        return self._meshd(NOT_SELECTED, {"enabled": True})

    def selected(self) -> Lane:
        """Pods of meshd whose bytes go from socket to socket."""
        return self._meshd(SELECTED, _SELECTED)

    def envoys(self, command: str) -> Iterator[Lane]:
        """Over plain routing, through a proxy of the node, and through one beside each of both."""
        node, client, server = self._routed(ONE_ENVOY)
        of_node = self.network.end(node, node.netns, 3, node.pod(254))
        proxy = self._envoy(command, of_node, server.address, with_server=True)
        lane = self._lane(ONE_ENVOY, client, server, iperf3=False)
        yield replace(lane, to=of_node, proxies=(proxy,), metrics=BY_THE_PROBE)

        _, client, server = self._routed(TWO_ENVOYS)
        near, inside = (replace(each, address="127.0.0.1") for each in (client, server))
        proxies = (
            self._envoy(command, server, inside.address, with_server=True),
            self._envoy(command, near, server.address, with_server=False),
        )
        lane = self._lane(TWO_ENVOYS, client, inside, iperf3=False)
        yield replace(lane, to=near, proxies=proxies, metrics=BY_THE_PROBE)

    def _routed(self, path: str) -> tuple[Node, End, End]:
        node = self.network.node(path)
        client, server = (self.network.routed_pod(node, number) for number in (1, 2))
        return node, client, server

    def _meshd(self, path: str, options: Mapping[str, object]) -> Lane:
        # gRPC does not find a socket with a comma in its path.
        place = self.network.node(path.replace(",", ""))
        node = MeshNode(self.network, self.stack, place, {"shortCircuit": dict(options)})
        client, server = node.pod(1), node.pod(2)
        handed = HandedOver(node.agent, self.stack) if "default" in options else None
        return replace(self._lane(path, client, server), handed=handed)

    def _envoy(self, command: str, end: End, to: str, *, with_server: bool) -> Envoy:
        made = Envoy(command, end, to, self.network.places.run, with_server=with_server)
        self.stack.callback(made.close)
        return made

    def _lane(self, path: str, client: End, server: End, *, iperf3: bool = True) -> Lane:
        running = Server(server, iperf3=iperf3)
        self.stack.callback(running.close)
        return Lane(client, server, running, Results(path, ""))
