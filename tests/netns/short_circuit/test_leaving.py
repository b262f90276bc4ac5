"""Sockets that leave the map, each time for another reason: what waited is read, what is sent meanwhile arrives."""

from __future__ import annotations

import socket
import struct
from functools import partial

import pytest

from meshd.dataplane.short_circuit import rows
from meshd.dataplane.short_circuit.leaving import Leaver
from meshd.dataplane.short_circuit.rows import EndRow
from meshd.kernel.rcu import wait_for_programs
from tests.netns.pod_network.host import Pod
from tests.netns.short_circuit.machine import ALL, Machine
from tests.netns.short_circuit.machine import machine as running_machine
from tests.netns.short_circuit.talk import connected, echoed, received
from tests.netns.short_circuit.way import (
    ROUNDS,
    admitted,
    all_leave,
    alongside,
    check_stream,
    moves_on,
    questions_and_answers,
    send_stream,
    streams_both_ways,
    write,
)
from tests.patience import wait_until

MB = 1 << 20
AT_ONCE = struct.pack("ii", 1, 0)  # struct linger: close() sends a reset


def test_who_the_agent_sends_back_leaves_under_load(machine: Machine) -> None:
    with admitted(machine) as (_, _, near, far), questions_and_answers(near, far) as read_now:
        for _ in range(10):
            moves_on(read_now, MB // 8)
            leave(machine)
            moves_on(read_now, MB // 8)
            # Admitted again, as the epoch is another.
            machine.switchboard.raise_epoch()
            wait_until(lambda: machine.sockets() == 2)


def leave(machine: Machine) -> None:
    machine.on_loop(machine.leaver.leave(keys_of(machine), machine.cause("asked")))
    all_leave(machine)


@pytest.mark.parametrize("which", [0, 1], ids=["client", "server"])
def test_what_waits_is_read_before_a_socket_is_taken_out(machine: Machine, which: int) -> None:
    with admitted(machine) as (_, _, near, far):
        sender, receiver = (near, far) if which == 0 else (far, near)
        sender.sendall(b"it waits")
        for _ in range(3):
            machine.on_loop(machine.leaver.leave(keys_of(machine), machine.cause("asked")))
            machine.on_loop(machine.leaver.step())
        assert machine.sockets() == 2
        sender.sendall(b", and this")
        assert received(receiver, 18) == b"it waits, and this"
        all_leave(machine)


def keys_of(machine: Machine) -> list[bytes]:
    return [key for key, _ in machine.maps["short_circuit_connections"].items()]


def test_streams_of_small_messages_go_back_to_tcp(machine: Machine) -> None:
    with admitted(machine) as (_, _, near, far):
        with alongside(lambda: small_messages(machine, near)):
            check_until_closed(far)
        left = {
            machine.made.causes[number]
            for total in machine.totals().values()
            for sent in total.sent
            for number, count in enumerate(sent.causes)
            if count
        }
        assert "small_one_way" in left


def small_messages(machine: Machine, near: socket.socket) -> None:
    at = 0
    while machine.sockets() or at % (MB // 4):
        write(near, bytes(1024))
        at += 1024
        assert at < 4096 * MB, "it never left"
    near.shutdown(socket.SHUT_WR)


def check_until_closed(far: socket.socket) -> None:
    while part := received(far, 65536):
        assert part == bytes(len(part))


def test_a_stream_that_stays_on_tcp_leaves(machine: Machine) -> None:
    with admitted(machine) as (_, _, near, far):
        far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 2)
        with alongside(lambda: small_messages(machine, near)):
            check_until_closed(far)
        all_leave(machine)


def test_a_stream_whose_queue_is_too_short_leaves_at_once_and_is_tried_again(unique_name: str) -> None:
    """Not at the end of a period, and not for good."""
    knobs = {
        "short_circuit_queue_bytes": 65536,
        "short_circuit_period_ns": 3600 * 10**9,
        "short_circuit_look_again_ns": 10**7,
    }
    with (
        running_machine(unique_name, None, ALL, None, **knobs) as running,
        admitted(running) as (_, _, near, far),
        streams_both_ways(near, far, 32768),
    ):
        wait_until(lambda: running.events().get("leaving", 0) >= 3 and running.leaver.left >= 2, 30)
        assert running.events()["admitted"] >= 3


def test_connections_that_leave_while_others_come_lose_nothing(machine: Machine) -> None:
    """All are sent back again and again, and admitted again, at every size of message."""
    client, server = machine.add_pod(7), machine.add_pod(8)
    over: list[bool] = []

    def evicts() -> None:
        while not over:
            machine.on_loop(machine.leaver.leave(keys_of(machine), machine.cause("asked")))
            machine.switchboard.raise_epoch()

    def streams(step: int) -> None:
        with connected(client, server) as (near, far):
            with alongside(lambda: send_stream(near, 16 * MB, step)):
                check_stream(far, 16 * MB)
            echoed(near, far, 100, 64)

    with alongside(evicts):
        try:
            with alongside(*[partial(streams, step) for step in (1000, 5000, 70_000)]):
                pass
        finally:
            over.append(True)
    assert machine.leaver.left


def test_another_agent_finds_what_the_first_was_about(machine: Machine) -> None:
    """The flag is in the kernel: whoever looks takes the sockets out."""
    other = Leaver(machine.made, machine.maps, machine.node.loaded.programs, wait_for_programs)
    with admitted(machine) as (_, _, near, far):
        near.sendall(b"it waits")
        machine.on_loop(other.leave(keys_of(machine), machine.cause("asked")))
        machine.on_loop(machine.leaver.look())
        assert received(far, 8) == b"it waits"
        machine.on_loop(machine.leaver.leave([], machine.cause("asked")))
        all_leave(machine)
        echoed(near, far, 20, 8)


def test_a_connection_with_the_ends_of_one_that_was_leaving_stays(machine: Machine) -> None:
    """The same two ports again, while somebody still means to look after the one before."""
    client, server = machine.add_pod(7), machine.add_pod(8)
    with server.netns.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind((server.ip[4], 0))
        listener.listen()
        near, far = from_port(client, listener)
        near.sendall(b"nobody reads it")
        machine.on_loop(machine.leaver.leave(keys_of(machine), machine.cause("asked")))
        wait_until(lambda: any(each.pause_s >= 1 for each in machine.leaver.waiting.values()))
        for each in (near, far):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
            each.close()
        wait_until(lambda: not machine.connections())
        near, far = from_port(client, listener)
        with near, far:
            assert machine.leaver.waiting
            wait_until(lambda: not machine.leaver.waiting)
            assert (machine.sockets(), machine.leaver.left) == (2, 0)
            echoed(near, far, 20, 8)


def from_port(client: Pod, listener: socket.socket) -> tuple[socket.socket, socket.socket]:
    """A connection from a port of the client that is always the same, admitted."""
    near = client.netns.socket(socket.AF_INET, socket.SOCK_STREAM)
    near.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    near.bind((client.ip[4], 40000))
    near.connect(listener.getsockname())
    far, _ = listener.accept()
    for each in (near, far):
        each.setblocking(False)
    echoed(near, far, ROUNDS, 8)
    return near, far


def test_what_went_on_tcp_while_a_connection_joined_says_nothing_of_its_stream(machine: Machine) -> None:
    client, server = machine.add_pod(7), machine.add_pod(8)
    with connected(client, server) as (near, far):
        echoed(near, far, 50, 64)
        table = machine.maps[rows.CONNECTIONS]
        [(key, value)] = table.items()
        row = machine.made.connection.decode(value)
        # As an agent makes it that finds sockets without a row.
        ends = tuple(EndRow(each.socket, each.netns_cookie) for each in row.ends)
        joining = row._replace(flags=machine.made.is_joining, ends=ends)
        table.update(key, machine.made.connection.encode(joining))
        echoed(near, far, 300, 64)
        assert machine.causes()["joining"] == 600
        [(key, value)] = table.items()
        row = machine.made.connection.decode(value)
        table.update(key, machine.made.connection.encode(row._replace(flags=0)))
        before = machine.handed_over()[1]
        echoed(near, far, 300, 64)
        assert machine.handed_over()[1] > before + 500
        assert machine.sockets() == 2
