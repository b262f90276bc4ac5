"""Two sockets of our own, and every gate: before the first connection is admitted, what decides about messages has to be
right on this kernel.

The sockets are on the loopback of a namespace made for this, and put in by hand with a row that says so. Each step sends
what has to be handed over or has to go on TCP, and for which cause.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_interface

from meshd.dataplane.pod_network.flow_rows import TupleRow
from meshd.dataplane.pod_network.rows import AddressRow
from meshd.dataplane.short_circuit import rows
from meshd.dataplane.short_circuit.rows import ConnectionRow, EndRow, KeyRow, Layouts
from meshd.errors import KernelError
from meshd.kernel import netlink
from meshd.kernel.maps import NOEXIST, Map
from meshd.kernel.netns import Netns
from meshd.model import parse_address

_AT = "127.0.0.1"
_TCP = 6
_SO_ZEROCOPY = 60  # asm-generic/socket.h; not in Python's socket
_PATIENCE_S = 5.0
_CHUNK = 65536


@dataclass(frozen=True, slots=True)
class Pair:
    """Both ends of a connection, and their row's key."""

    first: socket.socket
    second: socket.socket
    key: bytes


class SelfTest:
    """``limits``: bytes and messages that may wait, as the programs were told."""

    def __init__(self, made: Layouts, maps: Mapping[str, Map], limits: tuple[int, int]) -> None:
        self._made = made
        self._maps = maps
        self._limits = limits
        self._causes = {name: number for number, name in made.causes.items()}

    def run(self) -> str:
        """What is wrong, as a phrase; empty: nothing. It blocks for some ms, and leaves nothing behind."""
        steps: tuple[tuple[str, Callable[[Pair], None]], ...] = (
            ("messages are handed over", self._hands_over),
            ("a reader that waits for more than a byte", self._low_water),
            ("a sender that waits for its pages", self._zerocopy),
            ("bytes that wait", self._queue_bytes),
            ("messages that wait", self._queue_messages),
            ("a blocking socket", self._blocking),
        )
        at = "two sockets"
        try:
            with Netns.create("self-test") as netns, self._pair(netns) as pair:
                for name, step in steps:
                    at = name
                    step(pair)
        except (AssertionError, KernelError, OSError) as error:
            return f"{at}: {error or type(error).__name__}"
        return ""

    @contextlib.contextmanager
    def _pair(self, netns: Netns) -> Iterator[Pair]:
        netlink.set_up(netns, "lo", [ip_interface(f"{_AT}/8")])
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(netns.socket(socket.AF_INET, socket.SOCK_STREAM))
            listener.bind((_AT, 0))
            listener.listen(1)
            first = stack.enter_context(netns.socket(socket.AF_INET, socket.SOCK_STREAM))
            first.settimeout(_PATIENCE_S)
            first.connect(listener.getsockname())
            second = stack.enter_context(listener.accept()[0])
            second.settimeout(_PATIENCE_S)
            for each in (first, second):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            key, swapped = self._key(first)
            cookie = netns.cookie()
            end = EndRow(netns_cookie=cookie)
            row = ConnectionRow(self._made.is_test, 0, 0, (end, end))
            self._maps[rows.CONNECTIONS].update(key, self._made.connection.encode(row), NOEXIST)
            stack.callback(self._maps[rows.CONNECTIONS].delete, key)
            for each in (first, second):
                entry = self._socket_key(each, cookie)
                self._maps[rows.SOCKETS].update(entry, self._made.u64.encode(each.fileno()), NOEXIST)
                stack.callback(self._maps[rows.SOCKETS].delete, entry)
            yield Pair(second, first, key) if swapped else Pair(first, second, key)

    def _key(self, of: socket.socket) -> tuple[bytes, bool]:
        """As programs order both ends; True: the socket is the second."""
        ports = of.getsockname()[1], of.getpeername()[1]
        at = AddressRow(parse_address(_AT))
        first, second = sorted(ports)
        return self._made.tuple.encode(TupleRow(at, at, first, second, _TCP)), ports[0] > ports[1]

    def _socket_key(self, of: socket.socket, cookie: int) -> bytes:
        at = AddressRow(parse_address(_AT))
        ends = of.getsockname()[1], of.getpeername()[1]
        return self._made.key.encode(KeyRow(at, at, *ends, cookie))

    def _end(self, pair: Pair) -> EndRow:
        """What the first has sent."""
        value = self._maps[rows.CONNECTIONS].lookup(pair.key)
        assert value is not None, "its row is gone"  # noqa: S101 - caught in run()
        return self._made.connection.decode(value).ends[0]

    def _goes(self, pair: Pair, data: bytes, cause: str) -> None:
        """The first sends, and it goes on TCP for ``cause``; "taken": it is handed over."""
        _acknowledged(pair.first)
        before = self._end(pair)
        pair.first.sendall(data)
        after = self._end(pair)
        if cause == "taken":
            _require(after.messages > before.messages, "was not handed over")
            return
        number = self._causes[cause]
        found = [
            self._made.causes[at]
            for at, (old, new) in enumerate(zip(before.causes, after.causes, strict=True))
            if new > old
        ]
        _require(after.causes[number] > before.causes[number], f"went on TCP for {found}, not {cause}")

    def _arrives(self, pair: Pair, data: bytes) -> None:
        got = bytearray()
        while len(got) < len(data):
            part = pair.second.recv(_CHUNK)
            _require(bool(part), "the connection was closed")
            got += part
        _require(bytes(got) == data, "other bytes arrived than were sent")

    def _hands_over(self, pair: Pair) -> None:
        # With its first message a program learns of a socket; then the two are known to each other.
        for sender, receiver in ((pair.first, pair.second), (pair.second, pair.first)):
            sender.sendall(b"learn")
            _require(receiver.recv(_CHUNK) == b"learn", "other bytes arrived than were sent")
        self._goes(pair, b"first", "taken")
        self._goes(pair, b"second", "taken")
        self._arrives(pair, b"firstsecond")

    def _low_water(self, pair: Pair) -> None:
        pair.second.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 2)
        self._goes(pair, b"low", "low_water")
        pair.second.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        self._goes(pair, b"unread", "unread")
        self._arrives(pair, b"lowunread")

    def _zerocopy(self, pair: Pair) -> None:
        pair.first.setsockopt(socket.SOL_SOCKET, _SO_ZEROCOPY, 1)
        self._goes(pair, b"zero", "zerocopy")
        pair.first.setsockopt(socket.SOL_SOCKET, _SO_ZEROCOPY, 0)
        self._arrives(pair, b"zero")
        self._goes(pair, b"again", "taken")
        self._arrives(pair, b"again")

    def _queue_bytes(self, pair: Pair) -> None:
        chunk, sent = bytes(range(256)) * (_CHUNK // 256), 0
        while sent + _CHUNK <= self._limits[0] and sent // _CHUNK < self._limits[1]:
            self._goes(pair, chunk, "taken")
            sent += _CHUNK
        if sent // _CHUNK < self._limits[1]:
            self._goes(pair, chunk, "queue_bytes")
            sent += _CHUNK
        self._arrives(pair, chunk * (sent // _CHUNK))

    def _queue_messages(self, pair: Pair) -> None:
        before = self._end(pair)
        for _ in range(self._limits[1] + 1):
            pair.first.sendall(b"m")
        after, number = self._end(pair), self._causes["queue_messages"]
        _require(after.causes[number] > before.causes[number], "were all handed over")
        _require(after.messages - before.messages <= self._limits[1], "more were handed over than may wait")
        self._arrives(pair, b"m" * (self._limits[1] + 1))

    def _blocking(self, pair: Pair) -> None:
        pair.second.setblocking(True)
        self._goes(pair, b"blocking", "blocking")
        pair.second.settimeout(_PATIENCE_S)
        self._arrives(pair, b"blocking")


def _acknowledged(sender: socket.socket) -> None:
    """Returns when the other end has confirmed all that went on TCP: it may take its time for that."""
    deadline = time.monotonic() + _PATIENCE_S
    while int.from_bytes(fcntl.ioctl(sender, termios.TIOCOUTQ, bytes(4)), sys.byteorder):
        _require(time.monotonic() < deadline, "bytes on TCP were not confirmed")
        time.sleep(0.001)


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise AssertionError(what)
