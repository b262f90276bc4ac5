"""What is decided anew while streams run: switch, program, epoch, selection and pods. All of it acts, nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from meshd.dataplane.generation import Generation
from meshd.dataplane.pod_network import rows as pod_rows
from meshd.dataplane.short_circuit import rows
from meshd.dataplane.short_circuit.switchboard import Switchboard
from tests.netns.pod_network.host import load
from tests.netns.short_circuit.machine import ALL, KNOBS, Machine, machine
from tests.netns.short_circuit.talk import echoed, received
from tests.netns.short_circuit.way import (
    admitted,
    all_leave,
    alongside,
    moves_on,
    questions_and_answers,
    streams_both_ways,
)
from tests.patience import wait_until

MB = 1 << 20


def test_the_switch_acts_on_live_streams_in_both_directions(machine: Machine) -> None:
    with admitted(machine) as (_, _, near, far), streams_both_ways(near, far) as read_now:
        for _ in range(50):
            machine.switchboard.turn(on=False)
            moves_on(read_now, MB // 4)
            machine.switchboard.turn(on=True)
            moves_on(read_now, MB // 4)


@pytest.mark.parametrize("from_client", [True, False], ids=["client", "server"])
def test_the_message_after_the_switch_goes_on_tcp(machine: Machine, from_client: bool) -> None:
    with admitted(machine) as (_, _, near, far):
        sender, receiver = (near, far) if from_client else (far, near)
        sender.sendall(b"handed over and not read,")
        before = machine.handed_over()
        machine.switchboard.turn(on=False)
        sender.sendall(b" on TCP,")
        assert machine.handed_over() == before
        assert machine.causes()["switched_off"] == 1
        assert received(receiver, 33) == b"handed over and not read, on TCP,"
        machine.switchboard.turn(on=True)
        echoed(near, far, 20, 8)
        assert machine.handed_over() > before


def test_a_program_that_is_replaced_under_load_decides_at_once(unique_name: str, bpffs: Path) -> None:
    with machine(unique_name, bpffs) as running, admitted(running) as (_, _, near, far):
        second, _, bpf = load(None, bpffs, ALL, **KNOBS)
        boards = [
            Switchboard(running.made, each.maps, each.programs) for each in (second, running.node.loaded)
        ]
        with questions_and_answers(near, far) as read_now:
            for turn in range(40):
                boards[turn % 2].connect()
                before = running.handed_over()[0]
                moves_on(read_now, MB // 8)
                assert running.handed_over()[0] > before
        boards[1].connect()
        second.close()
        bpf.close()


def test_a_build_with_another_limit_decides_about_live_sockets(unique_name: str, bpffs: Path) -> None:
    with machine(unique_name, bpffs) as running, admitted(running) as (_, _, near, far):
        second, _, bpf = load(None, bpffs, ALL, **KNOBS, short_circuit_queue_bytes=100_000)
        board = Switchboard(running.made, second.maps, second.programs)
        board.connect()
        near.sendall(b"x" * 60_000)
        near.sendall(b"x" * 60_000)
        assert running.causes()["queue_bytes"] == 1
        assert received(far, 120_000) == b"x" * 120_000
        running.switchboard.connect()
        second.close()
        bpf.close()


def test_epochs_that_change_all_the_while_lose_nothing(machine: Machine) -> None:
    with admitted(machine) as (_, _, near, far), questions_and_answers(near, far) as read_now:
        for _ in range(200):
            machine.switchboard.raise_epoch()
            moves_on(read_now, MB // 64)
        assert machine.sockets() == 2


@pytest.mark.parametrize("which", [0, 1], ids=["client", "server"])
def test_who_is_not_selected_any_more_leaves_under_load(machine: Machine, which: int) -> None:
    with admitted(machine) as (*pods, near, far), streams_both_ways(near, far) as read_now:
        moves_on(read_now)
        machine.select(pods[which], selected=False)
        all_leave(machine)
        moves_on(read_now)


def test_who_is_selected_again_is_admitted_again(machine: Machine) -> None:
    with admitted(machine) as (client, _, near, far), questions_and_answers(near, far) as read_now:
        machine.select(client, selected=False)
        all_leave(machine)
        moves_on(read_now, MB // 8)
        machine.select(client)
        machine.switchboard.raise_epoch()
        wait_until(lambda: machine.sockets() == 2)
        moves_on(read_now, MB // 8)


def test_a_pod_that_is_gone_sends_nothing_more(machine: Machine) -> None:
    """As TC would drop it, so is the send refused; what was handed over before may be read."""
    with admitted(machine) as (client, _, near, far):
        near.sendall(b"before")
        for key in pod_rows.pods(machine.node.codecs.pod_network, (client.link,))["pods"]:
            machine.maps["pods"].delete(key)
        machine.switchboard.raise_epoch()
        before = machine.handed_over()
        for _ in range(3):
            with pytest.raises(PermissionError):
                near.send(b"after")
        assert machine.handed_over() == before
        assert machine.causes()["refused"] == 1
        assert received(far, 6) == b"before"
        # The kernel would refuse all that it sends for ever: so it leaves, and TC drops and lets through as on TCP.
        all_leave(machine)
        flows = machine.maps["flows"]
        for key, _ in list(flows.items()):
            flows.delete(key)
        near.sendall(b"on TCP")
        wait_until(lambda: bool(machine.node.dropped()))
        machine.select(client)
        assert received(far, 6) == b"on TCP"


def test_who_raises_the_epoch_at_once_with_others_is_heard(machine: Machine) -> None:
    """As often as all did together: a number that was read before another wrote would hide his."""
    count, board = 2000, machine.switchboard
    raise_ = machine.node.loaded.programs[rows.RAISE]
    generation = Generation(machine.maps[rows.EPOCH], (), raise_)
    before = board.epoch

    def times(raises: Callable[[], None]) -> None:
        for _ in range(count):
            raises()

    with alongside(partial(times, generation.advance), partial(times, board.raise_epoch)):
        times(board.raise_epoch)
    assert board.epoch == before + 3 * count


def test_no_epoch_is_that_of_what_was_never_looked_at(machine: Machine) -> None:
    last = (1 << 24) - 1
    machine.maps[rows.EPOCH].update(bytes(4), machine.made.u32.encode(last))
    machine.switchboard.raise_epoch()
    assert machine.switchboard.epoch % (1 << 24) == 1
