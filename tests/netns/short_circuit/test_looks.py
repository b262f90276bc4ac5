"""When a connection is looked at again, as what was refused may be right later, and for how long its flow is known."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import pytest

from meshd.dataplane.pod_network.places import EXPIRE
from meshd.dataplane.short_circuit import rows
from tests.netns.short_circuit.machine import ALL, Machine, machine
from tests.netns.short_circuit.talk import connected, echoed, received
from tests.netns.short_circuit.way import ROUNDS, Ends, admitted, all_leave
from tests.patience import wait_until

PAUSE_S = 0.02
# A struct flow_expiry, to be filled in.
EXPIRY = bytes(8 * 13)


@pytest.fixture
def eager(unique_name: str) -> Iterator[Machine]:
    """A node that looks at what it refused again after 20 ms, 40 ms, and so on."""
    with machine(unique_name, short_circuit_look_again_ns=int(PAUSE_S * 1e9)) as running:
        yield running


def talk_until_admitted(running: Machine, ends: Ends) -> None:
    def is_admitted() -> bool:
        echoed(*ends, 5, 64)
        return running.sockets() == 2

    wait_until(is_admitted, 15)


@pytest.mark.parametrize("blocks", [0, 1], ids=["client", "server"])
def test_a_socket_that_turns_non_blocking_after_it_was_refused_is_admitted(
    eager: Machine, blocks: int
) -> None:
    with connected(eager.add_pod(7), eager.add_pod(8)) as ends:
        ends[blocks].settimeout(None)
        echoed(*ends, ROUNDS, 64)
        assert (eager.sockets(), eager.events()) == (0, {"blocking": 1})
        ends[blocks].setblocking(False)
        talk_until_admitted(eager, ends)
        before = eager.handed_over()
        echoed(*ends, 50, 64)
        assert eager.handed_over() > before


@pytest.mark.parametrize("blocks", [0, 1], ids=["client", "server"])
def test_one_that_blocked_for_a_while_comes_back(eager: Machine, blocks: int) -> None:
    with connected(eager.add_pod(7), eager.add_pod(8)) as ends:
        talk_until_admitted(eager, ends)
        ends[blocks].setblocking(True)
        ends[1 - blocks].sendall(b"question")
        assert received(ends[blocks], 8) == b"question"
        all_leave(eager)
        ends[blocks].setblocking(False)
        talk_until_admitted(eager, ends)


def test_a_socket_that_stays_blocking_is_looked_at_ever_more_seldom(eager: Machine) -> None:
    with connected(eager.add_pod(7), eager.add_pod(8)) as ends:
        ends[0].settimeout(None)
        began = time.monotonic()
        while (elapsed_s := time.monotonic() - began) < 50 * PAUSE_S:
            echoed(*ends, 20, 64)
        # One more than the pauses that fit, of 1, 2, 4 and so on; a packet of each end may find it due.
        assert 2 < eager.events()["blocking"] <= 2 * (1 + math.log2(1 + elapsed_s / PAUSE_S))


def test_a_connection_is_looked_at_again_when_there_is_room(unique_name: str) -> None:
    sizes = {rows.CONNECTIONS: 1}
    with machine(unique_name, sizes=sizes, short_circuit_look_again_ns=int(PAUSE_S * 1e9)) as running:
        client, server = running.add_pod(7), running.add_pod(8)
        with connected(client, server) as second:
            with connected(client, server) as first:
                talk_until_admitted(running, first)
                echoed(*second, ROUNDS, 64)
                assert (running.sockets(), running.events()["full"]) == (2, 1)
            wait_until(lambda: not running.connections())
            talk_until_admitted(running, second)


def test_a_flow_that_only_hands_over_is_not_forgotten(unique_name: str) -> None:
    with (
        machine(unique_name, programs=(*ALL, EXPIRE)) as running,
        admitted(running) as (client, server, near, far),
        connected(client, server) as (other, _),
    ):
        other.sendall(b"on TCP")
        wait_until(lambda: len(running.node.flows()) == 2)
        expire_after(running, idle_s=7 * 3600)
        (kept,) = running.node.flows()
        assert {kept.source_port, kept.destination_port} == {near.getsockname()[1], far.getsockname()[1]}
        # As old as if it had been used to the last.
        echoed(near, far, 20, 8)
        keys = list(running.maps[rows.CONNECTIONS].keys())
        running.on_loop(running.leaver.leave(keys, running.cause("asked")))
        all_leave(running)
        expire_after(running, idle_s=0)
        assert len(running.node.flows()) == 1
        expire_after(running, idle_s=7 * 3600)
        assert running.node.flows() == {}


def expire_after(running: Machine, idle_s: int) -> None:
    """Forgets what timed out, if nobody had sent a packet for so much longer."""
    table, codec = running.maps["flows"], running.node.codecs.flow
    for key, value in list(table.items()):
        flow = codec.decode(value)
        # Of the same clock, also before the machine was started: there it wraps.
        last_seen_ns = (flow.last_seen_ns - idle_s * 10**9) % 2**64
        table.update(key, codec.encode(flow._replace(last_seen_ns=last_seen_ns)))
    running.node.loaded.programs[EXPIRE].test_run(context=EXPIRY)
