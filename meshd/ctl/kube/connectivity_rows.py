"""What a test of connectivity tries, and what its answers mean. Pure.

From a pod on every node: a pod there and on other nodes, services with a backend there and on another node, the name of a
service, the API server by the address of its service, nodes, and the world outside; each in every family that it has.
A service has its only backend on one node, so that of a service and a way between nodes only what is broken fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address
from typing import Any

PORT = 8080
# Addresses for documentation: nobody answers there, but the routers on the way say that they were passed (RFC 5737, 3849).
NOWHERE = {4: "192.0.2.1", 6: "2001:db8::1"}
# Where traceroute begins.
NOWHERE_PORT = 33434
OUTSIDE_PORT = 443
# Of a large cluster, each node tries the next so many; all of a small one.
OTHERS = 8

DOCUMENT = "docs/troubleshooting.md"
# The sections of it by concern; the first words say what to ask first.
LOOK = {
    "start": ("kubectl describe that pod", "Pods stay in ContainerCreating"),
    "ready": ("meshctl metrics drops on that node", "A packet is dropped and nobody says why"),
    "pod": ("meshctl metrics drops on that node", "A packet is dropped and nobody says why"),
    "other pod": ("meshctl node list on both nodes", "Pods reach each other on one node, not across"),
    "service": ("meshctl service list on that node", "A service address is refused, or times out"),
    "other service": ("the row of the pod on that node", "Pods reach each other on one node, not across"),
    "name": ("kubectl -n kube-system get pods -l k8s-app=kube-dns", "Names are not found"),
    "API server": ("kubectl get endpointslices kubernetes", "A service address is refused, or times out"),
    "node": ("the node's firewall", "Pods do not reach nodes, or the world outside"),
    "outside": (
        "meshctl metrics drops on that node",
        "Pods do not reach nodes, or the world outside",
    ),
}
LARGE = ("the MTU of links and tunnels on the way", "Small packets pass, large ones vanish")


class Outcome(Enum):
    """``UNKNOWN``: nothing is known to be wrong, and nothing was shown."""

    OK = "ok"
    UNKNOWN = "unknown"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Server:
    """The pod on ``node`` that answers, and the service whose only backend it is; addresses of both families, one each.

    ``node_addresses`` are its node's, ``kubelet_port`` where that listens. ``is_ready``: services send to it. ``trouble``:
    why it is not ready; ``concern``: whether it did not start, or is not reached.
    """

    node: str
    name: str
    pod_addresses: Sequence[str] = ()
    service_addresses: Sequence[str] = ()
    node_addresses: Sequence[str] = ()
    kubelet_port: int = 10250
    is_ready: bool = True
    trouble: str = ""
    concern: str = "ready"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """``api_server``: its service's addresses. ``outside``: (address, port) that the user named. ``has_dns``: a service says
    that it is the cluster's DNS."""

    api_server: Sequence[str] = ()
    outside: Sequence[tuple[str, int]] = ()
    has_dns: bool = True


@dataclass(frozen=True, slots=True)
class Target:
    """One row to be: ``what`` is tried for which ``concern``; ``asked``: what the prober is told (``prober.py``)."""

    concern: str
    what: str
    asked: Mapping[str, Any]  # Any: JSON

    @property
    def tried(self) -> str:
        host = self.asked["host"]
        if self.asked["kind"] == "name":
            return str(host)
        return f"{f'[{host}]' if ':' in host else host}:{self.asked['port']}"


@dataclass(frozen=True, slots=True)
class Row:
    """``node``: of the pod that tried it; ``look``: where to look next, if it failed."""

    outcome: Outcome
    node: str
    what: str
    tried: str
    said: str
    look: str = ""


def targets(servers: Sequence[Server], number: int, around: Surroundings) -> list[Target]:
    """What the pod beside ``servers[number]`` tries; ``asked["id"]`` is the place in the list."""
    found = list(_targets(servers, number, around))
    return [
        Target(each.concern, each.what, {**each.asked, "id": position}) for position, each in enumerate(found)
    ]


def _targets(servers: Sequence[Server], number: int, around: Surroundings) -> Iterator[Target]:
    own = servers[number]
    others = [servers[(number + step) % len(servers)] for step in range(1, min(len(servers), OTHERS + 1))]
    yield from _pod("pod", "pod on the same node", own)
    for other in others:
        yield from _pod("other pod", f"pod on {other.node}", other)
    yield from _service("service", "service, TCP", own, "tcp")
    yield from _service("service", "service, UDP", own, "udp")
    for other in others:
        yield from _service("other service", f"service with its backend on {other.node}", other, "tcp")
    if own.service_addresses:
        for family, addresses in _by_family(own.service_addresses).items():
            yield Target(
                "name", f"cluster DNS, IPv{family}", _ask("name", own.name, 0, family, addresses=addresses)
            )
    for address in around.api_server:
        yield Target("API server", "API server's service", _ask("https", address, 443))
    for server in (own, *others):
        what = "its own node" if server is own else f"node {server.node}"
        for address in server.node_addresses:
            if family_of(address) in _by_family(own.pod_addresses):
                yield Target("node", what, _ask("knock", address, server.kubelet_port))
    yield from _outside(own, around)


def _pod(concern: str, what: str, server: Server) -> Iterator[Target]:
    for address in server.pod_addresses:
        yield Target(concern, what, _ask("tcp", address, PORT, node=server.node))


def _service(concern: str, what: str, server: Server, kind: str) -> Iterator[Target]:
    if server.is_ready:
        for address in server.service_addresses:
            yield Target(concern, what, _ask(kind, address, PORT, node=server.node))


def _outside(own: Server, around: Surroundings) -> Iterator[Target]:
    named = {family_of(address) for address, _ in around.outside}
    for address, port in around.outside:
        yield Target("outside", "outside", _ask("knock", address, port))
    for family in _by_family(own.pod_addresses):
        if family not in named:
            yield Target("outside", "outside", _ask("routers", NOWHERE[family], NOWHERE_PORT))


def _ask(kind: str, host: str, port: int, family: int = 0, **more: object) -> Mapping[str, Any]:
    return {"kind": kind, "host": host, "port": port, "family": family or family_of(host), **more}


def rows(
    servers: Sequence[Server],
    number: int,
    tried: Sequence[Target],
    answers: Sequence[Mapping[str, Any]],
    around: Surroundings,
) -> list[Row]:
    """What came of what the pod beside ``servers[number]`` ``tried``; what it said nothing of has failed."""
    by_id = {each["id"]: each for each in answers}
    nothing = {"passed": False, "said": "the pod that was to try it said nothing", "tries": 0}
    node = servers[number].node
    return [
        judged(node, target, by_id.get(position, nothing), around) for position, target in enumerate(tried)
    ]


def judged(node: str, target: Target, answer: Mapping[str, Any], around: Surroundings) -> Row:
    """One row."""
    outcome = {True: Outcome.OK, False: Outcome.FAILED, None: Outcome.UNKNOWN}[answer["passed"]]
    said = answer["said"]
    if outcome is Outcome.FAILED and target.concern == "name" and not around.has_dns:
        outcome, said = (
            Outcome.UNKNOWN,
            f"{said}; no service in kube-system says that it is the cluster's DNS",
        )
    if outcome is Outcome.OK and answer["tries"] > 1:
        said = f"{said}, at try {answer['tries']}"
    if outcome is not Outcome.FAILED:
        return Row(outcome, node, target.what, target.tried, said)
    where = LARGE if "large ones do not" in said else LOOK[target.concern]
    return Row(outcome, node, target.what, target.tried, said, sentence(where))


def start_row(server: Server) -> Row:
    """Whether its pod is there and its node reaches it: what a kubelet's probe needs."""
    tried = ", ".join(server.pod_addresses) or "no address"
    if server.is_ready:
        return Row(Outcome.OK, server.node, "a pod starts, its node reaches it", tried, "ready")
    return Row(
        Outcome.FAILED,
        server.node,
        "a pod starts, its node reaches it",
        tried,
        server.trouble,
        sentence(LOOK[server.concern]),
    )


def sentence(where: tuple[str, str]) -> str:
    """Where to look next."""
    first, section = where
    return f'{first}; {DOCUMENT}, "{section}"'


def family_of(address: str) -> int:
    return ip_address(address).version


def _by_family(addresses: Sequence[str]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for each in addresses:
        found.setdefault(family_of(each), []).append(each)
    return found
