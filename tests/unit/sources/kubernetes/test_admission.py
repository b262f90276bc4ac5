"""Who is dialled at addresses that are no ClusterIPs: one row a rule, in as Services, out as frontends and reasons."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import msgspec
import pytest
import yaml

from meshd.model import Node, NodeState, ServiceName, parse_address
from meshd.model.address import format_endpoint
from meshd.sources.kubernetes.admission import Admission, Policy
from meshd.sources.kubernetes.claims import claims
from meshd.sources.kubernetes.services import Remark, service
from meshd.sources.kubernetes.surroundings import surroundings
from meshd.sources.kubernetes.types import ObjectName, StoredService

POLICY = Policy(external=(ip_network("203.0.113.0/24"), ip_network("2001:db8::/32")))
NODES = [
    Node("here", "n1", "kubernetes", (parse_address("192.0.2.1"), parse_address("fd00:1::1")), ("10.1.0.0/24",)),
    Node("here", "n2", "kubernetes", (parse_address("192.0.2.2"),), ("10.1.1.0/24", "fd00:2::/64")),
    Node("there", "m1", "cluster:there", (parse_address("198.51.100.9"),), (), extra=(parse_address("10.9.0.7"),)),
    Node("there", "m2", "cluster:there", (parse_address("203.0.113.77"),), state=NodeState.REFUSED),
]  # fmt: skip
AROUND = surroundings(
    NODES, ("here", "n1"), [ip_network("10.2.0.0/16")], [(parse_address("203.0.113.200"), 6443)]
)


class Scene:
    """Services of one cluster, each created a minute after the one before."""

    def __init__(self, policy: Policy = POLICY) -> None:
        self.admission = Admission(policy)
        self.admission.surround(AROUND)
        self.remarks: list[Remark] = []
        self._minute = 0

    def put(self, name: str, text: str) -> set[str]:
        self._minute += 1
        body: dict[str, Any] = {
            "metadata": {"namespace": "ns", "name": name, "creationTimestamp": f"2026-01-01T00:{self._minute:02}:00Z"},
            **yaml.safe_load(text),
        }  # fmt: skip
        found = msgspec.convert(body, StoredService)
        value, _ = service(found, ObjectName("Service", "ns", name), "kubernetes")
        asked, self.remarks = claims(found, value)
        return {
            each.name for each in self.admission.put(value, found.metadata.creation_timestamp or "", asked)
        }

    def answered(self, name: str) -> list[str]:
        frontends = self.admission.granted(ServiceName("ns", name)).frontends
        return [f"{format_endpoint(each.address, each.port)}/{each.protocol.name}" for each in frontends]

    def refused(self, name: str) -> list[str]:
        return list(self.admission.granted(ServiceName("ns", name)).refused)


def spec(extra: str, ips: str = "10.96.0.1") -> str:
    return f"spec: {{clusterIPs: [{ips}], ports: [{{port: 80, nodePort: 30080}}], {extra}}}"


def balanced(ingress: str, extra: str = "") -> str:
    return f"{spec(f'type: LoadBalancer, {extra}')}\nstatus: {{loadBalancer: {{ingress: [{ingress}]}}}}"


DUAL = "10.96.0.1, 'fd00:96::1'"
NODE_PORTS = ["192.0.2.1:30080/TCP", "192.0.2.2:30080/TCP"]
ANSWERED = [
    ("a ClusterIP service claims nothing", spec("type: ClusterIP"), []),
    ("a node port at every node", spec("type: NodePort"), NODE_PORTS),
    ("in the service's families", spec("type: NodePort", DUAL),
     ["192.0.2.1:30080/TCP", "192.0.2.2:30080/TCP", "[fd00:1::1]:30080/TCP"]),
    ("a load balancer's address", balanced("{ip: 203.0.113.5}"), [*NODE_PORTS, "203.0.113.5:80/TCP"]),
    ("also outside the list for externalIPs", balanced("{ip: 198.51.100.5}"), [*NODE_PORTS, "198.51.100.5:80/TCP"]),
    ("of mode VIP", balanced("{ip: 203.0.113.5, ipMode: VIP}"), [*NODE_PORTS, "203.0.113.5:80/TCP"]),
    ("but not of mode Proxy", balanced("{ip: 203.0.113.5, ipMode: Proxy}"), NODE_PORTS),
    ("nor of another family", balanced("{ip: '2001:db8::5'}"), NODE_PORTS),
    ("nor a host name", balanced("{hostname: lb.example}"), NODE_PORTS),
    ("nor where it judges who comes", balanced("{ip: 203.0.113.5}", "loadBalancerSourceRanges: [10.0.0.0/8]"), NODE_PORTS),
    ("a balancer's address left from before", spec("type: ClusterIP")
     + "\nstatus: {loadBalancer: {ingress: [{ip: 203.0.113.5}]}}", []),
    ("an external address that is allowed", spec("externalIPs: [203.0.113.7]"), ["203.0.113.7:80/TCP"]),
    ("in both families", spec("externalIPs: [203.0.113.7, '2001:db8::7']", DUAL),
     ["203.0.113.7:80/TCP", "[2001:db8::7]:80/TCP"]),
    ("named twice, once", balanced("{ip: 203.0.113.5}", "externalIPs: [203.0.113.5]"), [*NODE_PORTS, "203.0.113.5:80/TCP"]),
    ("of every port but SCTP", "spec: {clusterIP: 10.96.0.1, externalIPs: [203.0.113.7], ports: ["
     "{name: a, port: 80}, {name: b, port: 53, protocol: UDP}, {name: c, port: 9, protocol: SCTP}]}",
     ["203.0.113.7:80/TCP", "203.0.113.7:53/UDP"]),
    ("a headless service claims nothing", "spec: {clusterIP: None, externalIPs: [203.0.113.7], ports: [{port: 80}]}", []),
    ("an ExternalName neither", "spec: {type: ExternalName, externalIPs: [203.0.113.7], ports: [{port: 80}]}", []),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "text", "expected"), ANSWERED, ids=[row[0] for row in ANSWERED])
def test_a_service_is_dialled_at(rule: str, text: str, expected: list[str]) -> None:
    scene = Scene()
    scene.put("s", text)
    assert (scene.answered("s"), scene.refused("s")) == (expected, [])


SHADOWS = [
    ("8.8.8.8", "is not in kubernetes.externalIPs.allowed"),
    ("10.96.0.10", "is the ClusterIP of ns/dns"),
    ("192.0.2.1", "is node here/n1"),
    ("192.0.2.2", "is node here/n2"),
    ("198.51.100.9", "is node there/m1"),
    ("10.1.1.7", "is an address of pods of node here/n2"),
    ("10.9.0.7", "is an address of pods of node there/m1"),
    ("10.2.3.4", "is an address of pods of this node"),
    ("203.0.113.200", "is the API server"),
    ("127.0.0.1", "is an address of this machine or link"),
    ("169.254.169.254", "is an address of this machine or link"),
    ("224.0.0.1", "is no host's address"),
    ("255.255.255.255", "is no host's address"),
    ("0.0.0.0", "is an address of this machine or link"),
]


@pytest.mark.parametrize(("address", "reason"), SHADOWS)
def test_an_external_address_never_shadows(address: str, reason: str) -> None:
    everything = Policy(external=() if reason.endswith("allowed") else (ip_network("0.0.0.0/0"),))
    scene = Scene(everything)
    scene.put("dns", "spec: {clusterIP: 10.96.0.10, ports: [{port: 53, protocol: UDP}]}")
    scene.put("thief", spec(f"externalIPs: ['{address}']"))
    assert scene.answered("thief") == []
    assert scene.refused("thief") == [f"spec.externalIPs: {address} {reason}; left to the network"]


@pytest.mark.parametrize(("address", "reason"), SHADOWS[1:])
def test_a_load_balancer_never_shadows(address: str, reason: str) -> None:
    scene = Scene()
    scene.put("dns", "spec: {clusterIP: 10.96.0.10, ports: [{port: 53, protocol: UDP}]}")
    scene.put("thief", balanced(f"{{ip: '{address}'}}"))
    assert scene.answered("thief") == NODE_PORTS
    assert scene.refused("thief") == [f"status.loadBalancer.ingress: {address} {reason}; left to the network"]


SHADOWS_V6 = ["fd00:1::1", "fd00:2::99", "fe80::1", "::1", "::", "ff02::1"]


@pytest.mark.parametrize("address", SHADOWS_V6)
def test_an_external_address_of_ipv6_never_shadows(address: str) -> None:
    scene = Scene(Policy(external=(ip_network("::/0"),)))
    scene.put("thief", spec(f"externalIPs: ['{address}']", DUAL))
    assert (scene.answered("thief"), len(scene.refused("thief"))) == ([], 1)


def test_a_mapped_address_is_the_address_that_it_maps() -> None:
    scene = Scene(Policy(external=(ip_network("::/0"), ip_network("0.0.0.0/0"))))
    scene.put("thief", spec("externalIPs: ['::ffff:192.0.2.1']", DUAL))
    assert scene.answered("thief") == []


def test_of_two_services_the_older_one_is_answered_and_the_other_told() -> None:
    scene = Scene()
    scene.put("old", spec("externalIPs: [203.0.113.7]"))
    scene.put("new", spec("externalIPs: [203.0.113.7]", "10.96.0.2"))
    assert (scene.answered("old"), scene.answered("new")) == (["203.0.113.7:80/TCP"], [])
    assert scene.refused("new") == [
        "spec.externalIPs: 203.0.113.7 port 80/TCP is answered for ns/old, which is older; left to the network"
    ]


def test_it_does_not_matter_who_was_heard_of_first() -> None:
    scene = Scene()
    scene.put("later", spec("externalIPs: [203.0.113.7]"))
    scene._minute = -1
    assert scene.put("earlier", spec("externalIPs: [203.0.113.7]")) == {"later"}
    assert (scene.answered("earlier"), scene.answered("later")) == (["203.0.113.7:80/TCP"], [])


def test_who_goes_makes_room_for_the_next() -> None:
    scene = Scene()
    for name in ("a", "b", "c"):
        scene.put(name, spec("externalIPs: [203.0.113.7]"))
    assert {each.name for each in scene.admission.remove(ServiceName("ns", "a"))} == {"b", "c"}
    assert (scene.answered("b"), scene.answered("c")) == (["203.0.113.7:80/TCP"], [])


def test_one_address_may_be_shared_by_ports() -> None:
    scene = Scene()
    scene.put("web", spec("externalIPs: [203.0.113.7]"))
    scene.put(
        "dns", "spec: {clusterIP: 10.96.0.9, externalIPs: [203.0.113.7], ports: [{port: 80, protocol: UDP}]}"
    )
    assert (scene.answered("web"), scene.answered("dns")) == (["203.0.113.7:80/TCP"], ["203.0.113.7:80/UDP"])


def test_an_older_service_that_may_not_does_not_stand_in_the_way() -> None:
    scene = Scene(Policy())
    scene.put("old", spec("externalIPs: [198.51.100.5]"))
    scene.put("new", balanced("{ip: 198.51.100.5}"))
    assert (scene.answered("old"), scene.answered("new")) == ([], [*NODE_PORTS, "198.51.100.5:80/TCP"])


def test_a_cluster_ip_that_comes_takes_the_address_back() -> None:
    scene = Scene(Policy(external=(ip_network("10.96.0.0/16"),)))
    scene.put("thief", spec("externalIPs: [10.96.0.50]"))
    assert scene.answered("thief") == ["10.96.0.50:80/TCP"]
    assert scene.put("owner", "spec: {clusterIP: 10.96.0.50, ports: [{port: 443}]}") == {"thief"}
    assert scene.answered("thief") == []
    assert scene.admission.remove(ServiceName("ns", "owner")) == {ServiceName("ns", "thief")}
    assert scene.answered("thief") == ["10.96.0.50:80/TCP"]


def test_a_node_that_comes_concerns_whoever_claims_something() -> None:
    scene = Scene()
    scene.put("port", spec("type: NodePort"))
    scene.put("plain", "spec: {clusterIP: 10.96.0.9, ports: [{port: 80}]}")
    scene.put("external", spec("externalIPs: [203.0.113.7]"))
    more = [*NODES, Node("here", "n3", "kubernetes", (parse_address("203.0.113.7"),))]
    concerned = scene.admission.surround(surroundings(more, ("here", "n1")))
    assert {each.name for each in concerned} == {"port", "external"}
    assert scene.answered("port") == [*NODE_PORTS, "203.0.113.7:30080/TCP"]
    assert scene.answered("external") == []
    assert scene.admission.surround(surroundings(more, ("here", "n1"))) == set()


@pytest.mark.parametrize(("which", "expected"), [("all", NODE_PORTS), ("own", NODE_PORTS[:1]), ("none", [])])
def test_node_ports_are_answered_where_the_operator_wants(which: str, expected: list[str]) -> None:
    scene = Scene(Policy(node_ports=which))
    scene.put("s", spec("type: NodePort"))
    assert scene.answered("s") == expected


def test_a_node_port_is_never_the_api_servers() -> None:
    scene = Scene()
    scene.admission.surround(surroundings(NODES, ("here", "n1"), (), [(parse_address("192.0.2.2"), 30080)]))
    scene.put("s", spec("type: NodePort"))
    assert scene.answered("s") == NODE_PORTS[:1]
    assert scene.refused("s")[0].startswith("spec.ports[].nodePort: 192.0.2.2 port 30080 is the API server's")


def test_too_many_node_ports_are_answered_at_this_node_only_and_that_is_said() -> None:
    scene = Scene(Policy(node_port_rows=1))
    scene.put("a", spec("type: NodePort"))
    assert (scene.answered("a"), scene.admission.leaves_out_other_nodes) == (NODE_PORTS, "")
    assert scene.put("b", spec("type: NodePort", "10.96.0.2")) == {"a"}
    assert scene.answered("a") == NODE_PORTS[:1]
    assert (
        "2 ports at the 1 addresses of other nodes are 2 rows, and 1 are"
        in scene.admission.leaves_out_other_nodes
    )
    assert scene.admission.remove(ServiceName("ns", "b")) == {ServiceName("ns", "a")}
    assert scene.answered("a") == NODE_PORTS


def test_what_is_left_to_the_load_balancer_is_remarked() -> None:
    scene = Scene()
    scene.put("s", balanced("{ip: 203.0.113.5}", "loadBalancerSourceRanges: [10.0.0.0/8]"))
    assert [remark.field for remark in scene.remarks] == ["status.loadBalancer.ingress"]


def test_an_address_of_a_refused_node_is_not_taken_for_a_node() -> None:
    scene = Scene()
    scene.put("s", spec("externalIPs: [203.0.113.77]"))
    assert scene.answered("s") == ["203.0.113.77:80/TCP"]
