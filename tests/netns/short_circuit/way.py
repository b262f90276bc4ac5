"""A way between two pods, short-circuited or plain TCP: each case of the suite runs over both and asserts the same."""

from __future__ import annotations

import array
import contextlib
import fcntl
import itertools
import select
import socket
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.bpf.translation import address
from tests.netns.pod_network.host import Pod
from tests.netns.pod_network.traffic import pattern
from tests.netns.short_circuit.machine import Machine
from tests.netns.short_circuit.talk import connected, echoed, is_ready
from tests.patience import wait_until

STEP = 65536
# Rounds after which a connection is admitted, if it ever is: it is looked at after ten packets.
ROUNDS = 30

Ends = tuple[socket.socket, socket.socket]


@dataclass(frozen=True, slots=True)
class Way:
    """``is_short``: both pods are selected; else neither is."""

    machine: Machine
    client: Pod
    server: Pod
    is_short: bool

    @contextmanager
    def connected(self, family: int = 4) -> Iterator[Ends]:
        """A connection that is in use already: short-circuited on a short way."""
        with connected(self.client, self.server, family) as (near, far):
            self.use(near, far)
            yield near, far

    def use(self, near: socket.socket, far: socket.socket) -> None:
        """Talks until the connection is admitted, where it is to be."""
        echoed(near, far, ROUNDS, 8)
        assert (self.machine.row_of(near) is not None) is self.is_short

    @contextmanager
    def hands_over(self) -> Iterator[None]:
        """What is sent meanwhile is handed over from socket to socket on a short way, some of it at least."""
        before = self.taken()
        yield
        assert (self.taken() > before) is self.is_short

    def taken(self) -> int:
        """Bytes that were handed over between the two pods, of connections that are over, too."""
        both = {address(each) for pod in (self.client, self.server) for each in pod.ip.values()}
        live = [
            end.bytes
            for key, row in self.machine.connections().items()
            if {key.source, key.destination} <= both
            for end in row.ends
        ]
        over = [
            sent.bytes
            for pair, total in self.machine.totals().items()
            if {pair.first, pair.second} <= both
            for sent in total.sent
        ]
        return sum(live) + sum(over)


def write(to: socket.socket, data: bytes) -> None:
    """All of it, waiting for room as an event loop does."""
    view = memoryview(data)
    while view:
        try:
            view = view[to.send(view) :]
        except BlockingIOError:
            assert is_ready(to, select.POLLOUT), "there never was room"


def read(from_: socket.socket, size: int) -> bytes:
    """At most so many bytes, at least one; none: the other end closed."""
    while True:
        try:
            return from_.recv(size)
        except BlockingIOError:
            assert is_ready(from_, select.POLLIN), "nothing came any more"


def send_stream(to: socket.socket, size: int, step: int = STEP) -> None:
    """Bytes that say where they are, ``step`` at a time."""
    for start in range(0, size, step):
        write(to, pattern(start, min(step, size - start)))


def check_stream(from_: socket.socket, size: int, step: int = STEP) -> None:
    """Reads as many of them; each stands where it was sent."""
    at = 0
    while at < size:
        part = read(from_, min(step, size - at))
        assert part, f"the other end closed after {at} of {size} bytes"
        assert part == pattern(at, len(part)), f"other bytes than were sent after {at}"
        at += len(part)


def send_and_check(sender: socket.socket, receiver: socket.socket, size: int, step: int = STEP) -> None:
    """A stream from one socket to the other."""
    with alongside(lambda: send_stream(sender, size, step)):
        check_stream(receiver, size)


@contextmanager
def alongside(*works: Callable[[], None]) -> Iterator[None]:
    """Each runs on a thread of its own meanwhile; what one fails with is raised at the end."""
    failed: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # raised again where the test sees it
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for thread in threads:
            thread.join()
    if failed:
        raise failed[0]


@contextmanager
def streams_both_ways(
    near: socket.socket, far: socket.socket, step: int = 2048
) -> Iterator[Callable[[], int]]:
    """Checked bytes go both ways all the while, and what was sent is read to the end; ``()`` says how many were read."""
    over = threading.Event()
    sent, read_ = [0, 0], [0, 0]

    def sends(at: int, to: socket.socket) -> None:
        while not over.is_set():
            write(to, pattern(sent[at], step))
            sent[at] += step

    def reads(at: int, from_: socket.socket) -> None:
        while not over.is_set() or read_[at] < sent[at]:
            if not select.select([from_], [], [], 0.05)[0]:
                continue
            with contextlib.suppress(BlockingIOError):
                part = from_.recv(STEP)
                assert part == pattern(read_[at], len(part)), f"other bytes than were sent after {read_[at]}"
                assert part, f"the other end closed after {read_[at]}"
                read_[at] += len(part)

    with alongside(
        lambda: sends(0, near), lambda: reads(0, far), lambda: sends(1, far), lambda: reads(1, near)
    ):
        try:
            yield lambda: sum(read_)
        finally:
            over.set()


@contextmanager
def questions_and_answers(near: socket.socket, far: socket.socket) -> Iterator[Callable[[], int]]:
    """Messages of many sizes go there and back all the while, one after the other; ``()`` says how many bytes came back.

    Nobody is behind, so such a connection always profits, and is admitted again as often as it leaves.
    """
    over = threading.Event()
    back = [0]

    def asks() -> None:
        for size in itertools.cycle((1, 64, 3000, 20_000)):
            if over.is_set():
                return
            echoed(near, far, 1, size)
            back[0] += size

    with alongside(asks):
        try:
            yield lambda: back[0]
        finally:
            over.set()


def moves_on(read_now: Callable[[], int], by: int = 1 << 20) -> None:
    """Waits until so many more bytes were read."""
    before = read_now()
    wait_until(lambda: read_now() >= before + by, 30)


def waits(end: socket.socket) -> int:
    """FIONREAD: how many bytes can be read."""
    found = array.array("i", [0])
    fcntl.ioctl(end, termios.FIONREAD, found)
    return found[0]


def peeked(end: socket.socket) -> int:
    """The same by looking."""
    try:
        return len(end.recv(65536, socket.MSG_PEEK))
    except BlockingIOError:
        return 0


@contextmanager
def admitted(machine: Machine) -> Iterator[tuple[Pod, Pod, socket.socket, socket.socket]]:
    """Two pods and a connection of theirs that is short-circuited."""
    client, server = machine.add_pod(7), machine.add_pod(8)
    with connected(client, server) as (near, far):
        echoed(near, far, ROUNDS, 8)
        assert machine.sockets() == 2
        yield client, server, near, far


def all_leave(machine: Machine) -> None:
    wait_until(lambda: not machine.sockets() and not machine.connections(), 15)
