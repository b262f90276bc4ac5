"""A cluster that nobody pinned, as a node's sources know it: it teaches nothing that is this cluster's."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from clustermesh.mesh import MeshOptions
from meshd.errors import JournalError
from meshd.model import Node, parse_address
from meshd.sources.node_registry import NodeRegistry
from meshd.sources.own_addresses import OwnAddresses
from meshd.sources.remote import RemoteClusters
from meshd.state import Mesh
from tests.etcd.process import EtcdProcess
from tests.etcd.test_learned_pin import node, share
from tests.scenarios.test_clusters import running

pytestmark = pytest.mark.needs("etcd")


class Reading:
    """A node of cm-2, which has 10.2.1.0/24 and 192.168.2.1."""

    def __init__(self, directory: Path, etcd: EtcdProcess) -> None:
        self.mesh = Mesh()
        self.mesh.replace(
            "node", [Node("cm-2", "n1", "node", (parse_address("192.168.2.1"),), ("10.2.1.0/24",))]
        )
        own = OwnAddresses(self.mesh, "cm-2")
        self.peers, self.pins = directory / "peers", directory / "state" / "pins"
        self.peers.mkdir()
        (self.peers / "cm-1").write_text(f"endpoints: ['{etcd.url}']\n")
        self.remotes = RemoteClusters(
            self.mesh,
            self.peers,
            "cm-2",
            2,
            options=MeshOptions(scan_s=0.02, learn_s=0.0),
            nodes=NodeRegistry(self.mesh, "cm-2", "n1", ours=own),
            own=own,
            learned_pins=self.pins,
        )

    async def learned(self, *networks: str) -> None:
        """Returns once cm-1 may name these, and no others."""
        async with asyncio.timeout(30):
            while [str(each) for peer in self.remotes.status.peers for each in peer.pin.networks] != [
                *networks
            ]:
                await asyncio.sleep(0.01)


@pytest.fixture
def reading(tmp_path: Path, etcd: EtcdProcess) -> Reading:
    return Reading(tmp_path, etcd)


async def test_what_is_ours_is_not_learned_and_what_was_is_learned_anew_on_demand(
    reading: Reading, etcd: EtcdProcess
) -> None:
    async with etcd.kv() as kv, running(reading.remotes):
        await share(
            kv,
            node("n1", "10.1.1.0/24", "192.168.1.1"),
            node("thief", "10.2.1.0/25", "172.16.0.1"),
            mine="10.1.1.9",
        )
        # The address of the thief was nobody's.
        await reading.learned("10.1.0.0/16", "172.16.0.0/16", "192.168.0.0/16")
        assert [path.name for path in reading.pins.iterdir()] == ["cm-1"]
        await share(kv, node("n2", "10.9.1.0/24", "192.168.1.2"))
        assert reading.remotes.relearn("cm-1") is True
        await reading.learned("10.1.0.0/16", "10.9.0.0/16", "172.16.0.0/16", "192.168.0.0/16")
        assert reading.remotes.relearn("cm-7") is None


async def test_what_cannot_be_forgotten_holds(reading: Reading, etcd: EtcdProcess) -> None:
    async with etcd.kv() as kv, running(reading.remotes):
        await share(kv, node("n1", "10.1.1.0/24", "192.168.1.1"))
        await reading.learned("10.1.0.0/16", "192.168.0.0/16")
        kept = reading.pins / "cm-1"
        kept.unlink()
        kept.mkdir()
        with pytest.raises(JournalError, match="cm-1"):
            reading.remotes.relearn("cm-1")
        await reading.learned("10.1.0.0/16", "192.168.0.0/16")
