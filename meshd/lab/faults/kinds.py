"""Every kind of fault that may befall the lab, and what comes in a series: drawn by a seed, so that it can come again."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence

from meshd.lab.faults import compacted_etcd, deaths, distance, links, older_etcd, publishers
from meshd.lab.faults.fault import Fault
from meshd.lab.faults.ground import Ground
from meshd.lab.layout import Cluster, Node

Draw = Callable[[random.Random, Ground], Fault]
# So many of a hundred faults of a series come while another one lasts.
OVERLAPPING_PERCENT = 35


def _clusters(rng: random.Random, ground: Ground) -> tuple[Cluster, Cluster]:
    one, other = rng.sample(ground.lab.clusters, 2)
    return one, other


def _node(rng: random.Random, ground: Ground) -> Node:
    return rng.choice(ground.lab.nodes)


def _cluster(rng: random.Random, ground: Ground) -> Cluster:
    return rng.choice(ground.lab.clusters)


def _backend_killed(rng: random.Random, ground: Ground) -> Fault:
    pod = rng.choice(ground.backends)
    return deaths.backend_killed(pod, ground.lab.cluster(pod.cluster))


def _etcd_restored(rng: random.Random, ground: Ground) -> Fault:
    pod = rng.choice(ground.backends)
    return older_etcd.etcd_restored(ground.lab.cluster(pod.cluster), pod)


def _node_killed(rng: random.Random, ground: Ground) -> Fault:
    node = _node(rng, ground)
    return deaths.nodes_killed(f"node {node.name} killed", [node], ground.lab.nodes, None)


def _cluster_killed(rng: random.Random, ground: Ground) -> Fault:
    cluster = _cluster(rng, ground)
    return deaths.nodes_killed(f"cluster {cluster.name} killed", cluster.nodes, ground.lab.nodes, cluster)


def _agent_killed(rng: random.Random, ground: Ground) -> Fault:
    node = _node(rng, ground)
    return deaths.agent_killed(f"agent of {node.name} killed", node)


def _publisher_killed(rng: random.Random, ground: Ground) -> Fault:
    cluster = _cluster(rng, ground)
    return publishers.publisher_killed(cluster, ground.publisher_of(cluster.name))


def _publisher_killed_amid_write(rng: random.Random, ground: Ground) -> Fault:
    cluster = _cluster(rng, ground)
    return publishers.publisher_killed_amid_write(cluster, ground.publisher_of(cluster.name))


def _agent_dead_during_cut(rng: random.Random, ground: Ground) -> Fault:
    one, other = _clusters(rng, ground)
    return deaths.without_agent_during(rng.choice(one.nodes), links.link_cut(one, other))


# Somebody cannot be reached, and must be left.
FELT: Mapping[str, Draw] = {
    "link": lambda rng, ground: links.link_cut(*_clusters(rng, ground)),
    "one-way": lambda rng, ground: links.link_cut_one_way(*_clusters(rng, ground)),
    "uplink": lambda rng, ground: links.uplink_cut(_node(rng, ground), ground.lab.nodes),
    "node-killed": _node_killed,
    "agent-dead-during-cut": _agent_dead_during_cut,
    "backend-killed": _backend_killed,
    "cluster-killed": _cluster_killed,
}
# Whoever can be used is still there, and nobody may be left.
UNFELT: Mapping[str, Draw] = {
    "etcd-cut-off": lambda rng, ground: links.etcd_cut_off(_cluster(rng, ground)),
    "etcd-killed": lambda rng, ground: deaths.etcd_restarted(_cluster(rng, ground)),
    "etcd-emptied": lambda rng, ground: deaths.etcd_emptied(_cluster(rng, ground)),
    "etcd-restored": _etcd_restored,
    "etcd-compacted": lambda rng, ground: compacted_etcd.etcd_compacted(_cluster(rng, ground)),
    "agent-killed": _agent_killed,
    "publisher-killed": _publisher_killed,
    "publisher-killed-amid-write": _publisher_killed_amid_write,
    "nobody-publishes": lambda rng, ground: publishers.nobody_publishes(_cluster(rng, ground)),
    "agent-frozen": lambda rng, ground: deaths.agent_frozen(_node(rng, ground)),
    "agent-starved": lambda rng, ground: deaths.agent_starved(_node(rng, ground)),
    "large-packets": lambda rng, ground: links.large_packets(*_clusters(rng, ground)),
    "distance": lambda rng, ground: distance.moved_away(_node(rng, ground)),
    "loss": lambda rng, ground: links.loss(5, rng.sample(ground.lab.nodes, 2)),
}
KINDS: Mapping[str, Draw] = {**FELT, **UNFELT}
# Only where nodes reach each other's pods in tunnels.
TUNNEL_KINDS: Mapping[str, Draw] = {
    "tunnel": lambda rng, ground: links.tunnel_cut(*_clusters(rng, ground)),
}
EVERY: Mapping[str, Draw] = {**KINDS, **TUNNEL_KINDS}
# Of each question that a failover has to answer one.
SHORT = ("link", "one-way", "uplink", "etcd-cut-off", "node-killed", "agent-dead-during-cut")


def in_turn(rng: random.Random, count: int, names: Sequence[str]) -> list[str]:
    """``count`` kinds: all of ``names`` in turn, in an order that is drawn."""
    found: list[str] = []
    while len(found) < count:
        found += rng.sample(names, len(names))[: count - len(found)]
    return found


def series(rng: random.Random, count: int, names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Names of ``count`` faults, some in pairs: all of ``names`` in turn, in an order that is drawn."""
    turn: list[str] = []
    left = count
    while left:
        if not turn:
            turn = rng.sample(names, len(names))
        first = turn.pop()
        if left > 1 and len(names) > 1 and rng.randrange(100) < OVERLAPPING_PERCENT:
            yield first, rng.choice([name for name in names if name != first])
            left -= 2
        else:
            yield (first,)
            left -= 1


def drawn(names: Sequence[str], rng: random.Random, ground: Ground) -> list[Fault]:
    """One fault of each of ``names``; one that acts on what an earlier one acts on is drawn again, or left out."""
    faults: list[Fault] = []
    for name in names:
        _add(name, faults, rng, ground)
    return faults


def drawn_of(waiting: list[str], most: int, rng: random.Random, ground: Ground) -> list[Fault]:
    """At most ``most`` faults of kinds ``waiting``, which then are taken out of it: one that is felt, if there is one, and
    others that nobody may feel. At least one.
    """
    faults: list[Fault] = []
    felt = [name for name in waiting if name not in UNFELT]
    for name in [*felt[:1], *(name for name in waiting if name in UNFELT)]:
        if len(faults) < most and _add(name, faults, rng, ground):
            waiting.remove(name)
    return faults


def _add(name: str, faults: list[Fault], rng: random.Random, ground: Ground) -> bool:
    """Whether a fault of kind ``name`` was found that acts on nothing that ``faults`` act on; it is one of them now."""
    for _ in range(20):
        fault = EVERY[name](rng, ground)
        if not any(fault.touches & other.touches for other in faults):
            faults.append(fault)
            return True
    return False
