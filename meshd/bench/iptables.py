"""The iptables rules that kube-proxy writes, for a population of services.

KUBE-SERVICES is asked rule by rule until one names the service; its KUBE-SVC chain draws among the KUBE-SEP chains, one
chance after another, and that one translates. Without comments, as kube-proxy writes them from 1,000 endpoints on. Source:
kube-proxy's proxier of mode iptables (Kubernetes 1.33, pkg/proxy/iptables), ClusterIP services, pod traffic by network.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
from collections.abc import Iterable, Iterator

from meshd.bench.population import BACKEND_PORT, NAMESPACE, POD_NETWORK, SERVICE_PORT, BenchService

FILTER = """*filter
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SERVICES - [0:0]
-A INPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A INPUT -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A INPUT -j KUBE-FIREWALL
-A FORWARD -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A FORWARD -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES
-A OUTPUT -j KUBE-FIREWALL
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
"""
NAT_CHAINS = ("KUBE-MARK-MASQ", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-SERVICES")
NAT_FRAME = """-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -j MASQUERADE --random-fully"""


def restore_command() -> str:
    """The restore program to use; the legacy one where it is installed.

    Both ask the rules one after another. Legacy loads 10,000 services in seconds where the nftables variant takes minutes,
    and is the faster one per packet, so it is the better of the two for whoever is compared with it.
    """
    return "iptables-legacy-restore" if shutil.which("iptables-legacy-restore") else "iptables-restore"


def ruleset(services: Iterable[BenchService]) -> str:
    """All of it as one input for ``iptables-restore``."""
    chains, choices, rules = list(NAT_CHAINS), [], []
    for service in services:
        chain = _chain("SVC", service.name)
        chains.append(chain)
        choices.append(f"-A KUBE-SERVICES {_dialled(service)} -j {chain}")
        rules.append(f"-A {chain} ! -s {POD_NETWORK} {_dialled(service)} -j KUBE-MARK-MASQ")
        for endpoint, lines in _endpoints(service, chain):
            chains.append(endpoint)
            rules += lines
    # The last rule of KUBE-SERVICES is for addresses of the node itself.
    choices.append("-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS")
    declared = [f":{chain} - [0:0]" for chain in chains]
    return FILTER + "\n".join(["*nat", *declared, NAT_FRAME, *choices, *rules, "COMMIT"]) + "\n"


def _endpoints(service: BenchService, chain: str) -> Iterator[tuple[str, list[str]]]:
    count = len(service.backends)
    for number, backend in enumerate(service.backends):
        endpoint = _chain("SEP", f"{service.name} {backend}")
        left = count - number
        chance = f"-m statistic --mode random --probability {1 / left:.10f} " if left > 1 else ""
        yield (
            endpoint,
            [
                f"-A {chain} {chance}-j {endpoint}",
                f"-A {endpoint} -s {backend}/32 -j KUBE-MARK-MASQ",
                f"-A {endpoint} -p tcp -m tcp -j DNAT --to-destination {backend}:{BACKEND_PORT}",
            ],
        )


def _dialled(service: BenchService) -> str:
    return f"-d {service.address}/32 -p tcp -m tcp --dport {SERVICE_PORT}"


def _chain(kind: str, name: str) -> str:
    digest = hashlib.sha256(f"{NAMESPACE}/{name}:http tcp".encode()).digest()
    return f"KUBE-{kind}-{base64.b32encode(digest).decode()[:16]}"
