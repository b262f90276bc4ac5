"""Services that share backends, addresses or names: what one of them does leaves the others alone."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from meshd.dataplane.held import Held
from meshd.dataplane.layouts import layouts
from meshd.dataplane.socket_lb import Planner
from meshd.kernel.object import BpfObject
from meshd.model import Frontend, Protocol, Service, ServiceName, parse_address
from meshd.state import Mesh
from meshd.state.mesh import Object
from tests.netns.dataplane.node import (
    BACKENDS4,
    VIP4,
    Node,
    backend,
    backends,
    nothing_unwanted,
    service,
    serving,
)

TWIN = ServiceName("default", "twin")
TWIN_VIP = "10.96.0.77"


def twin(**facts: object) -> Service:
    """Another service of TCP 80, on an address of its own."""
    frontends = (Frontend(parse_address(TWIN_VIP), 80, Protocol.TCP, "http"),)
    return replace(Service(TWIN, "manifests", frontends), **facts)  # type: ignore[arg-type]


@pytest.mark.parametrize("gone", ["the older", "the younger"])
async def test_affinity_outlives_a_service_with_the_same_backends(node: Node, gone: str) -> None:
    members = backends(*map(backend, BACKENDS4))
    with serving(node, *BACKENDS4):
        async with node.agent() as dataplane:
            node.mesh.replace("manifests", [service(affinity_timeout_s=60), members])
            await node.settle()
            both: list[Object] = [twin(affinity_timeout_s=60), replace(members, service=TWIN)]
            await node.settle(node.mesh.apply("manifests", both))
            stays, goes, vip = (
                (twin(), service(), TWIN_VIP) if gone == "the older" else (service(), twin(), VIP4)
            )
            (kept,) = {node.ask(vip) for _ in range(10)}
            await node.settle(node.mesh.apply("manifests", deletes=[(Service, goes.key)]))
            assert node.mesh.service(stays.name) is not None
            await nothing_unwanted(dataplane)
            assert {node.ask(vip) for _ in range(30)} == {kept}


PLAN_IN_ANOTHER_PROCESS = """
import sys
from tests.netns.dataplane.test_neighbours import planned_rows
sys.stdout.write(planned_rows())
"""


def planned_rows() -> str:
    """The rows of a service of whose backend several slices say different things."""
    mesh = Mesh()
    parts = [
        replace(backends(backend(BACKENDS4[0], weight=weight), backend(BACKENDS4[1])), name=f"part-{weight}")
        for weight in (10, 20, 30, 40)
    ]
    mesh.replace("manifests", [service(), *parts])
    with BpfObject.open() as bpf:
        codecs = layouts(bpf.btf)
    plan = Planner(codecs, "node-1", Held(codecs, {})).service(mesh, service().name)
    return repr(sorted((name, sorted(rows.items())) for name, rows in plan.rows.items()))


def test_every_process_plans_the_same_rows_when_slices_disagree() -> None:
    plans = {
        subprocess.run(
            [sys.executable, "-c", PLAN_IN_ANOTHER_PROCESS],
            env={"PYTHONHASHSEED": str(seed), "PYTHONPATH": ":".join(sys.path)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in range(4)
    }
    assert plans == {planned_rows()}


async def test_a_weaker_source_does_not_take_the_place_of_one_that_has_not_spoken_yet(node: Node) -> None:
    manifests, api = BACKENDS4[:2]
    with serving(node, manifests, api):
        async with node.agent():
            node.mesh.replace("manifests", [service(), backends(backend(manifests))])
            await node.settle()
        node.mesh = Mesh()
        node.mesh.listing("manifests")
        async with node.agent() as dataplane:
            before = dict(dataplane.maps["frontends"].items())
            node.mesh.replace("api", [service(source="api"), backends(backend(api), source="api")])
            await node.settle()
            assert dict(dataplane.maps["frontends"].items()) == before
            assert {node.ask(VIP4) for _ in range(20)} == {manifests}
            node.mesh.replace("manifests", [])
            await node.settle()
            assert {node.ask(VIP4) for _ in range(20)} == {api}


async def test_backends_of_a_silent_cluster_do_not_outlast_the_service_being_global(node: Node) -> None:
    local, remote = BACKENDS4[:2]
    with serving(node, local, remote):
        async with node.agent():
            part = backends(backend(remote), source="cluster:cm-2", cluster="cm-2")
            node.mesh.replace("cluster:cm-2", [part])
            node.mesh.replace("manifests", [service(is_global=True), backends(backend(local))])
            await node.settle()
        node.mesh = Mesh()
        node.mesh.listing("cluster:cm-2")
        async with node.agent():
            node.mesh.replace("manifests", [service(), backends(backend(local))])
            await node.settle()
            assert {node.ask(VIP4) for _ in range(20)} == {local}
