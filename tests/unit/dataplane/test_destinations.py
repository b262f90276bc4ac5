"""Rows of `destinations`: which prefix is what, seen from a node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from meshd.dataplane.devices import Found
from meshd.dataplane.layouts import source_number
from meshd.dataplane.pod_network.destinations import (
    DestinationRow,
    Layouts,
    layouts,
    of_node,
    of_this_node,
)
from meshd.dataplane.reach import Reached, Via
from meshd.dataplane.rows import Rows
from meshd.kernel.object import BpfObject
from meshd.model import Node, format_address, is_ipv4, parse_address
from meshd.model.address import Address
from tests.bpf.compiled import compiled

NODE = Node(
    "cm-2",
    "n2",
    "cluster:cm-2",
    (parse_address("192.168.0.2"), parse_address("fd00::2")),
    ("10.2.2.0/24", "fd02:2::/64"),
    extra=(parse_address("172.20.0.7"),),
    routing="auto",
    identities=(131072, 196607),
)
PODS = ("10.2.2.0/24", "fd02:2::/64", "172.20.0.7/32")
OWN_ADDRESSES = ("192.168.0.2/32", "fd00::2/128")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Layouts:
    directory = tmp_path_factory.mktemp("destinations")
    with BpfObject.open(compiled("pod_network_maps", directory=directory)) as bpf:
        return layouts(bpf.btf)


@pytest.fixture
def read(made: Layouts) -> Callable[[Rows], dict[str, DestinationRow]]:
    """Rows by prefix, as text."""

    def decode(rows: Rows) -> dict[str, DestinationRow]:
        found = {}
        for key, value in rows["destinations"].items():
            prefix = made.key.decode(key)
            address = Address(prefix.address.bytes)
            length = prefix.prefix_length - (96 if is_ipv4(address) else 0)
            found[f"{format_address(address)}/{length}"] = made.value.decode(value)
        return found

    return decode


def kinds(made: Layouts, rows: dict[str, DestinationRow]) -> dict[str, str]:
    names = {number: name for name, number in made.kinds.items()}
    return {prefix: names[row.kind] for prefix, row in rows.items()}


def test_pods_and_addresses_of_a_node_that_is_routed_to_are_native(
    made: Layouts, read: Callable[[Rows], dict[str, DestinationRow]]
) -> None:
    rows = read(of_node(made, NODE, Reached(Via.NATIVE)))
    assert kinds(made, rows) == dict.fromkeys((*PODS, *OWN_ADDRESSES), "NATIVE")
    assert {row.tunnel.bytes for row in rows.values()} == {bytes(16)}
    assert {row.source for row in rows.values()} == {source_number("cluster:cm-2")}


def test_behind_a_tunnel_pods_are_told_from_their_node(
    made: Layouts, read: Callable[[Rows], dict[str, DestinationRow]]
) -> None:
    rows = read(of_node(made, NODE, Reached(Via.TUNNEL, tunnel=NODE.addresses[0])))
    expected = dict.fromkeys(PODS, "TUNNEL") | dict.fromkeys(OWN_ADDRESSES, "NODE")
    assert kinds(made, rows) == expected
    assert {row.tunnel.bytes for row in rows.values()} == {NODE.addresses[0]}
    assert {(row.identity_first, row.identity_last) for row in rows.values()} == {(131072, 196607)}


def test_only_a_node_that_takes_identities_is_told_them_and_in_a_tunnel_only(
    made: Layouts, read: Callable[[Rows], dict[str, DestinationRow]]
) -> None:
    taking, tunnel = replace(NODE, takes_identities=True), Reached(Via.TUNNEL, tunnel=NODE.addresses[0])
    told = [(taking, tunnel), (NODE, tunnel), (taking, Reached(Via.NATIVE))]
    flags = [{row.flags for row in read(of_node(made, node, reached)).values()} for node, reached in told]
    assert flags == [{made.takes_identity}, {0}, {0}]


def test_a_node_that_is_not_reached_is_the_world(made: Layouts) -> None:
    assert of_node(made, NODE, Reached(Via.NOT, reason="x")) == {"destinations": {}}


def test_this_node_has_its_pods_its_addresses_and_what_is_configured(
    made: Layouts, read: Callable[[Rows], dict[str, DestinationRow]]
) -> None:
    found = Found(addresses=frozenset({parse_address("192.168.0.1"), parse_address("fd00::1")}))
    rows = read(of_this_node(made, found, ["10.1.1.0/24"], ["10.0.0.0/8"], ["10.9.0.0/16", "192.168.9.9/32"]))
    assert kinds(made, rows) == {
        "10.0.0.0/8": "EXCLUDED",
        "224.0.0.0/4": "STACK",
        "255.255.255.255/32": "STACK",
        "ff00::/8": "STACK",
        "10.1.1.0/24": "LOCAL_PODS",
        "10.9.0.0/16": "STACK",
        "192.168.9.9/32": "STACK",
        "192.168.0.1/32": "HOST",
        "fd00::1/128": "HOST",
    }


@pytest.mark.parametrize(
    ("pods", "excluded", "via_stack", "kind"),
    [
        ("10.1.1.0/24", "10.1.1.0/24", "10.9.0.0/16", "LOCAL_PODS"),
        ("10.8.1.0/24", "10.1.1.0/24", "10.1.1.0/24", "STACK"),
    ],
)
def test_of_several_that_name_one_prefix_the_stronger_counts(
    made: Layouts,
    read: Callable[[Rows], dict[str, DestinationRow]],
    pods: str,
    excluded: str,
    via_stack: str,
    kind: str,
) -> None:
    rows = read(of_this_node(made, Found(), [pods], [excluded], [via_stack]))
    assert kinds(made, rows)["10.1.1.0/24"] == kind


@pytest.mark.parametrize("everything_v4", ["WORLD", "EXCLUDED", "STACK"])
@pytest.mark.parametrize("everything_v6", ["EXCLUDED", "STACK"])
def test_what_is_said_of_all_of_ipv6_is_not_said_of_ipv4(
    made: Layouts, read: Callable[[Rows], dict[str, DestinationRow]], everything_v4: str, everything_v6: str
) -> None:
    said: dict[str, list[str]] = {"EXCLUDED": [], "STACK": [], "WORLD": []}
    said[everything_v6].append("::/0")
    said[everything_v4].append("0.0.0.0/0")
    rows = read(of_this_node(made, Found(), [], said["EXCLUDED"], said["STACK"]))
    found = kinds(made, rows)
    assert (found["::/0"], found["0.0.0.0/0"]) == (everything_v6, everything_v4)


def test_the_same_state_gives_the_same_bytes_in_every_process(made: Layouts) -> None:
    again = replace(NODE, addresses=tuple(NODE.addresses))
    reached = Reached(Via.TUNNEL, tunnel=NODE.addresses[0])
    assert of_node(made, NODE, reached) == of_node(made, again, reached)
