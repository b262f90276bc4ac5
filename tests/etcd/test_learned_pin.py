"""A peer that nobody pinned is held to what it named first, against a real etcd."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

from clustermesh import keys
from clustermesh.addresses import Network
from clustermesh.kv import Kv
from clustermesh.learned_pin import ForbidsNetwork, no_network
from clustermesh.learner import LearnedPins
from clustermesh.mesh import ClusterMesh, MeshOptions
from clustermesh.node_record import Node, NodeAddress, encode_node
from clustermesh.pin_file import state
from clustermesh.records import encode_config, encode_service
from clustermesh.remote import RemoteOptions, RemoteStatus
from tests.etcd.node_recording import RecordingNodes
from tests.etcd.process import EtcdProcess
from tests.etcd.recording import RecordingSink
from tests.etcd.test_publisher import CONFIG, service

RESOURCES = ("nodes", "identities", "ip", "services")


class Reading:
    """Cluster cm-9 (id 9) with the peers of a directory."""

    def __init__(self, mesh: ClusterMesh, sink: RecordingSink, nodes: RecordingNodes) -> None:
        self.mesh, self.sink, self.nodes = mesh, sink, nodes

    def status(self, name: str = "cm-1") -> RemoteStatus | None:
        return next((each for each in self.mesh.status.peers if each.cluster == name), None)

    def networks(self, name: str = "cm-1") -> tuple[str, list[str]]:
        """Who said what cluster ``name`` may name, and what that is."""
        status = self.status(name)
        assert status is not None
        return status.pin_origin, [str(each) for each in status.pin.networks]

    async def learned(self, name: str = "cm-1") -> None:
        def is_so() -> bool:
            status = self.status(name)
            return status is not None and status.pin_origin == "learned"

        await self.sink.until(is_so)


@asynccontextmanager
async def reading(
    directory: Path, forbids_network: ForbidsNetwork = no_network, learn_s: float = 0.0
) -> AsyncIterator[Reading]:
    sink = RecordingSink()
    nodes = RecordingNodes(sink)
    mesh = ClusterMesh(
        directory,
        "cm-9",
        9,
        sink,
        options=MeshOptions(scan_s=0.05, learn_s=learn_s, remote=RemoteOptions(retry_last_s=0.2)),
        nodes=nodes,
        forbids_network=forbids_network,
        pins=LearnedPins(directory.with_name("pins")),
    )
    task = asyncio.create_task(mesh.run())
    try:
        yield Reading(mesh, sink, nodes)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def node(name: str, pods: str, address: str = "192.168.0.1", cluster: str = "cm-1") -> Node:
    network: Network = ip_network(pods)
    told = Node(name, cluster, int(cluster[-1]), (NodeAddress("InternalIP", ip_address(address)),))
    return (
        replace(told, ipv4_network=network) if network.version == 4 else replace(told, ipv6_network=network)
    )


async def share(kv: Kv, *nodes: Node, cluster: str = "cm-1", **backends: str) -> None:
    """What an exporter of ``cluster`` with these nodes, and services with one backend each, writes."""
    cluster_id = int(cluster[-1])
    for one in nodes:
        await kv.put(keys.node(cluster, one.name), encode_node(one))
    for name, address in backends.items():
        told = replace(service(name, address), cluster=cluster, cluster_id=cluster_id)
        await kv.put(keys.service(cluster, "ns", name), encode_service(told))
    for resource in RESOURCES:
        await kv.put(keys.canary(cluster, resource), b"now")
    await kv.put(keys.cluster_config(cluster), encode_config(replace(CONFIG, cluster_id=cluster_id)))


def join(directory: Path, etcd: EtcdProcess, name: str = "cm-1", pin: str = "") -> None:
    (directory / name).write_text(f"endpoints: ['{etcd.url}']\n{pin}")


async def test_a_later_widening_is_refused_and_named_also_by_the_next_process(
    etcd: EtcdProcess, kv: Kv, directory: Path
) -> None:
    await share(kv, node("n1", "10.1.1.0/24"), mine="10.1.1.9")
    join(directory, etcd)
    async with reading(directory) as one:
        await one.sink.told("synced", "cm-1")
        assert one.networks() == ("learned", ["10.1.0.0/16", "192.168.0.0/16"])
        # More of the same is no widening.
        await share(kv, node("n2", "10.1.2.0/24", "192.168.7.2"), grown="10.1.2.9")
        await one.sink.told("node", "cm-1", "n2")
        await share(kv, node("n3", "10.2.3.0/24"), stolen="10.2.3.9")
        await one.sink.until(lambda: len(getattr(one.status(), "refused", ())) == 2)
        status = one.status()
        assert status is not None
        assert status.refused == {
            "node n3": "AllocCIDR: 10.2.3.0/24 is in no network that the peer named first",
            "ns/stolen": "backends: 10.2.3.9 is in no network that the peer named first",
        }
        assert status.refusals == {"AllocCIDR": 1, "backends": 1}
        assert set(one.sink.services["cm-1"]) == {"ns/mine", "ns/grown"}
    async with reading(directory) as again:
        await again.sink.told("synced", "cm-1")
        assert again.networks() == ("learned", ["10.1.0.0/16", "192.168.0.0/16"])
        assert set(again.sink.services["cm-1"]) == {"ns/mine", "ns/grown"}
        assert set(again.nodes.nodes) == {"n1", "n2"}


async def test_another_id_than_the_first_is_refused(etcd: EtcdProcess, kv: Kv, directory: Path) -> None:
    await share(kv, node("n1", "10.1.1.0/24"), mine="10.1.1.9")
    join(directory, etcd)
    async with reading(directory) as one:
        await one.sink.told("synced", "cm-1")
        await kv.put(keys.cluster_config("cm-1"), encode_config(replace(CONFIG, cluster_id=7)))
        await one.sink.until(
            lambda: "its cluster id is 7, its first 1" in getattr(one.status(), "reason", "")
        )
        assert set(one.sink.services["cm-1"]) == {"ns/mine"}


async def test_services_beyond_the_nodes_of_the_first_list_are_never_told(
    etcd: EtcdProcess, kv: Kv, directory: Path
) -> None:
    await share(kv, node("n1", "10.1.1.0/24"), mine="10.1.1.9", stolen="203.0.113.9")
    join(directory, etcd)
    async with reading(directory) as one:
        await one.sink.told("synced", "cm-1")
        assert set(one.sink.services["cm-1"]) == {"ns/mine"}
        assert not any("ns/stolen" in event for event in one.sink.events)


async def test_what_is_learned_is_of_the_first_list_with_nodes(
    etcd: EtcdProcess, kv: Kv, directory: Path
) -> None:
    await share(kv, mine="10.1.1.9", stolen="10.2.3.9")
    join(directory, etcd)
    async with reading(directory) as one:
        await one.sink.told("synced", "cm-1")
        assert one.networks() == ("none yet", [])
        assert set(one.sink.services["cm-1"]) == {"ns/mine", "ns/stolen"}
        await share(kv, node("n1", "10.1.1.0/24"))
        await one.learned()
        await one.sink.until(lambda: set(one.sink.services["cm-1"]) == {"ns/mine"})
        await one.sink.until(lambda: "ns/stolen" in getattr(one.status(), "refused", {}))


async def test_nodes_of_a_cluster_that_is_just_starting_teach_one_after_the_other(
    etcd: EtcdProcess, kv: Kv, directory: Path
) -> None:
    await share(kv, node("n2", "fd00:1:2::/64"), early="fd00:1:1::9")
    join(directory, etcd)
    async with reading(directory, learn_s=600.0) as one:
        await one.sink.told("synced", "cm-1")
        assert one.networks() == ("learned", ["192.168.0.0/16", "fd00:1:2::/48"])
        assert set(one.sink.services["cm-1"]) == set()
        await share(kv, node("n1", "fd00:1:1::/64"))
        await one.sink.until(lambda: "ns/early" in one.sink.services["cm-1"])
        assert one.networks() == ("learned", ["192.168.0.0/16", "fd00:1:1::/48", "fd00:1:2::/48"])
        assert set(one.nodes.nodes) == {"n1", "n2"}
        await one.sink.until(lambda: getattr(one.status(), "refused", None) == {})
        assert getattr(one.status(), "refusals", None) == {"backends": 1}
        # What cannot be learned then is refused all the same, and asked for once only.
        await share(kv, node("n3", "0.0.0.0/0"))
        await one.sink.until(lambda: "node n3" in getattr(one.status(), "refused", {}))
    async with reading(directory, learn_s=600.0) as again:
        await again.sink.told("synced", "cm-1")
        assert again.networks() == ("learned", ["192.168.0.0/16", "fd00:1:1::/48", "fd00:1:2::/48"])
        await share(kv, node("n4", "10.4.1.0/24"))
        await again.sink.until(lambda: "node n4" in getattr(again.status(), "refused", {}))


async def test_a_hostile_first_list_gains_nothing_that_is_somebody_s(
    etcd: EtcdProcess, kv: Kv, directory: Path, make_etcd: Callable[..., EtcdProcess]
) -> None:
    def ours(network: Network) -> str:
        mine: list[Network] = [ip_network("10.9.0.0/16"), ip_network("127.0.0.0/8")]
        return "is ours" if any(network.version == 4 and network.overlaps(each) for each in mine) else ""

    other = make_etcd("other")
    await other.start()
    join(directory, etcd, "cm-1")
    join(directory, etcd, "cm-2", "meshd.io/pin: {cluster-id: 2, networks: [10.2.0.0/16, 198.51.0.0/17]}\n")
    await share(kv, node("n1", "10.1.1.0/24"))
    await share(kv, node("n1", "10.2.1.0/24", "198.51.0.1", "cm-2"), cluster="cm-2")
    hostile = {
        "all": node("all", "0.0.0.0/0", "172.16.3.1", "cm-3"),
        "ours": node("ours", "10.9.7.0/24", "10.9.0.7", "cm-3"),
        "host": node("host", "127.0.0.0/24", "127.0.0.1", "cm-3"),
        "stated": node("stated", "10.2.200.0/24", "198.51.127.1", "cm-3"),
        "of-a-node": node("of-a-node", "10.1.1.128/25", "192.168.0.1", "cm-3"),
        "beside": node("beside", "10.3.1.0/24", "198.51.200.1", "cm-3"),
    }
    async with reading(directory, ours) as one, other.kv() as elsewhere:
        await one.sink.until(lambda: [each.nodes for each in one.mesh.status.peers] == [1, 1])
        await share(elsewhere, *hostile.values(), cluster="cm-3")
        join(directory, other, "cm-3")
        await one.sink.told("synced", "cm-3")
        assert one.networks("cm-3") == ("learned", ["10.3.0.0/16", "172.16.0.0/16", "198.51.128.0/17"])
        refused = one.status("cm-3")
        assert refused is not None
        assert set(refused.refused) == {f"node {name}" for name in hostile if name != "beside"}


async def test_a_pin_that_is_confirmed_is_stated_from_then_on(
    etcd: EtcdProcess, kv: Kv, directory: Path
) -> None:
    await share(kv, node("n1", "10.1.1.0/24"), mine="10.1.1.9", stolen="10.2.3.9")
    join(directory, etcd)
    async with reading(directory) as one:
        await one.learned()
        status = one.status()
        assert status is not None
        state(directory / "cm-1", "cm-1", status.pin)
        await one.sink.until(lambda: one.networks()[0] == "stated")
        await one.sink.until(lambda: getattr(one.status(), "state", "") == "synced")
        assert one.networks() == ("stated", ["10.1.0.0/16", "192.168.0.0/16"])
        assert one.mesh.relearn("cm-9") is None
        assert set(one.sink.services["cm-1"]) == {"ns/mine"}


async def test_what_is_forgotten_is_learned_from_the_next_list(
    etcd: EtcdProcess, kv: Kv, directory: Path
) -> None:
    await share(kv, node("n1", "10.1.1.0/24"), mine="10.1.1.9")
    join(directory, etcd)
    async with reading(directory) as one:
        await one.sink.told("synced", "cm-1")
        await share(kv, node("n2", "10.2.1.0/24"), wider="10.2.1.9")
        await one.sink.until(lambda: "node n2" in getattr(one.status(), "refused", {}))
        assert one.mesh.relearn("cm-1") is True
        await one.sink.until(lambda: "ns/wider" in one.sink.services["cm-1"])
        assert one.networks() == ("learned", ["10.1.0.0/16", "10.2.0.0/16", "192.168.0.0/16"])
        assert set(one.nodes.nodes) == {"n1", "n2"}


async def test_a_broken_file_keeps_what_was_said_and_lets_nothing_new_in(
    etcd: EtcdProcess, kv: Kv, directory: Path
) -> None:
    await share(kv, node("n1", "10.1.1.0/24"), mine="10.1.1.9")
    join(directory, etcd)
    kept = directory.with_name("pins") / "cm-1"
    async with reading(directory) as one:
        await one.sink.told("synced", "cm-1")
    good = kept.read_bytes()
    kept.write_bytes(b"networks: [")
    async with reading(directory) as again:
        await again.sink.until(lambda: str(kept) in getattr(again.status(), "reason", ""))
        assert "cm-1" not in again.sink.services
        kept.write_bytes(good)
        await again.sink.told("synced", "cm-1")
        assert again.networks() == ("learned", ["10.1.0.0/16", "192.168.0.0/16"])
