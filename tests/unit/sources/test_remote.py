"""What clustermesh tells becomes slices, sources and clusters of the mesh."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

from clustermesh.records import ClusterService, Port, Zone
from clustermesh.removals import Kept
from meshd.model import (
    Backend,
    BackendPort,
    BackendSlice,
    Cluster,
    ClusterState,
    Protocol,
    ServiceName,
    parse_address,
)
from meshd.sources.remote import SOURCE, RemoteClusters
from meshd.sources.remote_slices import kept_slice, known_of, slice_of
from meshd.state import Mesh, SourceState

WEB = ServiceName("galaxy", "web")


def shared(name: str = "web", *addresses: str, cluster: str = "cm-2") -> ClusterService:
    backends = {ip_address(text): {"http": Port("TCP", 8080)} for text in addresses}
    return ClusterService(cluster, "galaxy", name, 2, backends=backends)


def clusters(mesh: Mesh, *known: str, directory: Path | None = None) -> RemoteClusters:
    return RemoteClusters(mesh, directory, "cm-1", 1, known)


def addresses(mesh: Mesh, cluster: str = "cm-2", name: ServiceName = WEB) -> list[bytes] | None:
    found = mesh.slices.get((f"cluster:{cluster}", name, "clustermesh"))
    return None if found is None else [backend.address for backend in found.backends]


def test_a_shared_service_is_one_slice_of_backends() -> None:
    service = ClusterService(
        "cm-2",
        "galaxy",
        "web",
        2,
        backends={
            ip_address("10.2.0.1"): {"http": Port("TCP", 8080), "dns": Port("UDP", 53), "s": Port("SCTP", 7)},
            ip_address("fd00:2::1"): {"": Port("TCP", 9090)},
        },
        zones={ip_address("fd00:2::1"): Zone("west")},
    )
    http, dns = BackendPort("http", Protocol.TCP, 8080), BackendPort("dns", Protocol.UDP, 53)
    unnamed = BackendPort("", Protocol.TCP, 9090)
    backends = (
        Backend(parse_address("10.2.0.1"), (http, dns), ready=True, weight=100),
        Backend(parse_address("fd00:2::1"), (unnamed,), ready=True, zone="west", weight=100),
    )
    assert slice_of(service) == BackendSlice(WEB, "clustermesh", "cluster:cm-2", "cm-2", backends)


def test_a_backend_on_its_way_out_is_serving_and_not_ready() -> None:
    at = ip_address("10.2.0.1")
    (backend,) = slice_of(
        ClusterService("cm-2", "galaxy", "web", 2, {}, {at: {}}, terminating=(at,))
    ).backends
    assert (backend.ready, backend.serving, backend.terminating) == (False, True, True)


def state_of(mesh: Mesh) -> SourceState:
    return mesh.sources["cluster:cm-2"].state


def test_lists_and_changes_of_a_cluster_arrive() -> None:
    mesh = Mesh()
    sink = clusters(mesh)
    sink.peers(frozenset({"cm-2"}))
    assert state_of(mesh) is SourceState.LISTING
    sink.replace("cm-2", [shared("web", "10.2.0.1"), shared("api", "10.2.0.2")], [])
    sink.synced("cm-2")
    assert state_of(mesh) is SourceState.COMPLETE
    sink.put("cm-2", shared("web", "10.2.0.9"))
    sink.delete("cm-2", "galaxy/api")
    assert addresses(mesh) == [parse_address("10.2.0.9")]
    assert addresses(mesh, name=ServiceName("galaxy", "api")) is None
    sink.replace("cm-2", [], [])
    assert addresses(mesh) is None


def test_a_cluster_out_of_reach_keeps_what_it_said_until_it_is_in_sync() -> None:
    mesh = Mesh()
    sink = clusters(mesh)
    sink.peers(frozenset({"cm-2"}))
    sink.replace("cm-2", [shared("web", "10.2.0.1")], [])
    sink.synced("cm-2")
    sink.stale("cm-2", "no heartbeat")
    assert addresses(mesh) == [parse_address("10.2.0.1")]
    status = mesh.sources["cluster:cm-2"]
    assert (status.state, status.reason, status.complete_once) == (SourceState.STALE, "no heartbeat", True)
    sink.replace("cm-2", [shared("web", "10.2.0.2")], [])
    assert state_of(mesh) is SourceState.STALE
    sink.synced("cm-2")
    assert state_of(mesh) is SourceState.COMPLETE


def kept(name: str, address: str, age_s: float, *, held: bool = False) -> Kept[ClusterService]:
    return Kept(shared(name, address), time.time() - age_s, held)


def test_what_a_cluster_takes_away_stands_as_stale_until_it_goes_or_is_put_again() -> None:
    mesh = Mesh()
    sink = clusters(mesh)
    sink.peers(frozenset({"cm-2"}))
    sink.replace("cm-2", [shared("web", "10.2.0.1")], [kept("api", "10.2.0.2", 30.0)])
    sink.keep("cm-2", [kept("web", "10.2.0.1", 1.0, held=True)])
    assert {each.service.name: (each.held, each.stale_since_s > 0) for each in mesh.slices.values()} == {
        "web": (True, True),
        "api": (False, True),
    }
    sink.put("cm-2", shared("web", "10.2.0.3"))
    sink.delete("cm-2", "galaxy/api")
    (web,) = mesh.slices.values()
    assert web == slice_of(shared("web", "10.2.0.3"))


def test_what_was_kept_is_known_again_after_a_restart() -> None:
    service = ClusterService(
        "cm-2",
        "galaxy",
        "web",
        0,
        backends={
            ip_address("10.2.0.1"): {"http": Port("TCP", 8080), "dns": Port("UDP", 53)},
            ip_address("fd00:2::1"): {"": Port("TCP", 9090)},
        },
        zones={ip_address("fd00:2::1"): Zone("west")},
        terminating=(ip_address("10.2.0.1"),),
    )
    stale = kept_slice(Kept(replace(service, name="api"), 100.0, held=True), 200.0, 50.0)
    assert (stale.held, stale.stale_since_s, stale.overdue) == (True, 100.0, True)
    known = known_of([slice_of(service), stale], 200.0)
    assert known.services.records == {"galaxy/web": service}
    assert known.removals.kept == {"galaxy/api": Kept(replace(service, name="api"), 100.0, held=True)}


async def test_what_is_out_of_reach_for_too_long_is_overdue_and_in_reach_is_not() -> None:
    mesh = Mesh()
    mesh.restore("cluster:cm-2", [slice_of(shared("web", "10.2.0.1"))])
    sink = RemoteClusters(mesh, Path("/nowhere"), "cm-1", 1, ["cluster:cm-2"], stale_after_s=0.0)
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(sink.run())
        while not mesh.is_overdue("cluster:cm-2"):
            await mesh.moved()
        running.cancel()
    sink.replace("cm-2", [shared("web", "10.2.0.1")], [])
    assert not mesh.is_overdue("cluster:cm-2")


def test_a_cluster_whose_file_is_gone_takes_its_backends_with_it() -> None:
    mesh = Mesh()
    sink = clusters(mesh)
    sink.peers(frozenset({"cm-2"}))
    sink.replace("cm-2", [shared("web", "10.2.0.1")], [])
    sink.gone("cm-2")
    sink.peers(frozenset())
    assert addresses(mesh) is None
    assert "cluster:cm-2" not in mesh.sources
    assert [cluster.name for cluster in mesh.clusters.values()] == ["cm-1"]


def test_rows_of_a_known_cluster_stand_until_the_directory_was_read(tmp_path: Path) -> None:
    mesh = Mesh()
    mesh.restore("cluster:cm-2", [slice_of(shared("web", "10.2.0.1"))])
    mesh.restore("cluster:cm-3", [slice_of(shared("web", "10.3.0.1", cluster="cm-3"))])
    sink = clusters(mesh, "cluster:cm-2", "cluster:cm-3", "manifests", directory=tmp_path / "missing")
    assert not mesh.is_complete("cluster:cm-2")
    assert not mesh.is_complete("cluster:cm-3")
    assert "manifests" not in mesh.sources
    sink.peers(frozenset({"cm-3"}))
    assert (addresses(mesh, "cm-2"), addresses(mesh, "cm-3")) == (None, [parse_address("10.3.0.1")])
    assert mesh.is_complete("cluster:cm-2")
    assert not mesh.is_complete("cluster:cm-3")


async def test_without_a_directory_of_peers_no_cluster_has_anything_to_say() -> None:
    mesh = Mesh()
    mesh.restore("cluster:cm-2", [slice_of(shared("web", "10.2.0.1"))])
    task = asyncio.create_task(clusters(mesh, "cluster:cm-2").run())
    while addresses(mesh) is not None:
        await mesh.moved()
    task.cancel()
    assert mesh.sources[SOURCE].state is SourceState.COMPLETE


def test_the_own_cluster_is_always_known() -> None:
    mesh = Mesh()
    clusters(mesh)
    (own,) = mesh.clusters.values()
    assert (own.name, own.id, own.local, own.state) == ("cm-1", 1, True, ClusterState.SYNCED)


def test_a_named_cluster_that_is_not_connected_yet_is_connecting() -> None:
    mesh = Mesh()
    clusters(mesh).peers(frozenset({"cm-2"}))
    found = mesh.clusters.get((SOURCE, "cm-2"))
    assert isinstance(found, Cluster)
    assert (found.local, found.state) == (False, ClusterState.CONNECTING)
