"""Faults of the network between nodes: the fabric drops frames, and everybody runs on."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace

from meshd.lab.cuts import Drop, larger_than, share, to_udp_port
from meshd.lab.faults.effect import Effect, both_ways, names, one_way
from meshd.lab.faults.fault import Fault
from meshd.lab.faults.ground import Ground
from meshd.lab.layout import Cluster, Node
from meshd.lab.record import LabError
from meshd.lab.topology import etcd_port, node_port

# Larger than any packet of the clients' requests, of probes and handshakes, and smaller than a full one.
LARGE_BYTES = 1000
# The default of podNetwork.tunnelPort.
TUNNEL_PORT = 8472
# What neither cuts nor kills is watched so long for anybody who moves.
WATCH_S = 3.0


def _dropping(
    name: str, drops: Iterable[Drop], effect: Effect, touches: Iterable[str], hold_s: float = 0.0
) -> Fault:
    drops = tuple(drops)

    async def inject(ground: Ground) -> None:
        await ground.drop(name, drops)

    async def heal(ground: Ground) -> None:
        await ground.carry(name)

    return Fault(name, effect, inject, heal, frozenset(touches), hold_s=hold_s)


def _ports(cluster: Cluster) -> list[str]:
    return [*map(node_port, cluster.nodes), etcd_port(cluster)]


def _touched(*clusters: Cluster) -> list[str]:
    return [f"etcd/{c.name}" for c in clusters] + [name for c in clusters for name in names(c)]


def link_cut(one: Cluster, other: Cluster) -> Fault:
    """Nothing passes between two clusters, etcds included."""
    pairs = list(itertools.product(_ports(one), _ports(other)))
    drops = [Drop(*pair) for here, there in pairs for pair in ((here, there), (there, here))]
    effect = Effect(silent=both_ways(names(one), names(other)))
    return _dropping(f"link {one.name} - {other.name} cut", drops, effect, _touched(one, other))


def link_cut_one_way(here: Cluster, there: Cluster) -> Fault:
    """Nothing passes from cluster ``here`` to ``there``; the way back is open."""
    drops = [Drop(*pair) for pair in itertools.product(_ports(here), _ports(there))]
    effect = Effect(silent=one_way(names(here), names(there)))
    return _dropping(f"link {here.name} > {there.name} cut", drops, effect, _touched(here, there))


def uplink_cut(node: Node, others: Iterable[Node]) -> Fault:
    """``node`` runs on, and hears and reaches nobody."""
    port = node_port(node)
    effect = Effect(silent=both_ways([node.name], [other.name for other in others]))
    return _dropping(f"uplink of {node.name} cut", [Drop(here=port), Drop(there=port)], effect, [node.name])


def etcd_cut_off(cluster: Cluster) -> Fault:
    """Nobody reaches the etcd of ``cluster``, also not its own nodes; all pods are reached."""
    port = etcd_port(cluster)
    drops = [Drop(here=port), Drop(there=port)]
    return _dropping(f"etcd of {cluster.name} cut off", drops, Effect(), [f"etcd/{cluster.name}"], WATCH_S)


def large_packets(one: Cluster, other: Cluster) -> Fault:
    """Between two clusters only small packets pass, as where a path has a smaller MTU and tells nobody."""
    pairs = list(itertools.product(map(node_port, one.nodes), map(node_port, other.nodes)))
    drops = [
        Drop(*pair, which=larger_than(LARGE_BYTES))
        for here, there in pairs
        for pair in ((here, there), (there, here))
    ]
    name = f"large packets {one.name} - {other.name}"

    async def inject(ground: Ground) -> None:
        await ground.drop(name, drops)
        here, there = one.nodes[0].name, other.nodes[0].name
        # Nothing that is watched is large, so nobody else would notice that large packets pass.
        if await ground.is_answered(here, there, 2 * LARGE_BYTES) or not await ground.is_answered(
            here, there, 0
        ):
            raise LabError(f"from {here} to {there} other packets pass than those up to {LARGE_BYTES} bytes")

    fault = _dropping(name, drops, Effect(), [*names(one), *names(other)], WATCH_S)
    return replace(fault, inject=inject)


def tunnel_cut(one: Cluster, other: Cluster) -> Fault:
    """What goes in tunnels between two clusters is dropped; nodes and etcds reach each other beside it."""
    pairs = list(itertools.product(map(node_port, one.nodes), map(node_port, other.nodes)))
    wrapped = to_udp_port(TUNNEL_PORT)
    drops = [Drop(*pair, which=wrapped) for here, there in pairs for pair in ((here, there), (there, here))]
    effect = Effect(silent=both_ways(names(one), names(other)))
    return _dropping(f"tunnels {one.name} - {other.name} cut", drops, effect, [*names(one), *names(other)])


def loss(percent: int, nodes: Iterable[Node], hold_s: float = WATCH_S) -> Fault:
    """Of all packets that leave or come to ``nodes`` so many of a hundred get lost, in each direction."""
    nodes = list(nodes)
    drops = [Drop(here=node_port(node), which=share(percent)) for node in nodes]
    those = ", ".join(node.name for node in nodes)
    every = frozenset((node.name, "") for node in nodes)
    name = f"{percent} % loss from {those}"
    return _dropping(name, drops, Effect(lossy=every), [node.name for node in nodes], hold_s)
