"""The source as a whole: what an API server says arrives in the mesh, and what it does not say does not."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import yaml
from aiohttp import web

from meshd.agent.kubernetes_view import source_figures
from meshd.config import Config
from meshd.config_kubernetes import ExternalIPs, Kubernetes
from meshd.kubeapi.pace import Pace
from meshd.kubeapi.resources import ENDPOINT_SLICES, NAMESPACES, NODES, PODS, SERVICES, Resource
from meshd.model import BackendSlice, Node, Service, ServiceName, Workload, format_address, parse_address
from meshd.model.address import format_endpoint
from meshd.sources.kubernetes.source import SOURCE, KubernetesSource
from meshd.state import Mesh, PlanKey, SourceState
from tests.fakes.api_server import FakeApiServer, Object, serving, status
from tests.fakes.certificates import Authority

AUTHORITY = Authority()
WEB = ServiceName("default", "web")


class QuickPace(Pace):
    """No waits worth mentioning."""

    def __init__(self) -> None:
        super().__init__(interval_s=0, first_s=0.001, last_s=0.002)


def load(server: FakeApiServer, text: str) -> None:
    """Put the objects of a YAML text where an API server would have them."""
    kinds: dict[str, Resource] = {
        each.kind: each for each in (SERVICES, ENDPOINT_SLICES, NODES, NAMESPACES, PODS)
    }
    for body in yaml.safe_load_all(text):
        if body:
            server.put(kinds[body["kind"]], body)


def service(name: str, address: str, **spec: object) -> Object:
    return {
        "kind": "Service",
        "metadata": {"namespace": "default", "name": name, "creationTimestamp": f"2026-01-01T00:00:{address[-2:]}Z"},
        "spec": {"clusterIP": address, "clusterIPs": [address], "ports": [{"port": 80}], **spec},
    }  # fmt: skip


def part(name: str, of: str, *addresses: str) -> Object:
    return {
        "kind": "EndpointSlice",
        "metadata": {"namespace": "default", "name": name, "labels": {"kubernetes.io/service-name": of}},
        "addressType": "IPv4",
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in addresses],
    }


def node(name: str, address: str, zone: str = "", *cidrs: str) -> Object:
    labels = {"topology.kubernetes.io/zone": zone} if zone else {}
    return {
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {"podCIDRs": list(cidrs)},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    }


class Scene:
    """A server, a mesh, and the source between them."""

    def __init__(self, server: FakeApiServer, directory: Path, options: Kubernetes) -> None:
        self.server = server
        self.mesh = Mesh()
        self.told: list[list[str]] = []
        self.mesh.observe(
            lambda _, puts, gone: self.told.append([*map(str, map(type, puts)), *map(str, gone)])
        )
        self.config = Config(node_name="n1", kubernetes=options, run_dir=directory)
        self.source = KubernetesSource(self.mesh, self.config, QuickPace)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self.source.run())

    async def started(self) -> None:
        """Everything was listed."""
        self.start()
        await self.until(lambda: self.state is SourceState.COMPLETE)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not holds():
                assert self._task is None or not self._task.done(), self._task
                await self.mesh.moved()

    @property
    def state(self) -> SourceState:
        return self.mesh.sources[SOURCE].state

    @property
    def reason(self) -> str:
        return self.mesh.sources[SOURCE].reason

    def service(self, name: str = "web") -> Service | None:
        return self.mesh.service(ServiceName("default", name))

    def backends(self, name: str = "web") -> list[str]:
        parts = self.mesh.slices_of(ServiceName("default", name))
        return sorted(format_address(each.address) for part in parts for each in part.backends)

    def external(self, name: str = "web") -> list[str]:
        found = self.service(name)
        return [format_endpoint(each.address, each.port) for each in found.external] if found else []


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def scene(stack: AsyncExitStack, tmp_path: Path) -> Scene:
    return await made(stack, tmp_path, ExternalIPs(("203.0.113.0/24",)))


async def made(stack: AsyncExitStack, tmp_path: Path, external_ips: ExternalIPs) -> Scene:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*AUTHORITY.issue("server").write(tmp_path, "server"))
    server = await stack.enter_async_context(serving(FakeApiServer(), context))
    path = tmp_path / "kubeconfig"
    data = base64.b64encode(AUTHORITY.pem).decode()
    path.write_text(
        yaml.safe_dump(
            {
                "current-context": "c",
                "clusters": [{"name": "k", "cluster": {"server": server.url, "certificate-authority-data": data}}],
                "users": [{"name": "u", "user": {"token": "t"}}],
                "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
            }
        )
    )  # fmt: skip
    scene = Scene(server, tmp_path, Kubernetes(kubeconfig=path, external_ips=external_ips))
    stack.push_async_callback(scene.stop)
    return scene


async def test_what_the_server_has_arrives(scene: Scene) -> None:
    for body, resource in (
        (service("web", "10.96.0.11"), SERVICES),
        (part("web-a", "web", "10.1.0.1", "10.1.1.1"), ENDPOINT_SLICES),
        (part("web-b", "web", "10.1.0.2"), ENDPOINT_SLICES),
        (node("n1", "192.0.2.1", "z1", "10.1.0.0/24"), NODES),
        ({"metadata": {"name": "default", "annotations": {"meshd.io/global": "true"}}}, NAMESPACES),
    ):
        scene.server.put(resource, body)
    await scene.started()
    assert scene.backends() == ["10.1.0.1", "10.1.0.2", "10.1.1.1"]
    found = scene.mesh.nodes.get((SOURCE, "default", "n1"))
    assert found == Node("default", "n1", SOURCE, (parse_address("192.0.2.1"),), ("10.1.0.0/24",), "z1")
    namespace = scene.mesh.namespace("default")
    assert namespace is not None
    assert namespace.global_services is True


async def test_nothing_is_told_before_all_that_belongs_together_was_listed(scene: Scene) -> None:
    scene.server.put(SERVICES, service("web", "10.96.0.11"))
    scene.server.put(ENDPOINT_SLICES, part("web-a", "web", "10.1.0.1"))

    def refuse(request: web.Request) -> web.Response | None:
        return status(403, "Forbidden", "nodes is forbidden") if request.path == NODES.path() else None

    scene.server.intervene = refuse
    scene.start()
    await scene.until(lambda: scene.state is SourceState.STALE)
    assert "nodes away since " in scene.reason
    assert scene.reason.endswith("list nodes: 403 Forbidden: nodes is forbidden")
    assert scene.service() is None
    scene.server.intervene = lambda _: None
    await scene.until(lambda: scene.state is SourceState.COMPLETE)
    assert scene.backends() == ["10.1.0.1"]
    assert len(scene.told) == 1


async def test_a_change_is_one_revision(scene: Scene) -> None:
    scene.server.put(SERVICES, service("web", "10.96.0.11"))
    await scene.started()
    before = scene.mesh.revision
    scene.server.put(ENDPOINT_SLICES, part("web-a", "web", "10.1.0.1"))
    await scene.until(lambda: scene.backends() == ["10.1.0.1"])
    scene.server.delete(ENDPOINT_SLICES, "web-a", "default")
    await scene.until(lambda: scene.backends() == [])
    assert scene.mesh.revision == before + 2


async def test_a_slice_that_passes_to_another_service_leaves_the_first(scene: Scene) -> None:
    scene.server.put(SERVICES, service("web", "10.96.0.11"))
    scene.server.put(SERVICES, service("api", "10.96.0.12"))
    scene.server.put(ENDPOINT_SLICES, part("x", "web", "10.1.0.1"))
    await scene.started()
    scene.server.put(ENDPOINT_SLICES, part("x", "api", "10.1.0.1"))
    await scene.until(lambda: scene.backends("api") == ["10.1.0.1"])
    assert scene.backends("web") == []


async def test_a_list_that_is_read_again_takes_away_only_what_is_gone(scene: Scene) -> None:
    for number in range(3):
        scene.server.put(SERVICES, service(f"s{number}", f"10.96.0.1{number}"))
        scene.server.put(ENDPOINT_SLICES, part(f"s{number}-a", f"s{number}", f"10.1.0.{number}"))
    await scene.started()
    scene.told.clear()
    scene.server.delete(SERVICES, "s1", "default")
    scene.server.delete(ENDPOINT_SLICES, "s1-a", "default")
    scene.server.compact()
    scene.server.end_watches()
    await scene.until(lambda: scene.service("s1") is None and scene.backends("s1") == [])
    assert sorted(len(each) for each in scene.told) == [1, 1]
    assert scene.state is SourceState.COMPLETE


async def test_out_of_reach_everything_stands_and_status_says_since_when(scene: Scene) -> None:
    scene.server.put(SERVICES, service("web", "10.96.0.11"))
    scene.server.put(ENDPOINT_SLICES, part("web-a", "web", "10.1.0.1"))
    await scene.started()
    scene.server.intervene = lambda _: status(503, "ServiceUnavailable", "etcd is away")
    scene.server.end_watches()
    await scene.until(lambda: len(scene.source.problems()) == 5)
    assert scene.state is SourceState.STALE
    assert scene.backends() == ["10.1.0.1"]
    (line,) = [each for each in scene.source.problems() if "endpointslices" in each]
    assert line.startswith("kubernetes: endpointslices.discovery.k8s.io away since 20")
    assert line.endswith(": watch endpointslices.discovery.k8s.io: 503 ServiceUnavailable: etcd is away")
    scene.server.intervene = lambda _: None
    await scene.until(lambda: scene.state is SourceState.COMPLETE)
    assert scene.source.problems() == []


async def test_what_an_earlier_run_knew_stands_until_the_server_was_heard(scene: Scene) -> None:
    was = Service(WEB, SOURCE)
    gone = Service(ServiceName("default", "gone"), SOURCE)
    scene.mesh.restore(SOURCE, [was, gone, BackendSlice(WEB, "old", SOURCE, "default", ())])
    scene.source = KubernetesSource(scene.mesh, scene.config, QuickPace)
    scene.server.put(SERVICES, service("web", "10.96.0.11"))
    scene.server.put(ENDPOINT_SLICES, part("web-a", "web", "10.1.0.1"))
    assert scene.service("gone") == gone
    await scene.started()
    assert (scene.service("gone"), scene.backends()) == (None, ["10.1.0.1"])
    assert [each.name for each in scene.mesh.slices_of(WEB)] == ["web-a"]


async def test_a_bad_version_leaves_the_good_one_in_force(scene: Scene) -> None:
    scene.server.put(SERVICES, service("web", "10.96.0.11"))
    await scene.started()
    good = scene.service()
    bad = service("web", "10.96.0.12")
    bad["metadata"]["annotations"] = {"meshd.io/affinity": "sideways"}
    scene.server.put(SERVICES, bad)
    scene.server.put(SERVICES, service("next", "10.96.0.13"))
    await scene.until(lambda: scene.service("next") is not None)
    assert scene.service() == good
    assert scene.source.problems() == [
        "kubernetes: Service default/web: metadata.annotations[meshd.io/affinity]: "
        "'sideways' is not one of none, local, remote; its last good version stands"
    ]
    scene.server.delete(SERVICES, "web", "default")
    await scene.until(lambda: scene.service() is None)
    assert scene.source.problems() == []


async def test_node_ports_follow_the_nodes(scene: Scene) -> None:
    ports = [{"port": 80, "nodePort": 30080}]
    scene.server.put(SERVICES, service("web", "10.96.0.11", type="NodePort", ports=ports))
    scene.server.put(NODES, node("n1", "192.0.2.1"))
    await scene.started()
    assert scene.external() == ["192.0.2.1:30080"]
    scene.server.put(NODES, node("n2", "192.0.2.2"))
    await scene.until(lambda: scene.external() == ["192.0.2.1:30080", "192.0.2.2:30080"])
    scene.server.delete(NODES, "n2")
    await scene.until(lambda: scene.external() == ["192.0.2.1:30080"])


async def test_a_refused_address_is_said_by_the_service_and_found_again_when_free(scene: Scene) -> None:
    scene.server.put(SERVICES, service("old", "10.96.0.11", externalIPs=["203.0.113.7"]))
    scene.server.put(SERVICES, service("web", "10.96.0.12", externalIPs=["203.0.113.7", "8.8.8.8"]))
    await scene.started()
    found = scene.service()
    assert found is not None
    assert found.external == ()
    assert [each.split(";")[0] for each in found.remarks] == [
        "spec.externalIPs: 203.0.113.7 port 80/TCP is answered for default/old, which is older",
        "spec.externalIPs: 8.8.8.8 is not in kubernetes.externalIPs.allowed",
    ]
    scene.server.delete(SERVICES, "old", "default")
    await scene.until(lambda: scene.external() == ["203.0.113.7:80"])


async def test_an_address_of_a_node_that_another_source_knows_is_not_given_away(scene: Scene) -> None:
    scene.server.put(SERVICES, service("web", "10.96.0.11", externalIPs=["203.0.113.7"]))
    await scene.started()
    assert scene.external() == ["203.0.113.7:80"]
    other = Node("there", "m1", "cluster:there", (parse_address("203.0.113.7"),))
    scene.mesh.apply("cluster:there", [other])
    await scene.until(lambda: scene.external() == [])
    scene.mesh.apply("cluster:there", deletes=[(Node, other.key)])
    await scene.until(lambda: scene.external() == ["203.0.113.7:80"])


async def test_the_api_servers_own_addresses_are_not_given_away(scene: Scene) -> None:
    scene.server.put(SERVICES, service("web", "10.96.0.11", externalIPs=["203.0.113.7"]))
    scene.server.put(ENDPOINT_SLICES, part("kubernetes", "kubernetes", "203.0.113.7"))
    await scene.started()
    assert scene.external() == []


async def test_services_of_another_proxy_are_not_asked_for(scene: Scene) -> None:
    await scene.started()
    (asked,) = [
        each for each in scene.server.asked if each.path == SERVICES.path() and "watch" not in each.query
    ]
    assert asked.query["labelSelector"] == "!service.kubernetes.io/service-proxy-name"


async def test_pods_of_this_node_are_workloads_whose_place_a_runtime_knows(scene: Scene) -> None:
    def pod(name: str, **spec: object) -> Object:
        return {
            "metadata": {
                "namespace": "default",
                "name": name,
                "annotations": {"meshd.io/socket-lb": "false"},
            },
            "spec": {"nodeName": "n1", **spec},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.1.0.9"}, {"ip": "fd00::9"}]},
        }

    scene.server.put(PODS, pod("web-0"))
    scene.server.put(PODS, pod("host", hostNetwork=True))
    await scene.started()
    addresses = parse_address("10.1.0.9"), parse_address("fd00::9")
    assert list(scene.mesh.workloads.values()) == [
        Workload("default", "web-0", SOURCE, "", addresses, socket_lb=False, labels=())
    ]
    asked = next(each for each in scene.server.asked if each.path == PODS.path())
    assert asked.query["fieldSelector"] == "spec.nodeName=n1,status.phase!=Succeeded,status.phase!=Failed"


async def test_every_service_is_planned_again_when_this_node_turns_out_to_be_elsewhere(scene: Scene) -> None:
    scene.server.put(SERVICES, service("web", "10.96.0.11"))
    scene.server.put(NODES, node("n1", "192.0.2.1", "z1"))
    await scene.started()
    scene.mesh.take_changes()
    scene.server.put(NODES, node("n2", "192.0.2.2", "z2"))
    await scene.until(lambda: scene.mesh.nodes.get((SOURCE, "default", "n2")) is not None)
    assert PlanKey("service", str(WEB)) not in scene.mesh.take_changes()
    scene.server.put(NODES, node("n1", "192.0.2.1", "z9"))
    await scene.until(lambda: scene.mesh.is_dirty(PlanKey("service", str(WEB))))


async def test_very_many_objects_are_told_in_parts(scene: Scene) -> None:
    for number in range(600):
        scene.server.put(SERVICES, service(f"s{number}", f"10.96.{number // 200}.{number % 200 + 10}"))
        scene.server.put(ENDPOINT_SLICES, part(f"s{number}-a", f"s{number}", "10.1.0.1"))
    await scene.started()
    assert len(scene.told) == 5
    assert scene.mesh.service_counts[SOURCE] == 600


async def test_credentials_that_are_not_there_are_named_and_nothing_ends(scene: Scene) -> None:
    assert scene.config.kubernetes.kubeconfig is not None
    scene.config.kubernetes.kubeconfig.unlink()
    scene.start()
    await scene.until(lambda: scene.state is SourceState.STALE)
    assert scene.reason.endswith("kubeconfig cannot be read: No such file or directory")
    assert scene.source.problems() == [f"kubernetes: {scene.reason}"]


async def test_metrics_say_how_each_resource_is_read(scene: Scene) -> None:
    await scene.started()
    figures = {figure.name: figure for figure in source_figures(scene.source)}
    lists = {sample.labels["resource"]: sample.value for sample in figures["kubernetes_lists"].samples}
    assert lists == {
        "namespaces": 1.0,
        "nodes": 1.0,
        "services": 1.0,
        "endpointslices.discovery.k8s.io": 1.0,
        "pods": 1.0,
    }
    assert {sample.value for sample in figures["kubernetes_away_seconds"].samples} == {0.0}
