"""What is otherwise than on TCP, each shown beside it; docs/short-circuit.md lists them."""

from __future__ import annotations

import os
import select
import socket

import pytest

from tests.netns.short_circuit.talk import received
from tests.netns.short_circuit.way import Way, peeked, waits
from tests.patience import patience, wait_until


def test_fionread_of_what_came_on_tcp(way: Way) -> None:
    """Of a connection that is admitted the kernel counts what was handed over, and not what went on TCP."""
    with way.connected() as (near, far), way.hands_over():
        near.sendall(b"handed over")
        wait_until(lambda: waits(far) == 11)
        far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 2)
        near.sendall(b"on TCP")
        wait_until(lambda: peeked(far) == 11 if way.is_short else peeked(far) == 17)
        assert received(far, 11) == b"handed over"
        wait_until(lambda: peeked(far) == 6)
        assert waits(far) == (0 if way.is_short else 6)
        assert received(far, 6) == b"on TCP"


def test_splice_out_of_a_connection(way: Way) -> None:
    """What was handed over is there for recv() and not for splice(): so whoever is seen calling it is excluded."""
    inlet, outlet = os.pipe2(os.O_NONBLOCK)
    try:
        with way.connected() as (near, far), way.hands_over():
            near.sendall(b"the message")
            wait_until(lambda: waits(far) == 11)
            if way.is_short:
                with pytest.raises(BlockingIOError):
                    os.splice(far.fileno(), outlet, 100, flags=os.SPLICE_F_NONBLOCK)
                assert received(far, 11) == b"the message"
            else:
                assert os.splice(far.fileno(), outlet, 100, flags=os.SPLICE_F_NONBLOCK) == 11
                assert os.read(inlet, 100) == b"the message"
    finally:
        os.close(inlet)
        os.close(outlet)


def test_urgent_data(way: Way) -> None:
    """The urgent byte comes among the others, at its place, and nobody is told of it."""
    with way.connected() as (near, far), way.hands_over(), select.epoll() as poll:
        poll.register(far, select.EPOLLPRI)
        near.sendall(b"before")
        near.send(b"!", socket.MSG_OOB)
        near.sendall(b"after")
        if way.is_short:
            assert received(far, 12) == b"before!after"
            assert poll.poll(0) == []
            with pytest.raises((BlockingIOError, OSError)):
                far.recv(1, socket.MSG_OOB)
        else:
            assert poll.poll(patience(10)) != []
            assert far.recv(1, socket.MSG_OOB) == b"!"
            assert received(far, 6) == b"before"
            assert received(far, 5) == b"after"


def test_a_reader_that_closes_with_bytes_unread(way: Way) -> None:
    """TCP answers with a reset, and the writer's reads fail with it; here its stream ends, and a later write fails."""
    with way.connected() as (near, far):
        near.sendall(b"unread")
        wait_until(lambda: waits(far) == 6)
        far.close()
        assert select.select([near], [], [], patience(10))[0]
        if way.is_short:
            assert near.recv(1) == b""
        else:
            with pytest.raises(ConnectionResetError):
                near.recv(1)
