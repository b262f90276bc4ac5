"""Two selected pods talk from socket to socket, in both families, and all that is kept of it goes with the connection."""

from __future__ import annotations

import pytest

from meshd.dataplane.short_circuit.self_test import SelfTest
from tests.netns.short_circuit.machine import Machine
from tests.netns.short_circuit.talk import connected, echoed
from tests.patience import wait_until


@pytest.mark.parametrize("family", [4, 6], ids=["v4", "v6"])
def test_messages_go_from_socket_to_socket(machine: Machine, family: int) -> None:
    client, server = machine.add_pod(7), machine.add_pod(8)
    with connected(client, server, family) as (near, far):
        echoed(near, far, 200, 64)
        assert machine.handed_over()[1] > 300
        assert machine.sockets() == 2
    wait_until(lambda: not machine.sockets() and not machine.connections())


def test_who_is_not_selected_stays_on_tcp(machine: Machine) -> None:
    client, server = machine.add_pod(7), machine.add_pod(8, selected=False)
    with connected(client, server, 4) as (near, far):
        echoed(near, far, 200, 64)
        assert (machine.sockets(), machine.connections()) == (0, {})


def test_the_self_test_passes_here_and_leaves_nothing(machine: Machine) -> None:
    limits = 4 << 20, 1000
    assert SelfTest(machine.made, machine.maps, limits).run() == ""
    assert (machine.sockets(), machine.connections()) == (0, {})
