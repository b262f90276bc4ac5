"""What of a cluster stands in meshd's way, from facts that others gathered. Pure, one function a concern."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_address, ip_network

from meshd.ctl.kube.findings import KUBERNETES, Accepted, Facts, Finding, Level, Network, some

# The oldest that meshd is tested on (scripts/kernels).
KERNEL = (6, 1)
# DaemonSets by which the usual network plugins are known; each also makes some of the node's network its own.
OTHERS = {
    "antrea-agent": "Antrea",
    "aws-node": "Amazon VPC CNI",
    "azure-cns": "Azure CNI",
    "calico-node": "Calico",
    "canal": "Canal",
    "cilium": "Cilium",
    "kindnet": "kindnet",
    "kube-flannel-ds": "Flannel",
    "kube-router": "kube-router",
    "ovnkube-node": "OVN-Kubernetes",
    "weave-net": "Weave Net",
}
KUBE_PROXY = "kube-proxy"


def findings(facts: Facts, accepted: Accepted) -> list[Finding]:
    """One finding a concern at least."""
    return [
        _versions(facts),
        _kernels(facts),
        _machines(facts),
        _cgroups(facts),
        _pod_cidrs(facts),
        _overlaps(facts),
        _api_servers(facts, accepted),
        _other_plugins(facts, accepted),
        _policies(facts, accepted),
        *_outside(facts, accepted),
    ]


def _versions(facts: Facts) -> Finding:
    said = "Kubernetes {}.{}".format(*facts.version)
    if facts.version < KUBERNETES:
        oldest = "{}.{}".format(*KUBERNETES)
        return Finding(Level.REFUSED, "version", said, f"meshd runs on {oldest} and newer")
    return Finding(Level.OK, "version", said)


def _kernels(facts: Facts) -> Finding:
    oldest = "{}.{}".format(*KERNEL)
    old = [f"{node.name} ({node.kernel})" for node in facts.nodes if kernel_version(node.kernel) < KERNEL]
    if old:
        return Finding(
            Level.REFUSED,
            "kernel",
            f"older than {oldest}: {some(old)}",
            f"Linux {oldest} or newer; what a kernel lacks beyond that, its agent says in `meshctl status`",
        )
    return Finding(Level.OK, "kernel", f"all nodes have {oldest} or newer")


def _machines(facts: Facts) -> Finding:
    wrong = [
        f"{node.name} ({node.system}/{node.architecture})"
        for node in facts.nodes
        if node.system == "linux" and node.architecture not in ("amd64", "arm64")
    ]
    if not facts.nodes:
        return Finding(Level.WARNING, "nodes", "the cluster has none yet", "agents start as nodes come")
    if wrong:
        return Finding(
            Level.REFUSED, "nodes", f"no meshd for {some(wrong)}", "keep agents off them with nodeSelector"
        )
    others = [node.name for node in facts.nodes if node.system != "linux"]
    passed = f"; passed over: {some(others)}" if others else ""
    return Finding(Level.OK, "nodes", f"{len(facts.nodes) - len(others)} with Linux{passed}")


def _cgroups(facts: Facts) -> Finding:
    # What a node itself says is more than what its kubelet uses (node_findings.py).
    asked = [node for node in facts.nodes if node.look is None]
    old = [node.name for node in asked if node.cgroups == 1]
    unknown = [node.name for node in asked if node.cgroups == 0]
    if old:
        return Finding(
            Level.WARNING,
            "cgroup v2",
            f"the kubelet uses v1 on {some(old)}",
            "a v2 hierarchy must be mounted besides, and pods' processes be in it, or services are not translated",
        )
    if unknown:
        return Finding(
            Level.WARNING,
            "cgroup v2",
            f"not known of {some(unknown)}",
            "agents look, and do not start without",
        )
    said = "on all nodes" if len(asked) == len(facts.nodes) else "on all nodes that were looked at"
    return Finding(Level.OK, "cgroup v2", said)


def _pod_cidrs(facts: Facts) -> Finding:
    without = [node.name for node in facts.nodes if not node.pod_cidrs and node.system == "linux"]
    if without:
        return Finding(
            Level.REFUSED,
            "pod CIDRs",
            f"none for {some(without)}",
            "kube-controller-manager gives them: --allocate-node-cidrs --cluster-cidr=...",
        )
    return Finding(Level.OK, "pod CIDRs", "every node has its own")


def _overlaps(facts: Facts) -> Finding:
    clashes = list(_clashes(facts))
    if clashes:
        return Finding(
            Level.REFUSED,
            "networks",
            some(clashes),
            "packets for one would go to the other: give one another range",
        )
    return Finding(Level.OK, "networks", "pods, services, nodes and peers have ranges of their own")


def _clashes(facts: Facts) -> Iterator[str]:
    """Each pair of ranges that have addresses in common, as a phrase."""
    ranges: list[tuple[str, Network]] = [
        (f"pods of {node.name} {cidr}", ip_network(cidr, strict=False))
        for node in facts.nodes
        for cidr in node.pod_cidrs
    ]
    ranges += [(f"services {cidr}", ip_network(cidr, strict=False)) for cidr in facts.service_cidrs]
    by_family = [[each for each in ranges if each[1].version == version] for version in (4, 6)]
    for family in by_family:
        # In order of addresses, whoever overlaps anybody overlaps a neighbour; a thousand nodes are a million pairs.
        ordered = sorted(family, key=lambda each: (int(each[1].network_address), each[1].prefixlen))
        for position, (name, network) in enumerate(ordered):
            for other_name, other in ordered[position + 1 :]:
                if int(other.network_address) > int(network.broadcast_address):
                    break
                yield f"{name} and {other_name} overlap"
    for node in facts.nodes:
        for text in node.addresses:
            address = ip_address(text)
            for name, network in ranges:
                if address.version == network.version and address in network:
                    yield f"node {node.name} {text} is in {name}"
    # Nodes of clusters may be on one network.
    for cluster, networks in facts.peers.items():
        for theirs in (ip_network(each, strict=False) for each in networks):
            for name, network in ranges:
                if network.version == theirs.version and network.overlaps(theirs):
                    yield f"cluster {cluster} {theirs} and {name} overlap"


def _api_servers(facts: Facts, accepted: Accepted) -> Finding:
    local = [each for each in facts.api_servers if each.startswith(("127.", "[::1]", "localhost:"))]
    if local:
        return Finding(
            Level.REFUSED,
            "API server",
            f"{some(local)} means each node itself",
            "name it as nodes reach it: --api-server",
        )
    if facts.api_servers:
        return Finding(Level.OK, "API server", some(list(facts.api_servers)))
    if accepted.without_kube_proxy:
        return Finding(
            Level.REFUSED,
            "API server",
            "its addresses are not known, and without kube-proxy nobody answers its service address to a first agent",
            "--api-server HOST:PORT",
        )
    return Finding(
        Level.WARNING,
        "API server",
        "its addresses are not known",
        "agents depend on kube-proxy when a node starts",
    )


def _other_plugins(facts: Facts, accepted: Accepted) -> Finding:
    there = sorted(OTHERS[name] for name in facts.daemon_sets & OTHERS.keys())
    if not there:
        return Finding(Level.OK, "network plugin", "no other is known to run")
    said = f"{some(there)} runs here"
    if accepted.other_cni:
        return Finding(
            Level.WARNING, "network plugin", f"{said}; pods keep their interfaces until they are recreated"
        )
    return Finding(
        Level.REFUSED,
        "network plugin",
        said,
        "remove it, or --accept-other-cni: its pods keep what they have until they are recreated",
    )


def _policies(facts: Facts, accepted: Accepted) -> Finding:
    there = [
        f"{len(names)} {resource} ({some(list(names))})"
        for resource, names in facts.policies.items()
        if names
    ]
    if not there:
        return Finding(Level.OK, "policies", "there are none")
    said = f"meshd enforces none of {', '.join(there)}"
    if accepted.unenforced_policies:
        return Finding(Level.WARNING, "policies", said)
    return Finding(
        Level.REFUSED,
        "policies",
        said,
        "what they forbid would be allowed; --accept-unenforced-policies if that may be",
    )


def _outside(facts: Facts, accepted: Accepted) -> Iterator[Finding]:
    proxy = KUBE_PROXY in facts.daemon_sets
    if not accepted.without_kube_proxy:
        yield Finding(
            Level.OK,
            "kube-proxy",
            "runs" if proxy else "is no DaemonSet here; --without-kube-proxy if there is none",
        )
        return
    if proxy:
        yield Finding(
            Level.WARNING,
            "kube-proxy",
            "runs, though meshd is to do without",
            "remove it once meshd is there",
        )
    if not facts.ports:
        yield Finding(Level.OK, "outside", "nothing is served to it")
    elif accepted.unserved_ports:
        yield Finding(Level.WARNING, "outside", f"nobody serves {some(list(facts.ports))}")
    else:
        yield Finding(
            Level.REFUSED,
            "outside",
            f"without kube-proxy nobody serves {some(list(facts.ports))}",
            "keep kube-proxy, or --accept-unserved-ports",
        )


def kernel_version(said: str) -> tuple[int, int]:
    """``(6, 1)`` of ``6.1.0-28-amd64``; (0, 0) where there are no two numbers."""
    found = re.match(r"(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else (0, 0)
