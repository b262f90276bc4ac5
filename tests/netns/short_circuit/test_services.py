"""Connections to a service's address: those that are translated when they are made are as all others, those that are
translated packet by packet stay on TCP."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from meshd.dataplane.attach import HOOKS, attach, detach
from tests.bpf.packets import TCP
from tests.netns.pod_network.beyond import VIP, serve
from tests.netns.pod_network.host import Pod
from tests.netns.short_circuit.machine import ALL, Machine, machine
from tests.netns.short_circuit.talk import FAMILY, echoed
from tests.netns.short_circuit.way import ROUNDS, Ends, send_and_check

FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["v4", "v6"])
SELECTED = pytest.mark.parametrize("selected", [True, False], ids=["short", "tcp"])


@contextmanager
def connected_to_service(node: Machine, client: Pod, server: Pod, family: int) -> Iterator[Ends]:
    """A connection of the client to the service, whose backend the server is."""
    serve(node.node, TCP, (VIP[family], 80), (server.ip[family], 8080))
    with server.netns.socket(FAMILY[family], socket.SOCK_STREAM) as listener:
        listener.bind((server.ip[family], 8080))
        listener.listen()
        with client.netns.socket(FAMILY[family], socket.SOCK_STREAM) as near:
            near.connect((VIP[family], 80))
            far, _ = listener.accept()
            with far:
                for each in (near, far):
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    each.setblocking(False)
                assert near.getpeername()[0] == VIP[family]
                yield near, far


def used(near: socket.socket, far: socket.socket) -> None:
    echoed(near, far, ROUNDS, 8)
    send_and_check(near, far, 500_000)
    send_and_check(far, near, 500_000)


@FAMILIES
@SELECTED
def test_translated_when_it_is_made_a_connection_is_short_circuited(
    unique_name: str,
    bpffs: Path,
    scratch_cgroup: Path,
    inside: Callable[[Path], AbstractContextManager[None]],
    family: int,
    selected: bool,
) -> None:
    with machine(unique_name, programs=(*ALL, *HOOKS)) as node:
        client, server = (node.add_pod(number, selected=selected) for number in (7, 8))
        links = attach(node.node.loaded.programs, scratch_cgroup, bpffs / "hooks")
        try:
            with inside(scratch_cgroup), connected_to_service(node, client, server, family) as (near, far):
                used(near, far)
                assert bool(node.handed_over()[0]) is selected
        finally:
            detach(bpffs / "hooks")
            for link in links.values():
                link.close()


@FAMILIES
@SELECTED
def test_translated_packet_by_packet_a_connection_stays_on_tcp(
    machine: Machine, family: int, selected: bool
) -> None:
    client, server = (machine.add_pod(number, selected=selected) for number in (7, 8))
    with connected_to_service(machine, client, server, family) as (near, far):
        used(near, far)
        assert (machine.sockets(), machine.events()) == (0, {})
