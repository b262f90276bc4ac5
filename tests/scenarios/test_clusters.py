"""Two clusters, an etcd each: what one mesh shares is in the other, and stays there when etcd does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from clustermesh import keys
from clustermesh.kv import Kv
from clustermesh.mesh import MeshOptions
from clustermesh.node_record import decode_node
from clustermesh.publisher import PublisherOptions
from meshd.model import (
    Backend,
    BackendPort,
    BackendSlice,
    ClusterState,
    Namespace,
    Node,
    Outage,
    Protocol,
    Service,
    ServiceName,
    parse_address,
)
from meshd.model.outage import PROBES
from meshd.sources.local_etcd import LocalEtcd
from meshd.sources.remote import SOURCE as CLUSTERS
from meshd.sources.remote import RemoteClusters
from meshd.state import Mesh, SourceState
from tests.etcd.process import EtcdProcess

pytestmark = pytest.mark.needs("etcd")

WEB = ServiceName("galaxy", "web")
API = ServiceName("galaxy", "api")
HTTP = BackendPort("http", Protocol.TCP, 8080)
SHARED_BY_1 = "cluster:cm-1"


def service(name: ServiceName = WEB, source: str = "manifests") -> Service:
    return Service(name, source, is_global=True)


def part(*addresses: str, name: ServiceName = WEB, source: str = "manifests") -> BackendSlice:
    backends = tuple(Backend(parse_address(address), (HTTP,)) for address in addresses)
    return BackendSlice(name, "a", source, "cm-1", backends)


async def until(mesh: Mesh, condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await mesh.moved()


async def repeat_until(condition: Callable[[], Awaitable[bool]]) -> None:
    """For what is only in etcd: ask until it is so."""
    async with asyncio.timeout(30):
        while not await condition():
            await asyncio.sleep(0)


def seen(mesh: Mesh, name: ServiceName = WEB) -> list[str] | None:
    """The last bytes of the backends that cm-1 shares, as ``mesh`` has them."""
    found = mesh.slices.get((SHARED_BY_1, name, "clustermesh"))
    return None if found is None else [str(backend.address[-1]) for backend in found.backends]


def held_since(mesh: Mesh) -> float:
    """Unix time since when the service that cm-1 shared is held; 0: it is not."""
    found = mesh.slices.get((SHARED_BY_1, WEB, "clustermesh"))
    return found.stale_since_s if found is not None and found.held else 0.0


@asynccontextmanager
async def running(*parts: LocalEtcd | RemoteClusters) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        started = [tasks.create_task(one.run()) for one in parts]
        try:
            yield
        finally:
            for task in started:
                task.cancel()


class Two:
    """cm-1, which shares what is put into ``first``, and cm-2, which reads it into ``second``."""

    def __init__(self, directory: Path, etcd: EtcdProcess) -> None:
        self.etcd = etcd
        self.first = Mesh()
        self.second = Mesh()
        self.peers = directory / "peers"
        self.peers.mkdir()
        self.client_file = directory / "etcd.yaml"
        self.client_file.write_text(f"endpoints: ['{etcd.url}']\n")

    def connect(self) -> None:
        (self.peers / "cm-1").write_text(self.client_file.read_text())

    def publishing(self, mesh: Mesh | None = None, node: str = "node-1") -> LocalEtcd:
        options = PublisherOptions(election_ttl_s=1, data_ttl_s=60)
        return LocalEtcd(mesh or self.first, self.client_file, "cm-1", 1, node, options=options)

    def reading(self, *known: str) -> RemoteClusters:
        return RemoteClusters(self.second, self.peers, "cm-2", 2, known, options=MeshOptions(scan_s=0.02))

    def state(self) -> SourceState | None:
        status = self.second.sources.get(SHARED_BY_1)
        return status.state if status else None


@pytest.fixture
async def two(tmp_path: Path, make_etcd: Callable[..., EtcdProcess]) -> Two:
    etcd = make_etcd()
    await etcd.start()
    return Two(tmp_path, etcd)


@asynccontextmanager
async def sharing(two: Two, *objects: Service | BackendSlice | Namespace) -> AsyncIterator[None]:
    """Both clusters at work, cm-1 with these manifests, until cm-2 has them."""
    two.connect()
    two.first.replace("manifests", objects)
    async with running(two.publishing(), two.reading()):
        await until(two.second, lambda: two.state() is SourceState.COMPLETE)
        yield


async def test_a_service_shared_by_one_cluster_is_a_slice_of_the_other(two: Two) -> None:
    async with sharing(two, service(), part("10.1.0.1", "10.1.0.2"), replace(service(API), is_global=False)):
        found = two.second.slices.get((SHARED_BY_1, WEB, "clustermesh"))
        assert found is not None
        assert [b.address for b in found.backends] == [parse_address("10.1.0.1"), parse_address("10.1.0.2")]
        assert (found.cluster, found.backends[0].ports) == ("cm-1", (HTTP,))
        assert seen(two.second, API) is None

        def synced() -> bool:
            cluster = two.second.clusters.get((CLUSTERS, "cm-1"))
            return cluster is not None and cluster.state is ClusterState.SYNCED

        await until(two.second, synced)


async def test_backends_come_change_and_go_with_the_slices_they_are_from(two: Two) -> None:
    first, second = two.first, two.second
    # Who takes away its only service takes most of what it has, which is held.
    async with sharing(two, service(), part("10.1.0.1"), service(API), part("10.1.0.3", name=API)):
        first.apply("manifests", [part("10.1.0.1", "10.1.0.2")])
        await until(second, lambda: seen(second) == ["1", "2"])
        leaving = Backend(parse_address("10.1.0.1"), (HTTP,), ready=False, serving=True, terminating=True)
        first.apply("manifests", [BackendSlice(WEB, "a", "manifests", "cm-1", (leaving,))])
        await until(second, lambda: seen(second) == ["1"])
        found = second.slices.get((SHARED_BY_1, WEB, "clustermesh"))
        assert found is not None
        assert (found.backends[0].ready, found.backends[0].terminating) == (False, True)
        first.apply("manifests", deletes=[(Service, ("manifests", WEB))])
        await until(second, lambda: seen(second) is None)


async def test_a_namespace_decides_for_services_that_say_nothing(two: Two) -> None:
    first, second = two.first, two.second
    other = ServiceName("elsewhere", "api")
    rest = service(other), part("10.1.0.3", name=other)
    async with sharing(two, replace(service(), is_global=None), part("10.1.0.1"), *rest):
        assert seen(second) is None
        first.apply("manifests", [Namespace("galaxy", "manifests", global_services=True)])
        await until(second, lambda: seen(second) == ["1"])
        first.apply("manifests", [Namespace("galaxy", "manifests", global_services=False)])
        await until(second, lambda: seen(second) is None)


async def test_what_a_cluster_takes_away_at_once_is_held_over_a_restart_until_somebody_confirms_it(
    two: Two,
) -> None:
    first, second = two.first, two.second
    async with sharing(two, service(), part("10.1.0.1")):
        first.apply("manifests", deletes=[(Service, ("manifests", WEB))])
        await until(second, lambda: held_since(second) > 0)
        since_s = held_since(second)
    # The next process, which has a journal of what was in force.
    restarted = two.second = Mesh()
    restarted.restore(SHARED_BY_1, second.objects_of(SHARED_BY_1))
    second = restarted
    reader = two.reading(SHARED_BY_1)
    async with running(reader):
        assert (held_since(second), seen(second)) == (since_s, ["1"])
        await until(second, lambda: two.state() is SourceState.COMPLETE)
        assert (held_since(second), seen(second)) == (since_s, ["1"])
        gone = reader.confirm("cm-1")
        assert gone is not None
        assert [each.record.full_name for each in gone] == ["galaxy/web"]
        assert (seen(second), reader.confirm("cm-9")) == (None, None)


async def test_what_a_cluster_takes_away_whose_nodes_do_not_answer_is_gone(two: Two) -> None:
    first, second = two.first, two.second
    async with sharing(two, service(), part("10.1.0.1")):
        second.apply(SHARED_BY_1, [Node("cm-1", "node-1", SHARED_BY_1), Node("cm-1", "node-2", SHARED_BY_1)])
        second.apply(PROBES, [Outage("cm-1", name, 0.0, "silent") for name in ("node-1", "node-2")])
        first.apply("manifests", deletes=[(Service, ("manifests", WEB))])
        await until(second, lambda: seen(second) is None)


async def test_a_backend_at_an_address_of_ours_is_refused_also_if_it_was_there_before(two: Two) -> None:
    second, reading = two.second, two.reading()
    two.connect()
    two.first.replace("manifests", [service(), part("10.1.0.1"), service(API), part("10.2.0.9", name=API)])
    second.replace("manifests", [Node("cm-2", "n1", "manifests", (), ("10.2.0.0/24",))])
    async with running(two.publishing(), reading):
        await until(second, lambda: two.state() is SourceState.COMPLETE)
        assert (seen(second), seen(second, API)) == (["1"], None)
        (peer,) = reading.status.peers
        assert peer.refused == {"galaxy/api": "backends: 10.2.0.9 belongs to node cm-2/n1"}
        second.apply("manifests", [Node("cm-2", "n2", "manifests", (), ("10.1.0.0/24",))])
        await until(second, lambda: seen(second) is None)


async def test_while_etcd_is_away_the_other_cluster_keeps_what_it_was_told(two: Two) -> None:
    first, second = two.first, two.second
    async with sharing(two, service(), part("10.1.0.1")):
        two.etcd.stop()
        await until(second, lambda: two.state() is SourceState.STALE)
        first.apply("manifests", [part("10.1.0.7")])
        assert seen(second) == ["1"]
        await two.etcd.start()
        await until(second, lambda: two.state() is SourceState.COMPLETE and seen(second) == ["7"])


async def test_a_cluster_whose_peer_file_goes_takes_its_backends_with_it(two: Two) -> None:
    async with sharing(two, service(), part("10.1.0.1")):
        (two.peers / "cm-1").unlink()
        await until(two.second, lambda: seen(two.second) is None)
        assert SHARED_BY_1 not in two.second.sources
        await until(two.second, lambda: [c.name for c in two.second.clusters.values()] == ["cm-2"])


async def test_a_known_cluster_stands_while_the_directory_of_peers_is_away(two: Two) -> None:
    second = two.second
    second.restore(SHARED_BY_1, [replace(part("10.1.0.9"), source=SHARED_BY_1, name="clustermesh")])
    away = two.peers.rename(two.peers.with_name("away"))
    async with running(two.reading(SHARED_BY_1)):
        await until(second, lambda: second.sources[CLUSTERS].state is SourceState.STALE)
        assert (seen(second), second.is_complete(SHARED_BY_1)) == (["9"], False)
        away.rename(two.peers)
        await until(second, lambda: seen(second) is None)


async def test_a_known_cluster_whose_file_cannot_be_used_stands(two: Two) -> None:
    second = two.second
    second.restore(SHARED_BY_1, [replace(part("10.1.0.9"), source=SHARED_BY_1, name="clustermesh")])
    (two.peers / "cm-1").write_text("endpoints: nonsense\n")
    async with running(two.reading(SHARED_BY_1)):
        await until(second, lambda: second.sources[CLUSTERS].state is SourceState.COMPLETE)
        assert (seen(second), second.is_complete(SHARED_BY_1)) == (["9"], False)
        cluster = second.clusters.get((CLUSTERS, "cm-1"))
        assert cluster is not None
        assert "endpoints" in cluster.reason


async def test_half_a_list_is_not_shared_and_takes_nothing_back(two: Two) -> None:
    async with sharing(two, service(), part("10.1.0.1"), service(API), part("10.1.0.2", name=API)):
        pass
    # A successor that has not heard of its manifests' slices yet, and of one other service from the API.
    successor = Mesh()
    successor.listing("manifests")
    successor.apply("manifests", [service()])
    successor.replace("api", [service(ServiceName("galaxy", "db"), source="api")])
    async with running(two.publishing(successor, "node-2"), two.reading()):
        db = ServiceName("galaxy", "db")
        await until(two.second, lambda: seen(two.second, db) == [])
        assert (seen(two.second), seen(two.second, API)) == (["1"], ["2"])
        successor.replace("manifests", [service(), part("10.1.0.3")])
        await until(two.second, lambda: seen(two.second) == ["3"] and seen(two.second, API) is None)


async def test_each_node_writes_its_own_record(two: Two) -> None:
    two.first.replace("manifests", [Node("cm-1", "node-1", "manifests", (parse_address("172.18.0.2"),))])
    async with AsyncExitStack() as stack:
        kv: Kv = await stack.enter_async_context(two.etcd.kv())
        await stack.enter_async_context(running(two.publishing()))
        key = keys.node("cm-1", "node-1")

        async def has(address: str) -> bool:
            found = await kv.get(key)
            if found is None or found.value is None:
                return False
            node = decode_node(key, found.value, cluster="cm-1", name="node-1", cluster_id=1)
            return [str(one.ip) for one in node.addresses] == [address]

        await repeat_until(lambda: has("172.18.0.2"))
        two.first.apply("manifests", [Node("cm-1", "node-1", "manifests", (parse_address("172.18.0.3"),))])
        await repeat_until(lambda: has("172.18.0.3"))


async def test_a_client_file_that_comes_late_is_used_when_it_is_there(two: Two) -> None:
    two.connect()
    file = two.client_file.rename(two.client_file.with_suffix(".away"))
    two.first.replace("manifests", [service(), part("10.1.0.1")])
    publishing = two.publishing()

    async def refused() -> bool:
        return "No such file" in publishing.last_error

    async with running(publishing, two.reading()):
        await repeat_until(refused)
        file.rename(two.client_file)
        await until(two.second, lambda: seen(two.second) == ["1"])
