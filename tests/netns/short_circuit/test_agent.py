"""Agents come, die, are replaced and cleaned up, and connections that go from socket to socket lose no byte."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from build_backend import cni_shim
from meshd.dataplane.short_circuit import rows
from meshd.dataplane.short_circuit.rows import ConnectionRow, Layouts, TotalRow
from meshd.kernel.maps import Map
from meshd.kernel.netns import Netns
from meshd.kernel.object import BpfObject
from meshd.kernel.pins import pin_path
from tests import another_build
from tests.netns.cni.node import CniNode
from tests.netns.pod_network_agent.commands import cleanup
from tests.netns.pod_network_agent.in_kernel import pins
from tests.netns.short_circuit.talk import received
from tests.patience import patience, wait_until

SELECTED = {"default": True, "watchS": 0}


@pytest.fixture(scope="module", autouse=True)
def shim() -> None:
    cni_shim.build()


@pytest.fixture
def node(tmp_path: Path, unique_name: str) -> Iterator[CniNode]:
    """A node on which every workload is selected."""
    made = CniNode(tmp_path / "node", unique_name)
    made.agent.options |= {"auditIntervalS": patience(0.2), "shortCircuit": SELECTED}
    try:
        made.start()
        yield made
    finally:
        made.close()


@dataclass(slots=True)
class Talk:
    """Messages that go there and back, one after the other, until it is ended."""

    near: socket.socket
    far: socket.socket
    rounds: int = 0
    failed: list[BaseException] = field(default_factory=list)
    ending: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self.run)

    def end(self) -> None:
        """The last message has come back."""
        self.ending.set()
        self.thread.join()

    def run(self) -> None:
        try:
            while not self.ending.is_set():
                message = os.urandom(100)
                self.near.sendall(message)
                self.far.sendall(received(self.far, 100))
                assert received(self.near, 100) == message
                self.rounds += 1
        except BaseException as error:  # shown by the test's own thread
            self.failed.append(error)

    def goes_on(self) -> None:
        """Returns when many more have come back."""
        wanted = self.rounds + 200
        wait_until(lambda: self.rounds > wanted or bool(self.failed), 30)
        assert self.failed == []


@contextmanager
def talk(node: CniNode) -> Iterator[Talk]:
    """Between two new pods of the node."""
    (first, _), (second, at) = node.add("one"), node.add("two")
    with (
        Netns.open(first) as near_ns,
        Netns.open(second) as far_ns,
        listening(far_ns, at.addresses[0]) as listener,
        near_ns.socket(socket.AF_INET, socket.SOCK_STREAM) as near,
    ):
        near.connect(listener.getsockname())
        far, _ = listener.accept()
        with far:
            for each in (near, far):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                each.setblocking(False)
            made = Talk(near, far)
            made.thread.start()
            try:
                yield made
            finally:
                made.end()
    assert made.failed == []


@contextmanager
def listening(netns: Netns, address: str) -> Iterator[socket.socket]:
    with netns.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind((address, 0))
        listener.listen()
        yield listener


def built(node: CniNode) -> BpfObject:
    """The object of the build that runs."""
    configured = node.agent.options.get("bpfObject")
    return BpfObject.open(Path(str(configured))) if configured else BpfObject.open()


def entries(node: CniNode, name: str) -> int:
    """How many the map of the running build has, asked of the kernel."""
    with built(node) as bpf:
        pin = pin_path(pins(node) / "maps", name, bpf.btf.schema_hash(name))
    opened = Map.open_pinned(pin, name)
    try:
        return opened.count()
    finally:
        opened.close()


def connections(node: CniNode) -> tuple[Layouts, list[ConnectionRow]]:
    """Those of the running build, asked of the kernel."""
    with built(node) as bpf:
        made = rows.layouts(bpf.btf)
        pin = pin_path(pins(node) / "maps", rows.CONNECTIONS, bpf.btf.schema_hash(rows.CONNECTIONS))
    opened = Map.open_pinned(pin, rows.CONNECTIONS)
    try:
        return made, [made.connection.decode(value) for _, value in opened.items()]
    finally:
        opened.close()


def totals(node: CniNode) -> list[TotalRow]:
    """Of connections that are over, or have left."""
    with built(node) as bpf:
        made = rows.layouts(bpf.btf)
        pin = pin_path(pins(node) / "maps", rows.TOTALS, bpf.btf.schema_hash(rows.TOTALS))
    opened = Map.open_pinned(pin, rows.TOTALS)
    try:
        return [made.total.decode(value) for _, value in opened.items()]
    finally:
        opened.close()


def handed_over(node: CniNode) -> int:
    """Messages of all connections that went from socket to socket."""
    return sum(end.messages for row in connections(node)[1] for end in row.ends)


def is_handed_over(node: CniNode) -> None:
    """Returns when more messages have gone from socket to socket than before."""
    before = handed_over(node)
    try:
        wait_until(lambda: handed_over(node) > before + 100, 30)
    except AssertionError:
        made, found = connections(node)
        causes = [
            {made.causes[at]: count for at, count in enumerate(end.causes) if count}
            for row in found
            for end in row.ends
        ]
        states = [(row.flags, made.causes[row.leaves], [end.socket for end in row.ends]) for row in found]
        over = [
            [{made.causes[at]: count for at, count in enumerate(sent.causes) if count} for sent in total.sent]
            for total in totals(node)
        ]
        raise AssertionError((before, handed_over(node), states, causes, over)) from None


def test_pods_that_are_selected_talk_from_socket_to_socket_and_outlive_the_agent(node: CniNode) -> None:
    with talk(node) as running:
        is_handed_over(node)
        node.agent.kill()
        running.goes_on()
        is_handed_over(node)
        node.start()
        running.goes_on()
        is_handed_over(node)
        assert entries(node, rows.SOCKETS) == 2
    wait_until(lambda: entries(node, rows.SOCKETS) == 0)
    assert entries(node, rows.CONNECTIONS) == 0


def test_a_build_that_keeps_other_rows_goes_on_with_the_sockets_of_this_one(node: CniNode) -> None:
    with talk(node) as running:
        is_handed_over(node)
        for build in (str(another_build.other_object()), None):
            node.agent.kill()
            node.agent.options["bpfObject"] = build
            node.start()
            running.goes_on()
            is_handed_over(node)
            assert entries(node, rows.SOCKETS) == 2
            assert len(list(pins(node).glob(f"maps/{rows.CONNECTIONS}_*"))) == 1


def test_a_cleanup_sends_connections_back_to_tcp_and_loses_nothing(node: CniNode) -> None:
    with talk(node) as running:
        is_handed_over(node)
        node.agent.kill()
        status, said = cleanup(node)
        assert status == 0, said
        running.goes_on()
        assert list(pins(node).glob("*/*")) == []


def test_an_agent_that_is_told_to_have_none_sends_connections_back_and_loses_nothing(node: CniNode) -> None:
    with talk(node) as running:
        is_handed_over(node)
        node.agent.kill()
        assert list(pins(node).glob("links/short_circuit_*"))
        node.agent.options["shortCircuit"] = {"enabled": False}
        node.start()
        wait_until(lambda: not list(pins(node).glob("*/short_circuit_*")))
        running.goes_on()
        node.agent.kill()
        node.agent.options["shortCircuit"] = SELECTED
        node.start()
        running.goes_on()
        is_handed_over(node)


def test_a_cleanup_says_that_bytes_wait_which_nobody_reads(node: CniNode) -> None:
    with talk(node) as running:
        is_handed_over(node)
        running.end()
        running.near.sendall(b"unread")
        node.agent.kill()
        status, said = cleanup(node)
        assert (status, "bytes of 1 short-circuited connections wait" in said) == (1, True), said
        assert received(running.far, 6) == b"unread"
        assert cleanup(node)[0] == 0
