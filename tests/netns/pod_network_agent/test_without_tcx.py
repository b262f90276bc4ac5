"""The same programs on a kernel that knows no tcx links: as filters, also on uplinks, and not where these cannot be."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path

import pytest

from meshd.config import Config
from meshd.config_pod_network import PodNetwork
from meshd.dataplane.devices import Devices
from meshd.dataplane.opening import Opened, link_pins, open_object
from meshd.dataplane.pod_network import filters
from meshd.dataplane.pod_network.places import POD, UPLINK, Place
from meshd.dataplane.pod_network.traffic_control import TrafficControl
from meshd.dataplane.takeover import Takeover
from meshd.kernel import netlink
from meshd.kernel.netlink import VethEnd
from meshd.kernel.netns import Netns
from meshd.kernel.route_socket import RouteSocket
from meshd.model import Workload, parse_address
from meshd.model.attachment import CNI
from meshd.model.workload import PodLink
from meshd.state import Mesh
from tests.fakes.dataplane import FakeDataplane
from tests.patience import patience

PATIENCE_S = patience(10)
MAC = "0a:00:00:00:00:01"


@pytest.fixture
def opened(bpffs: Path) -> Iterator[tuple[Config, Opened]]:
    config = Config(
        node_name="n1",
        bpffs=bpffs,
        pod_network=PodNetwork(enabled=True, uplinks=("uplink",)),
        audit_interval_s=0.2,
    )
    made = open_object(config, ())
    try:
        yield config, made
    finally:
        made.loaded.close()


@pytest.fixture
def devices(unique_name: str) -> Iterator[Netns]:
    """A namespace with the links `uplink`, `plain` and `limited`."""
    with Netns.create(unique_name) as made, Netns.create("peers") as peers:
        for name in ("uplink", "plain", "limited"):
            netlink.create_veth(
                VethEnd(made, name, (ip_interface("192.0.2.1/24"),) if name == "uplink" else ()),
                VethEnd(peers, name),
            )
        yield made


@dataclass(frozen=True, slots=True)
class Seen:
    """Filters on `uplink`, `plain` and `limited` by name, and what is said to have no programs."""

    filters: dict[str, set[str]]
    without: dict[str, str]


async def attached(config: Config, opened: Opened) -> Seen:
    """What a `TrafficControl` does that is told of no tcx. In the namespace, as its worker threads are then too."""
    mesh = Mesh()
    mesh.replace(CNI, [pod("plain"), pod("limited", via_stack=True)])
    programs = {name: each for name, each in opened.loaded.programs.items() if name.startswith("pod_")}
    made = TrafficControl(config, mesh, Devices(), programs, link_pins(config), Takeover(), has_tcx=False)
    # Rows are written by others.
    tasks = [asyncio.create_task(part.run()) for part in (FakeDataplane(mesh), made)]
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not made.is_on:
                await asyncio.sleep(0.01)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    found = {name: on(name, UPLINK if name == "uplink" else POD) for name in ("uplink", "plain", "limited")}
    return Seen(found, made.without)


def pod(name: str, *, via_stack: bool = False) -> Workload:
    """With the link `name` of the node."""
    link = PodLink(socket.if_nametoindex(name), 1, MAC, MAC, (parse_address("10.0.0.1"),), via_stack)
    return Workload("default", name, CNI, "/nowhere", links=(link,))


def on(name: str, place: Place) -> set[str]:
    """The programs on that device."""
    with RouteSocket() as route:
        return {program for _, program in filters.attached(route, [socket.if_nametoindex(name)], place)}


def test_uplinks_have_filters_and_a_pod_with_a_bandwidth_limit_is_named(
    opened: tuple[Config, Opened], devices: Netns
) -> None:
    seen = devices.run(lambda: asyncio.run(attached(*opened)))
    assert seen.filters == {"uplink": set(UPLINK.programs), "plain": set(POD.programs), "limited": set()}
    assert seen.without.keys() == {"pod default/limited"}
    assert "no tcx" in seen.without["pod default/limited"]
