"""What GC takes away, and what is forgotten of pods that are gone."""

from __future__ import annotations

import signal
from typing import Any, NamedTuple

import pytest

from meshd.dataplane.pod_network.rows import AddressRow
from meshd.kernel import netlink
from meshd.kernel.netlink import in_netns
from meshd.kernel.object import BpfObject
from meshd.model import parse_address
from tests.netns.cni.node import CniNode, reaches
from tests.netns.cni.pinned import pinned

VALID: dict[str, Any] = {"cni.dev/valid-attachments": [{"containerID": "kept", "ifname": "eth0"}]}


def test_gc_takes_away_what_no_runtime_knows_and_what_no_journal_knows(node: CniNode) -> None:
    kept, result = node.add("kept")
    node.add("lost")
    netlink.create_bridge(node.netns, "mpodstranger")
    in_netns(node.netns, "link", lambda route: route.link("set", ifname="mpodstranger", group=7701))
    # Another network's GC is none of ours.
    assert node.ask("GC", name="another", **VALID).status == 0
    assert node.ask("GC", **VALID).status == 0
    node.agent.wait(lambda: len(node.links()) == 1)
    assert node.ask("CHECK", "kept", kept, prevResult=result.said).status == 0
    assert reaches(kept, "192.168.70.1")


class Tuple(NamedTuple):
    source: AddressRow
    destination: AddressRow
    source_port: int
    destination_port: int
    protocol: int


def ends(source: str, destination: str) -> Tuple:
    """A TCP flow between two addresses."""
    return Tuple(AddressRow(parse_address(source)), AddressRow(parse_address(destination)), 1024, 80, 6)


def remember(node: CniNode, table: str, source: str, destination: str, becomes: tuple[str, str]) -> None:
    """A flow, as programs write it."""
    with BpfObject.open() as bpf:
        tuples = bpf.btf.codec("tuple", Tuple)
        offset = next(each.offset for each in bpf.btf.layout("flow").fields if each.name == "other")  # type: ignore[union-attr] # a struct
    with pinned(node, table) as rows:
        other = tuples.encode(ends(*becomes))
        value = bytes(offset) + other + bytes(rows.value_size - offset - len(other))
        rows.update(tuples.encode(ends(source, destination)), value)


def remembered(node: CniNode, table: str) -> int:
    with pinned(node, table) as rows:
        return rows.count()


STRANGER, WORLD, NODE = "10.77.1.99", "192.0.2.1", "192.168.70.1"


@pytest.mark.parametrize("table", ["flows", "new_flows"])
def test_flows_of_a_pod_are_forgotten_after_it_and_those_of_others_are_not(node: CniNode, table: str) -> None:
    gone, kept = node.pod("gone"), node.pod("kept")
    [v4, v6] = node.ask("ADD", "gone", gone).addresses
    [other, *_] = node.ask("ADD", "kept", kept).addresses
    # As it is, as the far end sees it, towards it, and of the other family.
    remember(node, table, v4, WORLD, (NODE, WORLD))
    remember(node, table, NODE, WORLD, (v4, WORLD))
    remember(node, table, other, "10.96.0.1", (other, v4))
    remember(node, table, v6, "2001:db8::1", (v6, "2001:db8::1"))
    remember(node, table, other, WORLD, (NODE, WORLD))
    assert remembered(node, table) == 5
    assert node.ask("DEL", "gone", gone).status == 0
    node.agent.wait(lambda: remembered(node, table) == 1)


def test_flows_of_a_pod_that_went_while_no_agent_ran_are_forgotten(node: CniNode) -> None:
    netns, made = node.add("gone")
    remember(node, "flows", made.addresses[0], WORLD, (NODE, WORLD))
    node.agent.kill(signal.SIGKILL)
    node.remove_pod(netns)
    node.start()
    node.agent.wait(lambda: remembered(node, "flows") == 0)


def test_gc_forgets_flows_and_rows_of_addresses_that_nobody_has(node: CniNode) -> None:
    _, made = node.add("kept")
    remember(node, "flows", STRANGER, WORLD, (NODE, WORLD))
    remember(node, "flows", made.addresses[0], WORLD, (NODE, WORLD))
    with pinned(node, "pods") as rows:
        [value, *_] = [value for _, value in rows.items()]
        rows.update(ends(STRANGER, WORLD).source.bytes, value)
    assert node.ask("GC", **VALID).status == 0
    assert remembered(node, "flows") == 1
    assert remembered(node, "pods") == 2
