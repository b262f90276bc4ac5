"""What is outside the cluster: a host that knows no pod's address, and a web server there that says who asks."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from ipaddress import ip_interface

from meshd.kernel import netlink
from meshd.kernel.netns import Netns
from tests.netns.pod_network_nodes.fabric import Fabric

# Documentation's own (RFC 5737, RFC 3849): nodes have a default route to them, and no pod CIDR or node address is near.
ADDRESSES = ("203.0.113.7", "2001:db8::7")
PORT = 8080


@contextlib.contextmanager
def world(fabric: Fabric) -> Iterator[None]:
    """Meanwhile a web server at both ADDRESSES answers with the address of who asks."""
    netlink.set_up(fabric.netns, fabric.bridge, [ip_interface(address) for address in ADDRESSES])
    with contextlib.ExitStack() as serving:
        for address in ADDRESSES:
            listener = listening(fabric.netns, address)
            server = threading.Thread(target=serve, args=(listener,))
            server.start()
            serving.callback(server.join)
            serving.callback(listener.close)
            # Closing alone does not wake up whoever accepts.
            serving.callback(listener.shutdown, socket.SHUT_RDWR)
        yield


def listening(netns: Netns, address: str) -> socket.socket:
    listener = netns.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    listener.bind((address, PORT))
    listener.listen()
    return listener


def serve(listener: socket.socket) -> None:
    """Until ``listener`` is shut down."""
    while True:
        try:
            connection, (client, *_) = listener.accept()
        except OSError:
            return
        with connection:
            connection.settimeout(5)
            with contextlib.suppress(OSError):
                connection.recv(4096)
                connection.sendall(f"HTTP/1.0 200 OK\r\n\r\n{client}".encode())
