"""How connections begin and who has them: those that cannot be short-circuited rightly are never admitted."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from meshd.kernel import netlink
from tests.netns.pod_network.host import NODE, ROUTER, Pod
from tests.netns.pod_network.traffic import serving
from tests.netns.short_circuit.machine import Machine
from tests.netns.short_circuit.talk import FAMILY, connected, echoed, received
from tests.netns.short_circuit.way import ROUNDS, Ends, Way, send_and_check
from tests.patience import patience

MSG_FASTOPEN = 0x20000000  # linux/socket.h; not in Python's socket


@contextmanager
def listening(pod: Pod, family: int = 4, *options: tuple[int, int]) -> Iterator[socket.socket]:
    """A listener of a pod, with options of TCP."""
    with pod.netns.socket(FAMILY[family], socket.SOCK_STREAM) as listener:
        for name, value in options:
            listener.setsockopt(socket.IPPROTO_TCP, name, value)
        listener.bind((pod.ip[family], 0))
        listener.listen()
        yield listener


def make_ready(*ends: socket.socket) -> None:
    for each in ends:
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        each.setblocking(False)


def test_a_deferred_accept_loses_and_mixes_up_nothing(way: Way) -> None:
    """The first bytes wait on TCP until somebody accepts; many small writes meanwhile, more than admission needs."""
    with (
        listening(way.server, 4, (socket.TCP_DEFER_ACCEPT, 5)) as listener,
        way.client.netns.socket(socket.AF_INET, socket.SOCK_STREAM) as near,
    ):
        near.connect(listener.getsockname())
        make_ready(near)
        for at in range(100):
            near.sendall(b"%4d" % at)
        far, _ = listener.accept()
        with far:
            make_ready(far)
            assert received(far, 400) == b"".join(b"%4d" % at for at in range(100))
            way.use(near, far)
            with way.hands_over():
                send_and_check(near, far, 500_000)


def test_fast_open_loses_and_mixes_up_nothing(way: Way) -> None:
    for pod in (way.client, way.server):
        pod.netns.write_sysctl("net/ipv4/tcp_fastopen", "3")
    with listening(way.server, 4, (socket.TCP_FASTOPEN, 16)) as listener:
        # The first gets the cookie, the second sends its bytes with the SYN.
        for _ in range(2):
            with way.client.netns.socket(socket.AF_INET, socket.SOCK_STREAM) as near:
                near.sendto(b"first", MSG_FASTOPEN, listener.getsockname())
                make_ready(near)
                for at in range(50):
                    near.sendall(b"%4d" % at)
                far, _ = listener.accept()
                with far:
                    make_ready(far)
                    assert received(far, 205) == b"first" + b"".join(b"%4d" % at for at in range(50))
                    way.use(near, far)
                    with way.hands_over():
                        send_and_check(near, far, 500_000)


@pytest.mark.parametrize("mapped_client", [True, False], ids=["client", "server"])
def test_sockets_of_ipv6_that_speak_ipv4(way: Way, mapped_client: bool) -> None:
    with mapped(way, client=mapped_client, server=not mapped_client) as (near, far):
        way.use(near, far)
        with way.hands_over():
            send_and_check(near, far, 500_000)
            send_and_check(far, near, 500_000)


def test_two_sockets_of_ipv6_that_speak_ipv4(way: Way) -> None:
    with mapped(way, client=True, server=True) as (near, far), way.hands_over():
        way.use(near, far)


@contextmanager
def mapped(way: Way, *, client: bool, server: bool) -> Iterator[Ends]:
    kinds = [socket.AF_INET6 if each else socket.AF_INET for each in (client, server)]
    with way.server.netns.socket(kinds[1], socket.SOCK_STREAM) as listener:
        listener.bind(("::" if server else way.server.ip[4], 0))
        listener.listen()
        with way.client.netns.socket(kinds[0], socket.SOCK_STREAM) as near:
            near.connect((("::ffff:" if client else "") + way.server.ip[4], listener.getsockname()[1]))
            far, _ = listener.accept()
            with far:
                make_ready(near, far)
                yield near, far


@pytest.mark.parametrize("family", [4, 6], ids=["v4", "v6"])
@pytest.mark.parametrize("is_selected", [True, False], ids=["short", "tcp"])
def test_the_node_talks_to_a_pod(machine: Machine, family: int, is_selected: bool) -> None:
    server = machine.add_pod(8, selected=is_selected)
    if is_selected:
        machine.select_node()
    with connected_from_node(machine, server, family) as (near, far):
        echoed(near, far, ROUNDS, 8)
        send_and_check(near, far, 500_000)
        send_and_check(far, near, 500_000)
        assert bool(machine.handed_over()[0]) is is_selected


@contextmanager
def connected_from_node(machine: Machine, server: Pod, family: int) -> Iterator[Ends]:
    with (
        listening(server, family) as listener,
        machine.node.netns.socket(FAMILY[family], socket.SOCK_STREAM) as near,
    ):
        near.bind((NODE[family], 0))
        near.connect((server.ip[family], listener.getsockname()[1]))
        far, _ = listener.accept()
        with far:
            make_ready(near, far)
            yield near, far


def test_a_blocking_worker_behind_a_listener_that_does_not_block(way: Way) -> None:
    """Linux does not pass O_NONBLOCK on: the accepted socket blocks, whatever its listener does."""
    with (
        listening(way.server) as listener,
        way.client.netns.socket(socket.AF_INET, socket.SOCK_STREAM) as near,
    ):
        listener.setblocking(False)
        near.connect(listener.getsockname())
        make_ready(near)
        assert select.select([listener], [], [], patience(10))[0]
        # Python's accept() would set the new socket to what its listener is.
        descriptor, _ = listener._accept()  # type: ignore[attr-defined]  # the bare system call
        with socket.socket(fileno=descriptor) as far:
            far.setblocking(True)
            for _ in range(ROUNDS * 3):
                near.sendall(b"question")
                assert far.recv(100) == b"question"
                far.sendall(b"answer")
                assert received(near, 6) == b"answer"
            assert way.machine.row_of(near) is None
            far.setblocking(False)


@pytest.mark.parametrize("blocks", [0, 1], ids=["client", "server"])
def test_a_blocking_socket_is_not_admitted(way: Way, blocks: int) -> None:
    with connected(way.client, way.server) as ends:
        ends[blocks].settimeout(None)
        echoed(*ends, ROUNDS * 3, 8)
        assert way.machine.row_of(ends[0]) is None


def test_loopback_of_a_pod_is_not_admitted(machine: Machine) -> None:
    pod = machine.add_pod(7)
    netlink.set_up(pod.netns, "lo", [])
    with connected(pod, pod) as (near, far):
        echoed(near, far, ROUNDS, 8)
        assert (machine.sockets(), machine.events()) == (0, {})


def test_who_is_elsewhere_is_not_admitted(machine: Machine) -> None:
    """Addresses that were selected by mistake are harmless: a socket that is not found here has no peer here."""
    pod = machine.add_pod(7)
    machine.node.known_outside(pod)
    with (
        serving(machine.node.world, 80),
        pod.netns.socket(socket.AF_INET, socket.SOCK_STREAM) as near,
    ):
        near.connect((ROUTER[4], 80))
        make_ready(near)
        for _ in range(ROUNDS):
            near.sendall(b"question")
            # Who I am to him, and then the echo.
            assert received(near, 8)
        assert machine.sockets() == 0
