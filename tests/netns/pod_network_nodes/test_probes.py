"""A node of another cluster falls silent: its backends are left alone while somebody else serves, and nobody else's are."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from meshd.api.v1 import failover_pb2, node_pb2, service_pb2
from meshd.api.v1.failover_pb2_grpc import FailoverServiceStub
from meshd.api.v1.service_pb2_grpc import ServiceServiceStub
from tests.netns.agent.agent_node import endpoint_slice, service
from tests.netns.pod_network_nodes.fabric import Fabric, FabricNode
from tests.patience import patience

pytestmark = [pytest.mark.needs("etcd"), pytest.mark.needs("command:nft")]

VIP = "10.96.0.10"
UP, DOWN = node_pb2.REACHABILITY_UP, node_pb2.REACHABILITY_DOWN
TUNNEL = "udp dport 8472"


class Mesh:
    """Two nodes of cm-1 and one of cm-2, with one global service that has a backend in each cluster."""

    def __init__(self, fabric: Fabric, routing: str, **annotations: str) -> None:
        fabric.join("cm-1", "cm-2")
        self.fabric = fabric
        self.here = fabric.node(1, "cm-1", routing)
        self.beside = fabric.node(2, "cm-1", routing)
        # It knows nothing of the service, and would say so to the other cluster.
        self.beside.agent.options["clustermesh"]["publish"] = False  # type: ignore[index] # a dict
        self.there = fabric.node(3, "cm-2", routing)
        for node in (self.here, self.beside, self.there):
            node.start()
        self.backends: list[str] = []
        for node in (self.here, self.there):
            _, added = node.add("backend")
            self.backends.append(added.addresses[0])
            shared = service("web", VIP)
            shared["metadata"]["annotations"] = {"service.cilium.io/global": "true"} | annotations  # type: ignore[index] # a dict
            node.agent.write("services", shared, endpoint_slice("web", added.addresses[0]))
        for node in (self.here, self.there):
            node.agent.wait(lambda node=node: in_use(node) == 2)  # type: ignore[misc] # a bound default
        self.here.agent.wait(lambda: answers(self.here, "cm-2/n3") == UP)
        self.there.agent.wait(lambda: answers(self.there, "cm-1/n1") == UP)
        self.here.agent.wait(lambda: answers(self.here, "cm-1/n2") == UP)

    def cut(self, *ways: tuple[FabricNode, FabricNode], only: str = "") -> None:
        """What matches ``only`` is dropped on its way from the first to the second of each, and nothing else is."""
        rules = "\n".join(f'iifname "{a.name}p" oifname "{b.name}p" {only} drop' for a, b in ways)
        table = (
            f"table bridge cut {{\nchain forward {{\ntype filter hook forward priority 0\n{rules}\n}}\n}}\n"
        )
        script = f"table bridge cut\ndelete table bridge cut\n{table if ways else ''}"
        command = ["nft", "-f", "-"]
        self.fabric.netns.run(lambda: subprocess.run(command, input=script.encode(), check=True))


def in_use(node: FabricNode) -> int:
    """How many backends new connections to the service may get."""
    with node.agent.channel() as channel:
        found = ServiceServiceStub(channel).ListServices(
            service_pb2.ListServicesRequest(), timeout=patience(5)
        )
    return next((each.status.backends_in_use for each in found.services), 0)


def answers(node: FabricNode, other: str) -> int:
    found = node.nodes().get(other)
    return found.reachability if found is not None else 0


def failovers(node: FabricNode) -> list[failover_pb2.Failover]:
    """What the node remembers, the oldest first."""
    with node.agent.channel() as channel:
        request = failover_pb2.ListFailoversRequest()
        found = FailoverServiceStub(channel).ListFailovers(request, timeout=patience(5))
    return list(reversed(found.failovers))


def problems(node: FabricNode) -> str:
    said = node.agent.status()
    assert said is not None
    return "\n".join(said.warnings)


def events(node: FabricNode, event: str) -> list[dict[str, object]]:
    return [each for each in node.agent.log() if each["event"] == event]


@pytest.fixture
def mesh(fabric: Fabric, request: pytest.FixtureRequest) -> Iterator[Mesh]:
    yield Mesh(fabric, request.param)


@pytest.mark.parametrize("mesh", ["native"], indirect=True)
def test_a_node_that_falls_silent_is_left_alone_until_it_answers_again(mesh: Mesh) -> None:
    here, there = mesh.here, mesh.there
    for ways in ([(here, there)], [(there, here)]):
        mesh.cut(*ways)
        here.agent.wait(lambda: answers(here, "cm-2/n3") == DOWN)
        there.agent.wait(lambda: answers(there, "cm-1/n1") == DOWN)
        here.agent.wait(lambda: in_use(here) == 1)
        assert "node cm-2/n3 does not answer" in problems(here)
        # Who still reaches it goes on using it.
        assert (answers(mesh.beside, "cm-2/n3"), events(mesh.beside, "node does not answer")) == (0, [])
        mesh.cut()
        here.agent.wait(lambda: in_use(here) == 2)
        there.agent.wait(lambda: in_use(there) == 2)
    one = failovers(here)[0]
    assert (one.cluster, list(one.nodes)) == ("cm-2", ["n3"])
    assert one.cause == failover_pb2.FAILOVER_CAUSE_SILENT
    assert one.detection_seconds > 0.5  # no shorter silence means anything
    (move,) = one.moves
    assert (dict(move.before), dict(move.after)) == ({"cm-1": 0.5, "cm-2": 0.5}, {"cm-1": 1.0})
    assert 0 < move.switch_seconds < one.ended.ToNanoseconds() / 1e9 - one.found.ToNanoseconds() / 1e9
    assert [len(failovers(node)) for node in (here, there, mesh.beside)] == [2, 2, 0]
    # Without an agent nothing forgets it, and the next one knows it from before.
    mesh.cut((here, there), (there, here))
    here.agent.wait(lambda: in_use(here) == 1)
    here.agent.kill()
    here.start()
    here.agent.wait(lambda: answers(here, "cm-2/n3") == DOWN)
    assert in_use(here) == 1
    assert [each.HasField("ended") for each in failovers(here)] == [True, True, False]
    mesh.cut()
    here.agent.wait(lambda: in_use(here) == 2)
    here.agent.wait(lambda: [each.HasField("ended") for each in failovers(here)] == [True] * 3)


@pytest.mark.parametrize("mesh", ["native"], indirect=True)
def test_who_is_cut_off_itself_leaves_nobody_alone(mesh: Mesh) -> None:
    here, others = mesh.here, (mesh.beside, mesh.there)
    mesh.cut(*((here, other) for other in others))
    here.agent.wait(lambda: bool(events(here, "node silent, perhaps for us alone")))
    mesh.there.agent.wait(lambda: answers(mesh.there, "cm-1/n1") == DOWN)
    assert (answers(here, "cm-2/n3"), in_use(here)) == (UP, 2)
    assert "none of 1 near this node answers either" in problems(here)
    # Now only the other cluster is silent, so it is not us.
    mesh.cut((here, mesh.there))
    here.agent.wait(lambda: in_use(here) == 1)


@pytest.mark.parametrize("mesh", ["vxlan"], indirect=True)
def test_a_cut_of_the_tunnel_alone_is_noticed_though_nodes_reach_each_other(mesh: Mesh) -> None:
    here, there = mesh.here, mesh.there
    mesh.cut((here, there), only=f"ip protocol udp {TUNNEL}")
    here.agent.wait(lambda: answers(here, "cm-2/n3") == DOWN)
    here.agent.wait(lambda: in_use(here) == 1)
    mesh.cut()
    here.agent.wait(lambda: in_use(here) == 2)
