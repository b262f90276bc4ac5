"""Requests to rtnetlink in one datagram, judged by what iproute2 and pyroute2 see afterwards."""

from __future__ import annotations

import errno
import json
import socket
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from meshd.errors import KernelError
from meshd.kernel import netlink
from meshd.kernel import rtnetlink as rt
from meshd.kernel.netns import Netns
from meshd.kernel.object import BpfObject, Loaded
from meshd.kernel.route_socket import RouteSocket
from meshd.kernel.rtnetlink_answers import link_of
from meshd.kernel.tc_netlink import (
    EGRESS,
    INGRESS,
    FilterAt,
    add_clsact,
    delete_filter,
    get_filter,
    get_filters,
    program_id,
    replace_filter,
)

NEAR_MAC, FAR_MAC = "0a:00:00:00:00:01", "0a:00:00:00:00:02"
V4, V6 = ip_address("10.77.0.1"), ip_address("fd77::1")


@dataclass(frozen=True, slots=True)
class Pair:
    """A pair that was made by requests of ours: `near` in one namespace, `far` in the other."""

    near: Netns
    far: Netns
    near_socket: RouteSocket
    far_socket: RouteSocket
    near_name: str


@pytest.fixture
def pair(unique_name: str) -> Iterator[Pair]:
    with (
        Netns.create("near") as near,
        Netns.create("far") as far,
        near.run(RouteSocket) as ours,
        far.run(RouteSocket) as theirs,
    ):
        sides = (
            rt.VethSide(unique_name, NEAR_MAC, 1400, group=7, is_up=True),
            rt.VethSide("eth0", FAR_MAC, 1400, netns=far.fd),
        )
        ours.exchange([rt.add_veth(*sides)])
        yield Pair(near, far, ours, theirs, unique_name)


def said(netns: Netns, *command: str) -> list[dict[str, Any]]:
    """What iproute2 says in JSON."""
    done = netns.run(lambda: subprocess.run(command, capture_output=True, check=True))
    return list(json.loads(done.stdout or b"[]"))


def test_a_pair_has_the_names_addresses_and_states_that_were_asked_for(pair: Pair) -> None:
    [near] = said(pair.near, "ip", "-j", "link", "show", pair.near_name)
    [far] = said(pair.far, "ip", "-j", "link", "show", "eth0")
    assert (near["address"], near["mtu"], near["group"], "UP" in near["flags"]) == (NEAR_MAC, 1400, "7", True)
    assert (far["address"], far["mtu"], "UP" in far["flags"]) == (FAR_MAC, 1400, False)
    assert pair.near_socket.index(pair.near_name) == near["ifindex"]
    assert pair.near_socket.index("nobody") == 0


def test_addresses_neighbours_and_routes_are_made_in_one_go_and_again(pair: Pair) -> None:
    index = pair.far_socket.index("eth0")
    gateways = [ip_address("169.254.1.1"), ip_address("fe80::1")]
    messages = [rt.set_up("eth0", index), rt.add_address(index, V4), rt.add_address(index, V6)]
    for gateway in gateways:
        messages += [
            rt.replace_neighbour(index, gateway, NEAR_MAC),
            rt.replace_default_route(index, gateway),
            rt.replace_host_route(index, ip_address("10.78.0.1" if gateway.version == 4 else "fd78::1")),
        ]
    for _ in range(2):
        pair.far_socket.exchange(messages)
    there = {
        each["local"]: each for each in said(pair.far, "ip", "-j", "addr", "show", "eth0")[0]["addr_info"]
    }
    assert (there["10.77.0.1"]["prefixlen"], there["fd77::1"]["prefixlen"]) == (32, 128)
    assert "tentative" not in there["fd77::1"]
    for family, via in (("-4", "169.254.1.1"), ("-6", "fe80::1")):
        routes = {each["dst"]: each for each in said(pair.far, "ip", "-j", family, "route")}
        assert (routes["default"]["gateway"], routes["default"]["dev"]) == (via, "eth0")
        assert ("10.78.0.1" if family == "-4" else "fd78::1") in routes
        [neighbour] = said(pair.far, "ip", "-j", family, "neigh", "show", via)
        assert (neighbour["lladdr"], neighbour["state"]) == (NEAR_MAC, ["PERMANENT"])


def test_the_first_refusal_is_named_and_the_rest_was_tried(pair: Pair) -> None:
    index = pair.near_socket.index(pair.near_name)
    messages = [
        rt.delete_link("absent"),
        rt.replace_host_route(index, V4),
        rt.delete_link("absent too"),
    ]
    with pytest.raises(KernelError) as refused:
        pair.near_socket.exchange(messages)
    assert (refused.value.errno, refused.value.object_name) == (errno.ENODEV, "link absent")
    assert [each["dst"] for each in said(pair.near, "ip", "-j", "route")] == ["10.77.0.1"]
    # The socket is as good as before.
    pair.near_socket.exchange([rt.delete_link("absent", tolerated=(errno.ENODEV,))])


def test_the_kernels_own_words_are_in_the_error(pair: Pair) -> None:
    index = pair.near_socket.index(pair.near_name)
    with pytest.raises(KernelError) as refused:
        pair.near_socket.exchange(
            [rt.replace_default_route(index, ip_address("10.99.0.1")), rt.set_up("x", 9999)]
        )
    assert refused.value.detail


def test_questions_are_answered_one_by_one_or_as_a_table(pair: Pair) -> None:
    index = pair.near_socket.index(pair.near_name)
    pair.near_socket.exchange([rt.replace_neighbour(index, V4, FAR_MAC), rt.replace_host_route(index, V4)])
    link, route, neighbour, absent, table = pair.near_socket.exchange(
        [
            rt.get_link(pair.near_name),
            rt.get_route(V4),
            rt.get_neighbour(index, V4),
            rt.get_neighbour(index, V6, tolerated=(errno.ENOENT,)),
            rt.get_addresses(index),
        ]
    )
    assert [len(each) for each in (link, route, neighbour, absent)] == [1, 1, 1, 0]
    # Its own link-local address, once the link has a carrier.
    assert len(table) <= 1


def test_hundreds_of_refusals_do_not_fill_the_socket(pair: Pair) -> None:
    absent = [rt.set_group(f"absent{number}", 8, (errno.ENODEV,)) for number in range(1000)]
    pair.near_socket.exchange([*absent, rt.set_group(pair.near_name, 8)])
    [[answer]] = pair.near_socket.exchange([rt.get_link(pair.near_name)])
    assert link_of(answer).group == 8


def test_a_doomed_group_goes_at_once(pair: Pair) -> None:
    pair.near_socket.exchange([rt.set_group(pair.near_name, 8), rt.delete_group(8)])
    assert netlink.link_names(pair.near) == ["lo"]
    assert netlink.link_names(pair.far) == ["lo"]


@pytest.fixture
def another_probe(probe_object: Path) -> Iterator[Loaded]:
    with BpfObject.open(probe_object) as bpf:
        loaded = bpf.load()
    try:
        yield loaded
    finally:
        loaded.close()


def test_a_filter_is_made_looked_at_replaced_in_place_and_taken_away(
    pair: Pair, probe: Loaded, another_probe: Loaded
) -> None:
    index = pair.near_socket.index(pair.near_name)
    first, second = probe.programs["pass_packet"], another_probe.programs["pass_packet"]
    at = FilterAt(index, INGRESS, 1)
    other = FilterAt(index, EGRESS, 1)
    for program in (first, first, second):
        pair.near_socket.exchange(
            [add_clsact(index), replace_filter(at, program.fd, "one"), replace_filter(other, first.fd, "two")]
        )
    [[ingress], [egress]] = pair.near_socket.exchange([get_filter(at), get_filter(other)])
    assert (program_id(ingress), program_id(egress)) == (second.info().program_id, first.info().program_id)
    # A table has a head for each priority, which has no program.
    [table] = pair.near_socket.exchange([get_filters(index, INGRESS)])
    assert [found for each in table if (found := program_id(each))] == [second.info().program_id]
    pair.near_socket.exchange([delete_filter(at), delete_filter(at)])
    assert pair.near_socket.exchange([get_filter(at)]) == [[]]


def test_an_answer_that_is_not_the_kernels_is_none() -> None:
    """A pod that may configure its namespace answers what the agent asks there, before the kernel does."""
    with Netns.create("pod") as pod, pod.run(RouteSocket) as asking:
        with pod.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as forger:
            port, _ = asking._socket.getsockname()
            refusal = struct.pack("=i", -errno.EPERM) + bytes(16)
            # The kernel takes it for whoever has that port number: sequence 1 is the first question.
            forger.sendto(struct.pack("=IHHII", 16 + len(refusal), 2, 0, 1, 0) + refusal, (port, 0))
        (answers,) = asking.exchange([rt.get_link("lo")])
        assert [link_of(each).name for each in answers] == ["lo"]
