"""A workload that is seen splicing what sockets carry, or sending by io_uring without a copy, is excluded."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshd.dataplane.short_circuit import rows
from meshd.dataplane.short_circuit.splices import Splices, take_off_all, wanted
from meshd.kernel import tracepoint
from tests.netns.pod_network.host import Pod
from tests.netns.short_circuit import ring as io
from tests.netns.short_circuit.machine import Machine
from tests.netns.short_circuit.ring import address_of, request, ring
from tests.netns.short_circuit.ring_streams import WHERE_IT_IS
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


def spliced_by_ring(pod: Pod, from_: socket.socket) -> int:
    """How many bytes a process of the pod moves into a pipe by io_uring."""
    reading, writing = os.pipe()
    made = request(
        io.SPLICE,
        writing,
        WHERE_IT_IS,
        65536,
        offset=WHERE_IT_IS,
        of_opcode=NONBLOCK,
        splice_fd=from_.fileno(),
    )

    def asks() -> int:
        with ring() as on:
            return on.asked(made)

    try:
        found = pod.netns.run(asks)
        return 0 if found == -errno.EAGAIN else found
    finally:
        os.close(reading)
        os.close(writing)


def spliced_by_call(pod: Pod, from_: socket.socket) -> int:
    """The same by the call."""
    return pod.netns.run(lambda: spliced(from_))


SPLICES = [
    pytest.param(spliced_by_call, id="call"),
    pytest.param(spliced_by_ring, id="io_uring", marks=pytest.mark.needs("io_uring")),
]


@pytest.mark.parametrize("splice", SPLICES)
def test_who_splices_is_excluded_its_sockets_leave_and_no_byte_is_lost(
    machine: Machine, watched: Splices, splice: Callable[[Pod, socket.socket], int]
) -> None:
    client, server = machine.add_pod(7), machine.add_pod(8)
    watched.look()
    with connected(client, server) as (near, far):
        echoed(near, far, 50, 64)
        assert (machine.sockets(), exclusions(machine)) == (2, {})
        far.sendall(b"was handed over")
        # What was handed over, the call does not find: so nobody may stay who makes it.
        assert splice(client, near) == 0
        assert exclusions(machine) == {client.link.netns_cookie: "splices"}
        assert received(near, 15) == b"was handed over"
        echoed(near, far, 50, 64)
        wait_until(lambda: machine.sockets() == 0)
        far.sendall(b"on TCP")
        wait_until(lambda: splice(client, near) == 6)
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
    assert {pin.name for pin in (bpffs / "links").iterdir()} == set(wanted())
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
    assert {pin.name for pin in (bpffs / "links").iterdir()} == set(wanted())
    machine.select(pod, selected=False)
    Splices(machine.node.loaded.programs, bpffs / "links", machine.selected).look()
    assert list((bpffs / "links").iterdir()) == []


def sent_without_a_copy(pod: Pod, end: socket.socket, flags: int) -> int:
    """The result of a request to io_uring that a process of the pod makes: 100 bytes."""

    def asks() -> int:
        room = bytearray(100)
        with ring(flags) as on:
            return on.asked(request(io.SEND_ZC, end.fileno(), address_of(room), len(room)))

    return pod.netns.run(asks)


@pytest.mark.needs("io_uring")
@pytest.mark.parametrize("flags", [0, io.SQPOLL], ids=["itself", "by a thread of the kernel"])
def test_who_sends_without_a_copy_is_not_admitted(machine: Machine, watched: Splices, flags: int) -> None:
    client, server = machine.add_pod(7), machine.add_pod(8)
    watched.look()
    with connected(client, server) as (near, far):
        assert sent_without_a_copy(client, near, flags) == 100
        assert received(far, 100) == bytes(100)
        echoed(near, far, 50, 64)
        assert (machine.sockets(), machine.events()) == (0, {"ineligible": 1})
        assert sent_without_a_copy(client, near, flags) == 100
        assert received(far, 100) == bytes(100)
    assert exclusions(machine) == {client.link.netns_cookie: "sends_zc"}


def test_a_kernel_without_io_uring_has_none_of_its_tracepoints() -> None:
    """Then nobody has to watch it; for any other reason that it cannot be watched, the short circuit is off."""
    assert (tracepoint.has_category("syscalls"), tracepoint.has_category("no_such_thing")) == (True, False)
