"""A workload that is seen calling splice() on a socket, or tee(), is excluded, and its sockets leave."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshd.dataplane.short_circuit import rows
from meshd.dataplane.short_circuit.splices import CALLS, Splices, take_off_all
from tests.netns.short_circuit.machine import Machine
from tests.netns.short_circuit.talk import connected, echoed, received
from tests.patience import wait_until

NONBLOCK = 2  # SPLICE_F_NONBLOCK
OF_FILES = "import os,sys; r,w=os.pipe(); f=os.open(sys.argv[1],os.O_RDONLY); assert os.splice(f,w,9)==9"


@pytest.fixture
def watched(machine: Machine, bpffs: Path) -> Iterator[Splices]:
    """Somebody watches, as long as a pod is selected."""
    made = Splices(machine.node.loaded.programs, bpffs / "links", machine.selected)
    yield made
    take_off_all(bpffs / "links")


def exclusions(machine: Machine) -> dict[int, str]:
    """Cookie of a namespace -> what was seen there."""
    found = {
        machine.made.u64.decode(key): machine.made.watch.decode(value).exclusion
        for key, value in machine.maps[rows.WATCHES].items()
    }
    return {cookie: machine.made.exclusions[number] for cookie, number in found.items() if number}


def spliced(from_: socket.socket) -> int:
    """Moves what is there into a pipe; how many bytes."""
    reading, writing = os.pipe()
    try:
        return os.splice(from_.fileno(), writing, 65536, flags=NONBLOCK)
    except BlockingIOError:
        return 0
    finally:
        os.close(reading)
        os.close(writing)


def test_who_splices_is_excluded_its_sockets_leave_and_no_byte_is_lost(
    machine: Machine, watched: Splices
) -> None:
    client, server = machine.add_pod(7), machine.add_pod(8)
    watched.look()
    with connected(client, server) as (near, far):
        echoed(near, far, 50, 64)
        assert (machine.sockets(), exclusions(machine)) == (2, {})
        far.sendall(b"was handed over")
        # What was handed over, the call does not find: so nobody may stay who makes it.
        assert spliced(near) == 0
        assert exclusions(machine) == {client.link.netns_cookie: "splices"}
        assert received(near, 15) == b"was handed over"
        echoed(near, far, 50, 64)
        wait_until(lambda: machine.sockets() == 0)
        far.sendall(b"on TCP")
        wait_until(lambda: spliced(near) == 6)
    with connected(client, server) as (near, far):
        echoed(near, far, 50, 64)
        assert machine.sockets() == 0
    assert machine.events()["ineligible"] >= 1


def test_a_splice_of_files_excludes_nobody(machine: Machine, watched: Splices, tmp_path: Path) -> None:
    client = machine.add_pod(7)
    watched.look()
    (tmp_path / "file").write_bytes(b"of a file")
    command = [sys.executable, "-c", OF_FILES, str(tmp_path / "file")]
    client.netns.run(lambda: subprocess.run(command, check=True))
    assert exclusions(machine) == {}


def test_nobody_watches_where_nobody_is_selected(machine: Machine, watched: Splices, bpffs: Path) -> None:
    pod = machine.add_pod(7, selected=False)
    watched.look()
    assert not watched.is_on
    machine.select(pod)
    watched.look()
    assert {pin.name for pin in (bpffs / "links").iterdir()} == set(CALLS)
    machine.select(pod, selected=False)
    watched.look()
    assert list((bpffs / "links").iterdir()) == []


def test_what_an_earlier_agent_left_or_somebody_took_is_set_right(
    machine: Machine, watched: Splices, bpffs: Path
) -> None:
    pod = machine.add_pod(7)
    watched.look()
    (bpffs / "links" / "short_circuit_tee").unlink()
    watched.look()
    assert {pin.name for pin in (bpffs / "links").iterdir()} == set(CALLS)
    machine.select(pod, selected=False)
    Splices(machine.node.loaded.programs, bpffs / "links", machine.selected).look()
    assert list((bpffs / "links").iterdir()) == []
