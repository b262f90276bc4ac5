"""What the kernel tells a reader of a table while others change it; a real one does so too seldom for a test."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

import pytest

from meshd.errors import KernelError
from meshd.kernel import rtnetlink as rt
from meshd.kernel.route_socket import RouteSocket
from meshd.kernel.rtnetlink_answers import link_of

HEADER = struct.Struct("=IHHII")
MULTI, INTERRUPTED, DONE = 0x2, 0x10, 3
# The port that nobody but the kernel has (netlink(7)).
KERNEL = 0


class Kernel:
    """The other end of a netlink socket: answers the n-th dump with the n-th of ``tables``, whole or torn."""

    def __init__(self, tables: Iterator[tuple[list[str], bool]]) -> None:
        self._tables = tables
        self._answers: list[bytes] = []

    def bind(self, _: object) -> None:
        pass

    def setsockopt(self, *_: object) -> None:
        pass

    def close(self) -> None:
        pass

    def send(self, data: bytes) -> int:
        _, _, _, sequence, _ = HEADER.unpack_from(data)
        names, torn = next(self._tables)
        flags = MULTI | (INTERRUPTED if torn else 0)
        for name in names:
            body = rt.LINK.pack(0, 0, 1, 0, 0) + rt.attribute(rt.IFLA_IFNAME, rt.text(name))
            self._answers.append(message(rt.RTM_NEWLINK, flags, sequence, body))
        self._answers.append(message(DONE, flags, sequence, struct.pack("=i", 0)))
        return len(data)

    def recvfrom(self, _: int) -> tuple[bytes, tuple[int, int]]:
        return self._answers.pop(0), (KERNEL, 0)


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    return HEADER.pack(HEADER.size + len(body), kind, flags, sequence, 0) + body


def names_told(monkeypatch: pytest.MonkeyPatch, tables: list[tuple[list[str], bool]]) -> list[str]:
    kernel = Kernel(iter(tables))
    monkeypatch.setattr(socket, "socket", lambda *_: kernel)
    with RouteSocket() as route:
        return [link_of(each).name for each in route.exchange([rt.get_links()])[0]]


def test_a_table_that_was_torn_is_read_again_until_it_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = [(["a"], True), (["a", "b"], True), (["a", "b", "c"], False), ([], False)]
    assert names_told(monkeypatch, tables) == ["a", "b", "c"]


def test_a_table_that_never_is_whole_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KernelError) as refused:
        names_told(monkeypatch, [(["a"], True)] * 20)
    assert refused.value.errno == errno.EINTR
