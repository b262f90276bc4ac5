"""Streams of many bytes, of many connections, and of readers that are slow: nothing is lost, mixed up or piled up."""

from __future__ import annotations

import resource
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import pytest

from tests.netns.pod_network.traffic import pattern
from tests.netns.short_circuit.talk import connected, echoed, received
from tests.netns.short_circuit.way import (
    Way,
    alongside,
    check_stream,
    send_and_check,
    send_stream,
    write,
)

MB = 1 << 20
QUEUE_BYTES, QUEUE_MESSAGES = 4 * MB, 1000


def test_single_bytes_go_there_and_back(way: Way) -> None:
    with way.connected() as (near, far), way.hands_over():
        echoed(near, far, 1000, 1)


@pytest.mark.parametrize("family", [4, 6], ids=["v4", "v6"])
def test_streams_go_both_ways_at_once(way: Way, family: int) -> None:
    both_ways(way, family, 64 * MB)


@pytest.mark.long
@pytest.mark.parametrize("family", [4, 6], ids=["v4", "v6"])
def test_a_gigabyte_goes_both_ways_at_once(way: Way, family: int) -> None:
    both_ways(way, family, 1024 * MB)


def both_ways(way: Way, family: int, size: int) -> None:
    with (
        way.connected(family) as (near, far),
        way.hands_over(),
        alongside(
            lambda: send_stream(near, size), lambda: send_stream(far, size), lambda: check_stream(far, size)
        ),
    ):
        check_stream(near, size)


@pytest.mark.parametrize("step", [1, 100, 1024, 1448, 4096, 65536, 1 << 20])
def test_writes_of_any_size_arrive_as_they_were_sent(way: Way, step: int) -> None:
    with way.connected() as (near, far), way.hands_over():
        send_and_check(near, far, min(step * 20_000, 16 * MB), step)


def test_two_hundred_connections_at_once(way: Way) -> None:
    many(way, 200)


@pytest.mark.long
def test_a_thousand_connections_at_once(way: Way) -> None:
    many(way, 1000)


def many(way: Way, count: int) -> None:
    with descriptors(count * 2 + 200), ExitStack() as stack:
        pairs = [stack.enter_context(connected(way.client, way.server)) for _ in range(count)]
        for turn in range(40):
            for at, (near, _) in enumerate(pairs):
                near.sendall(f"{turn:10}{at:10}".encode())
            for at, (_, far) in enumerate(pairs):
                got = received(far, 20)
                assert got == f"{turn:10}{at:10}".encode()
                far.sendall(got)
            for at, (near, _) in enumerate(pairs):
                assert received(near, 20) == f"{turn:10}{at:10}".encode()
        assert len(way.machine.connections()) == (count if way.is_short else 0)


@contextmanager
def descriptors(count: int) -> Iterator[None]:
    """So many may be open meanwhile."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(count, before[0]), max(count, before[1])))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("step", [1, 1000, 65536])
def test_a_fast_writer_cannot_fill_memory(way: Way, step: int) -> None:
    """The kernel keeps the limit and a quarter at most for a reader that does not read; the rest is TCP's, which stops."""
    with way.connected() as (near, far):
        sent = fill(near, step)
        waiting = way.machine.waiting(near)
        assert sum(waiting) <= QUEUE_BYTES * 5 // 4
        assert bool(sum(waiting)) is way.is_short
        assert sum(waiting) <= QUEUE_MESSAGES * 5 // 4 * step
        check_stream(far, sent)
        echoed(near, far, 5, 64)


def fill(to: socket.socket, step: int) -> int:
    """Sends what goes; how many bytes that was."""
    at = 0
    while True:
        try:
            at += to.send(pattern(at, step))
        except BlockingIOError:
            # TCP takes a moment to move what it has: it is full if nothing more goes for a while.
            if not select.select([], [to], [], 0.3)[1]:
                return at


@pytest.mark.parametrize("step", [100, 65536])
def test_several_writers_of_one_socket_cannot_fill_memory(way: Way, step: int) -> None:
    most, sent = 0, [0] * 4

    def fills(at: int) -> None:
        sent[at] = fill(near, step)

    with way.connected() as (near, far):
        with alongside(*[partial(fills, at) for at in range(len(sent))]):
            for _ in range(50):
                most = max(most, *way.machine.waiting(near))
        most = max(most, *way.machine.waiting(near))
        assert most <= QUEUE_BYTES * 5 // 4
        assert bool(most) is way.is_short
        assert len(received(far, sum(sent))) == sum(sent)


def test_messages_of_several_writers_are_not_divided(way: Way) -> None:
    size, count, writers = 1000, 30, 4

    def sends(which: int) -> None:
        for _ in range(count):
            write(near, bytes([which]) * size)

    seen = [0] * writers
    with (
        way.connected() as (near, far),
        way.hands_over(),
        alongside(*[partial(sends, which) for which in range(writers)]),
    ):
        for _ in range(count * writers):
            got = received(far, size)
            assert got == got[:1] * size
            seen[got[0]] += 1
    assert seen == [count] * writers


def test_a_slow_reader_gets_all(way: Way) -> None:
    with way.connected() as (near, far), way.hands_over(), alongside(lambda: send_stream(near, 16 * MB)):
        check_stream(far, 16 * MB, 700)
