"""A client in a pod: has a UDP socket to each of two servers of a service, in each family, and tells what becomes of them.
It sends nothing meanwhile, so that no answer of the network can close them.

    python old_sockets.py PORT ADDRESS...

Prints a word and JSON: ``opened`` [family, server] of each; ``closed`` [family, server, errno] of those that failed, once
both of a server have; ``kept`` [family, server] of the others, which answered once more; ``new``: who answers new sockets.
"""

import errno
import json
import select
import socket
import sys
import time

PATIENCE_S = 5
NEW = 20


def main() -> None:
    port, addresses = int(sys.argv[1]), sys.argv[2:]
    sockets: dict[tuple[int, str], socket.socket] = {}
    while len(sockets) < 2 * len(addresses):
        for address in addresses:
            made, name = connect(address, port)
            if sockets.setdefault((6 if ":" in address else 4, name), made) is not made:
                made.close()
    say("opened", list(sockets))
    closed = wait_closed(sockets, len(addresses))
    say("closed", closed)
    lost = {(family, name) for family, name, _ in closed}
    rest = [(family, ask(made)) for (family, name), made in sockets.items() if (family, name) not in lost]
    say("kept", rest)
    say("new", sorted({connect(address, port)[1] for _ in range(NEW) for address in addresses}))
    time.sleep(1000)


def wait_closed(sockets: dict[tuple[int, str], socket.socket], count: int) -> list[tuple[int, str, str]]:
    poll = select.poll()
    by_fd = {made.fileno(): key for key, made in sockets.items()}
    for made in sockets.values():
        poll.register(made, select.POLLERR)
    closed: list[tuple[int, str, str]] = []
    while len(closed) < count:
        for fd, _ in poll.poll():
            key = by_fd[fd]
            error = sockets[key].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            closed.append((*key, errno.errorcode.get(error, str(error))))
            poll.unregister(fd)
    return closed


def connect(address: str, port: int) -> tuple[socket.socket, str]:
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    made.settimeout(PATIENCE_S)
    made.connect((address, port))
    return made, ask(made)


def ask(made: socket.socket) -> str:
    made.send(b"?")
    return str(json.loads(made.recv(2048))["node"])


def say(word: str, what: object) -> None:
    print(word, json.dumps(what), flush=True)


main()
