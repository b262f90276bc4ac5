"""Frames that no socket would send, put on a link as they are."""

from __future__ import annotations

import socket

from meshd.kernel.netns import Netns
from tests.patience import patience

ETH_P_ALL = 3


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def to(destination: str, frame: bytes, source: str = "02:00:00:00:00:bb") -> bytes:
    """``frame`` with these link addresses."""
    return mac(destination) + mac(source) + frame[12:]


def send(netns: Netns, device: str, *frames: bytes) -> None:
    """Puts frames on ``device``, as if its namespace had made them."""
    with netns.socket(socket.AF_PACKET, socket.SOCK_RAW) as link:
        link.bind((device, 0))
        for frame in frames:
            link.send(frame)


def exchange(netns: Netns, device: str, frame: bytes, wanted: int, wait_s: float = patience(5)) -> bytes:
    """Sends a frame and gives the first one with Ethernet type ``wanted`` that comes in for its sender; empty: none came.

    The other end has news for everybody at any time (multicast listeners, RFC 3810).
    """
    with netns.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(wanted))) as link:
        link.bind((device, wanted))
        link.settimeout(wait_s)
        link.send(frame)
        while True:
            try:
                said, where = link.recvfrom(1 << 16)
            except OSError:
                return b""
            if where[2] != socket.PACKET_OUTGOING and said[:6] == frame[6:12]:
                return said
