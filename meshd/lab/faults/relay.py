"""Carries frames between two links, each after the same time: a long path, also on kernels without netem.

Frames are passed with what the kernel says of them (virtio_net_hdr), so checksums that are still to be made and packets that
are still to be cut stay so. SIGTERM: nothing waits any more, so that nothing is lost when the links are led past it.
Standard library only; one process for one node's uplink.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import socket
import time
from collections import deque

ETH_P_ALL = 3
# linux/if_packet.h
SOL_PACKET, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING = 263, 15, 23
# A packet that is still to be cut, its link header, and virtio_net_hdr.
FRAME_MOST = 65536 + 64
BUFFER_BYTES = 4 * 1024 * 1024


def link(name: str) -> socket.socket:
    """What comes in on link ``name``, and a way to send on it."""
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    opened.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    opened.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    opened.bind((name, ETH_P_ALL))
    opened.setblocking(False)
    return opened


def carry(one: socket.socket, other: socket.socket, delay_s: float, hurry: socket.socket) -> None:
    """For ever: what comes in on either goes out on the other ``delay_s`` later; at once, after a word on ``hurry``."""
    towards = {one: other, other: one}
    under_way: deque[tuple[float, socket.socket, bytes]] = deque()
    while True:
        wait_s = max(0.0, under_way[0][0] + delay_s - time.monotonic()) if under_way else None
        for ready in select.select([*towards, hurry], [], [], wait_s)[0]:
            if ready is hurry:
                hurry.recv(1)
                delay_s = 0.0
                continue
            under_way.append((time.monotonic(), towards[ready], ready.recv(FRAME_MOST)))
        while under_way and under_way[0][0] + delay_s <= time.monotonic():
            _, out, frame = under_way.popleft()
            try:
                out.send(frame)
            except OSError:
                # A full queue or a link that goes: a frame is lost, as on any path.
                continue


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--delay", type=float, required=True, metavar="SECONDS")
    parser.add_argument("links", nargs=2, metavar="LINK")
    arguments = parser.parse_args()
    one, other = map(link, arguments.links)
    hurry, told = socket.socketpair()
    told.setblocking(False)
    signal.set_wakeup_fd(told.fileno())
    signal.signal(signal.SIGTERM, lambda _number, _frame: None)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
    carry(one, other, arguments.delay, hurry)


if __name__ == "__main__":
    main()
