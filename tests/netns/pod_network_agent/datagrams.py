"""Datagrams from a namespace to another, one after the other, each from a socket of its own and answered once, if at all."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from meshd.kernel.netns import Netns
from tests.patience import patience

PORT = 9100
# An answer that takes longer is none: nobody sends a datagram again.
PATIENCE_S = patience(20)
# Each takes a port of the node's for minutes.
PAUSE_S = 0.003


class Asked:
    """``answered`` and ``lost``: how many of them were."""

    def __init__(self) -> None:
        self.answered = self.lost = 0
        self.is_over = False


@contextmanager
def datagrams(client: Path, server: Netns, address: str) -> Iterator[Asked]:
    """Asked from ``client``, answered in ``server`` at ``address``."""
    asked = Asked()
    with server.socket(socket.AF_INET, socket.SOCK_DGRAM) as answering, Netns.open(client) as opened:
        answering.bind((address, PORT))
        threads = [
            threading.Thread(target=_answer, args=(answering,)),
            threading.Thread(target=_ask, args=(opened, address, asked)),
        ]
        for thread in threads:
            thread.start()
        try:
            yield asked
        finally:
            asked.is_over = True
            threads[1].join()
            answering.sendto(b"", (address, PORT))
            threads[0].join()


def _answer(answering: socket.socket) -> None:
    while True:
        data, peer = answering.recvfrom(64)
        if not data:
            return
        answering.sendto(data, peer)


def _ask(client: Netns, address: str, asked: Asked) -> None:
    while not asked.is_over:
        question = str(asked.answered).encode()
        with client.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
            made.settimeout(PATIENCE_S)
            made.connect((address, PORT))
            try:
                made.send(question)
                asked.answered += made.recv(64) == question
            except OSError:
                asked.lost += 1
        time.sleep(PAUSE_S)
