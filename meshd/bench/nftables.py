"""The nftables rules that kube-proxy writes, for a population of services.

One map from address, protocol and port to the chain of a service; in that chain a random number picks the chain of an
endpoint, which translates. Beside them the checks that every new connection passes. Source: kube-proxy's proxier of mode
nftables (Kubernetes 1.33, pkg/proxy/nftables), ClusterIP services without affinity, detection of pod traffic by network.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

from meshd.bench.population import BACKEND_PORT, NAMESPACE, POD_NETWORK, SERVICE_PORT, BenchService

TABLE = "ip kube-proxy"
_PORT_KEY = "type ipv4_addr . inet_proto . inet_service : verdict"

BASE_CHAINS = {
    "filter-prerouting": ("filter", "prerouting", -110, ("ct state new jump firewall-check",)),
    "filter-input": (
        "filter",
        "input",
        -110,
        ("ct state new jump nodeport-endpoints-check", "ct state new jump service-endpoints-check"),
    ),
    "filter-forward": (
        "filter",
        "forward",
        -110,
        ("ct state new jump service-endpoints-check", "ct state new jump cluster-ips-check"),
    ),
    "filter-output": (
        "filter",
        "output",
        -110,
        ("ct state new jump service-endpoints-check", "ct state new jump firewall-check"),
    ),
    "filter-output-post-dnat": ("filter", "output", -90, ("ct state new jump cluster-ips-check",)),
    "nat-prerouting": ("nat", "prerouting", -100, ("jump services",)),
    "nat-output": ("nat", "output", -100, ("jump services",)),
    "nat-postrouting": ("nat", "postrouting", 100, ("jump masquerading",)),
}
CHAINS: dict[str, tuple[str, ...]] = {
    "mark-for-masquerade": ("mark set mark or 0x4000",),
    "masquerading": ("mark and 0x4000 == 0 return", "mark set mark xor 0x4000", "masquerade fully-random"),
    "reject-chain": ("reject",),
    "cluster-ips-check": ("ip daddr @cluster-ips reject",),
    "firewall-check": ("ip daddr . meta l4proto . th dport vmap @firewall-ips",),
    "nodeport-endpoints-check": (
        "ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports",
    ),
    "service-endpoints-check": ("ip daddr . meta l4proto . th dport vmap @no-endpoint-services",),
    "services": (
        "ip daddr . meta l4proto . th dport vmap @service-ips",
        "ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports",
    ),
}
SETS = {"cluster-ips": "type ipv4_addr", "nodeport-ips": "type ipv4_addr"}
MAPS = {
    "service-ips": _PORT_KEY,
    "firewall-ips": _PORT_KEY,
    "no-endpoint-services": _PORT_KEY,
    "service-nodeports": "type inet_proto . inet_service : verdict",
    "no-endpoint-nodeports": "type inet_proto . inet_service : verdict",
}


def ruleset(services: Iterable[BenchService]) -> str:
    """All of it as one transaction for ``nft -f``."""
    lines = [*_frame(), *(line for service in services for line in _service(service))]
    return "\n".join(lines) + "\n"


def endpoints_changed(service: BenchService, before: Sequence[str], now: Sequence[str]) -> str:
    """The transaction that takes ``service`` from the backends ``before`` to ``now``, as kube-proxy's partial sync does.

    It says nothing of other services.
    """
    added = [line for each in now if each not in before for line in _endpoint(service, each)]
    gone = [_endpoint_chain(service, each) for each in before if each not in now]
    lines = [*added, f"flush chain {TABLE} {_service_chain(service)}", *_choice(service, now)]
    lines += [f"{verb} chain {TABLE} {chain}" for chain in gone for verb in ("flush", "delete")]
    return "\n".join(lines) + "\n"


def _frame() -> Iterator[str]:
    yield f"add table {TABLE}"
    for name, kind in SETS.items():
        yield f"add set {TABLE} {name} {{ {kind} ; }}"
    for name, kind in MAPS.items():
        yield f"add map {TABLE} {name} {{ {kind} ; }}"
    for name in CHAINS:
        yield f"add chain {TABLE} {name}"
    for name, (kind, hook, priority, _) in BASE_CHAINS.items():
        yield f"add chain {TABLE} {name} {{ type {kind} hook {hook} priority {priority} ; }}"
    rules = CHAINS | {name: base[3] for name, base in BASE_CHAINS.items()}
    for name, lines in rules.items():
        yield from (f"add rule {TABLE} {name} {line}" for line in lines)


def _service(service: BenchService) -> Iterator[str]:
    for backend in service.backends:
        yield from _endpoint(service, backend)
    chain = _service_chain(service)
    yield f"add chain {TABLE} {chain}"
    yield from _choice(service, service.backends)
    yield f"add element {TABLE} cluster-ips {{ {service.address} }}"
    yield f"add element {TABLE} service-ips {{ {service.address} . tcp . {SERVICE_PORT} : goto {chain} }}"


def _endpoint(service: BenchService, backend: str) -> Iterator[str]:
    chain = _endpoint_chain(service, backend)
    yield f"add chain {TABLE} {chain}"
    yield f"add rule {TABLE} {chain} ip saddr {backend} jump mark-for-masquerade"
    yield f"add rule {TABLE} {chain} meta l4proto tcp dnat to {backend}:{BACKEND_PORT}"


def _choice(service: BenchService, backends: Sequence[str]) -> Iterator[str]:
    chain = _service_chain(service)
    outside = f"ip daddr {service.address} tcp dport {SERVICE_PORT} ip saddr != {POD_NETWORK}"
    yield f"add rule {TABLE} {chain} {outside} jump mark-for-masquerade"
    ways = " , ".join(
        f"{number} : goto {_endpoint_chain(service, each)}" for number, each in enumerate(backends)
    )
    yield f"add rule {TABLE} {chain} numgen random mod {len(backends)} vmap {{ {ways} }}"


def _service_chain(service: BenchService) -> str:
    name = f"{NAMESPACE}/{service.name}/tcp/http"
    return f"service-{_mark(name)}-{name}"


def _endpoint_chain(service: BenchService, backend: str) -> str:
    name = f"{NAMESPACE}/{service.name}/tcp/http__{backend}/{BACKEND_PORT}"
    return f"endpoint-{_mark(name)}-{name}"


def _mark(name: str) -> str:
    """Eight characters that keep chain names apart where long ones are cut."""
    return hashlib.blake2b(name.encode(), digest_size=4).hexdigest().upper()
