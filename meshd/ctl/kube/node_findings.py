"""What of that which nodes say of themselves stands in meshd's way. Pure, one function a concern."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_network

from meshd.ctl.kube.findings import Accepted, Facts, Finding, Level, Network, Node, some
from meshd.ctl.kube.looks import Look

# Without it no pod has a network.
NEEDED = frozenset({"tc"})
# Of the tunnel, over IPv6, where it is larger (meshd/dataplane/pod_network/tunnel.py).
TUNNEL = 70
# RFC 8200: the least that a link with IPv6 carries.
LEAST_IPV6 = 1280
# Routes that agents make (meshd/dataplane/pod_network/routes.py).
OURS = 177
# What kube-proxy puts the addresses of services on in its mode ipvs.
SERVICE_LINKS = frozenset({"kube-ipvs0"})


def findings(facts: Facts, accepted: Accepted) -> list[Finding]:
    """Nothing where nobody looked."""
    looked = [(node, node.look) for node in facts.nodes if node.look is not None]
    found = list(_not_looked(facts))
    if looked:
        found += [*_features(looked), _cgroups(looked), *_mtu(looked), *_ranges(facts, looked, accepted)]
    return found


Looked = Sequence[tuple[Node, Look]]


def _not_looked(facts: Facts) -> Iterator[Finding]:
    if not facts.not_looked:
        return
    said = some([f"{name} ({why})" for name, why in facts.not_looked.items()])
    if any("Image" in why for why in facts.not_looked.values()):
        yield Finding(Level.REFUSED, "image", said, "put it where nodes pull it, and name it: --image")
    else:
        yield Finding(
            Level.WARNING,
            "nodes",
            f"not looked at: {said}",
            "their agents look at the same things when they start",
        )


def _features(looked: Looked) -> Iterator[Finding]:
    refused = [f"{node.name}: {look.refused}" for node, look in looked if look.refused]
    if refused:
        yield Finding(Level.REFUSED, "kernel features", some(refused))
    missing: dict[tuple[str, str], list[str]] = {}
    for node, look in looked:
        for each in look.missing:
            missing.setdefault((each.name, each.cost), []).append(node.name)
    for (name, cost), nodes in missing.items():
        yield Finding(
            Level.REFUSED if name in NEEDED else Level.WARNING,
            "kernel features",
            f"no {name} on {some(nodes)}: {cost}",
            "a kernel that has it, or keep agents off these nodes" if name in NEEDED else "",
        )
    if not refused and not missing:
        yield Finding(Level.OK, "kernel features", f"all that is used, on {len(looked)} nodes")


def _cgroups(looked: Looked) -> Finding:
    outside = [node.name for node, look in looked if not look.pods]
    if outside:
        return Finding(
            Level.WARNING,
            "pods' cgroups",
            f"pods of {some(outside)} are in no cgroup of version 2",
            "services are answered in their packets, not at connect(): clients do not see the service's address",
        )
    return Finding(Level.OK, "pods' cgroups", "are of version 2")


def _mtu(looked: Looked) -> Iterator[Finding]:
    mtus = {node.name: min(look.mtus) for node, look in looked if look.mtus}
    small = [
        f"{node.name} ({mtus[node.name]})"
        for node, _ in looked
        if mtus.get(node.name, LEAST_IPV6 + TUNNEL) < LEAST_IPV6 + TUNNEL
        and any(":" in cidr for cidr in node.pod_cidrs)
    ]
    if small:
        yield Finding(
            Level.REFUSED,
            "MTU",
            f"too small for pods with IPv6: {some(small)}",
            f"uplinks that carry {LEAST_IPV6 + TUNNEL}: {LEAST_IPV6}, and what a tunnel adds",
        )
        return
    sizes = sorted(set(mtus.values()))
    if len(sizes) > 1:
        smallest = [name for name, mtu in mtus.items() if mtu == sizes[0]]
        yield Finding(
            Level.WARNING,
            "MTU",
            f"uplinks carry from {sizes[0]} ({some(smallest)}) to {sizes[-1]} bytes",
            "packets between these nodes are cut or come back as too big; give all the same",
        )
    elif sizes:
        yield Finding(Level.OK, "MTU", f"uplinks carry {sizes[0]} bytes, pods get what a tunnel leaves of it")


def _ranges(facts: Facts, looked: Looked, accepted: Accepted) -> Iterator[Finding]:
    clashes = list(dict.fromkeys(_clashes(facts, looked)))
    if clashes and accepted.other_cni:
        yield Finding(Level.WARNING, "nodes' routes", f"{some(clashes)}; of the other plugin, if it is to go")
    elif clashes:
        yield Finding(
            Level.REFUSED,
            "nodes' routes",
            some(clashes),
            "packets for pods or services would go there: take it away, or give others a range",
        )
    else:
        yield Finding(Level.OK, "nodes' routes", "none leads into the ranges of pods and services")


def _clashes(facts: Facts, looked: Looked) -> Iterator[str]:
    """Addresses and routes of nodes in ranges that are not theirs, each as a phrase."""
    pods = [(node.name, ip_network(cidr, strict=False)) for node in facts.nodes for cidr in node.pod_cidrs]
    services = [ip_network(cidr, strict=False) for cidr in facts.service_cidrs]
    nodes = {address for node in facts.nodes for address in node.addresses}
    for node, look in looked:
        ranges = [(f"the pods of {name} {cidr}", cidr) for name, cidr in pods]
        ranges += [(f"the services {cidr}", cidr) for cidr in services]
        for seen in look.addresses:
            # Ours: the one by which other nodes ask whether this one is there.
            if seen.link in SERVICE_LINKS or seen.protocol == OURS:
                continue
            for what, cidr in ranges:
                if seen.address.ip in cidr:
                    yield f"{node.name} has {seen.address.ip} on {seen.link}, of {what}"
        others = [(f"the pods of {name} {cidr}", cidr) for name, cidr in pods if name != node.name]
        others += ranges[len(pods) :]
        for route in look.routes:
            if route.protocol == OURS or route.gateway in nodes or route.link in SERVICE_LINKS:
                continue
            for what, cidr in others:
                if _is_within(route.to, cidr):
                    yield f"{node.name} has a route for {route.to} through {route.link}, in {what}"


def _is_within(inner: Network, outer: Network) -> bool:
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type] # of one family
