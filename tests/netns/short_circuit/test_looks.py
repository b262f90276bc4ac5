"""For how long the flow of a connection is known."""

from __future__ import annotations

from meshd.dataplane.pod_network.places import EXPIRE
from meshd.dataplane.short_circuit import rows
from tests.netns.short_circuit.machine import ALL, Machine, machine
from tests.netns.short_circuit.talk import connected, echoed
from tests.netns.short_circuit.way import admitted, all_leave
from tests.patience import wait_until

# A struct flow_expiry, to be filled in.
EXPIRY = bytes(8 * 13)


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
