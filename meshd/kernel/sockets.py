"""sock_diag: which sockets of a network namespace talk to an address, and the end of one of them.

When a backend goes, clients hold connected sockets that would stay with it for ever. The kernel finds them by destination
(a filter that runs in the kernel, so only matches are copied) and destroys each by its cookie, which no other socket shares.
Layouts are those of linux/inet_diag.h, through the extension.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from meshd.errors import KernelError
from meshd.kernel._libbpf import ffi, lib
from meshd.kernel.netns import SO_NETNS_COOKIE, Netns

TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
NETLINK_SOCK_DIAG = 4

# Bit masks over TCP states, which UDP borrows (a connected UDP socket is ESTABLISHED). Listeners have no peer.
ESTABLISHED = 1 << 1
LISTEN = 1 << 10
# TIME_WAIT (6) and NEW_SYN_RECV (12) are no full sockets: they have no owner that could be told.
CONNECTED = 0xFFF & ~(1 << 6) & ~(1 << 7) & ~LISTEN & ~1

_ANSWER_ROOM = 64 * 1024


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address and a port, host order. A v4-mapped address is shown as the IPv4 address it stands for."""

    address: IPv4Address | IPv6Address
    port: int


@dataclass(frozen=True, slots=True)
class Socket:
    """A socket as the kernel describes it. ``cookie`` is what bpf_get_socket_cookie gives for it; ``state`` a TCP state
    number; ``inode`` as in /proc/PID/fd. ``raw_id`` is the kernel's own name of it, for `destroy`."""

    protocol: int
    family: int
    state: int
    cookie: int
    local: Endpoint
    remote: Endpoint
    uid: int
    inode: int
    raw_id: bytes


class SocketDiag:
    """A netlink socket of one namespace, which it keeps alive until `close`. Any thread may use it, one at a time."""

    def __init__(self, netns: Netns | None = None) -> None:
        """Opens in ``netns``, by default in the namespace of the calling thread."""
        self._name = netns.name if netns is not None else "current"
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        make = netns.socket if netns is not None else socket.socket
        self._socket = make(socket.AF_NETLINK, kind, NETLINK_SOCK_DIAG)
        self._sequence = 0

    def __enter__(self) -> SocketDiag:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def netns_cookie(self) -> int:
        """The number that programs know the socket's namespace by."""
        found = self._socket.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8)
        return int.from_bytes(found, sys.byteorder)

    def close(self) -> None:
        """Closes the netlink socket."""
        self._socket.close()

    def connected_to(self, protocol: int, remote: Endpoint, states: int = CONNECTED) -> list[Socket]:
        """The sockets whose peer is ``remote``: IPv4, IPv6, and for an IPv4 address IPv6 sockets that use it v4-mapped.

        The kernel filters. A socket that connects while this runs may be missed.
        """
        families = (socket.AF_INET, socket.AF_INET6) if remote.address.version == 4 else (socket.AF_INET6,)
        program = _destination_filter(remote)
        return [found for family in families for found in self._dump(family, protocol, states, program)]

    def all(self, protocol: int, states: int = CONNECTED) -> list[Socket]:
        """Every IPv4 and IPv6 socket in one of ``states``."""
        return [
            found
            for family in (socket.AF_INET, socket.AF_INET6)
            for found in self._dump(family, protocol, states, b"")
        ]

    def destroy(self, target: Socket) -> bool:
        """Ends ``target`` as if its connection had broken: its owner sees ECONNABORTED, a TCP peer a reset.

        False where it has gone meanwhile (another socket with the same addresses is not touched: the cookie differs).

        Raises:
            KernelError: EOPNOTSUPP where the kernel lacks CONFIG_INET_DIAG_DESTROY, EPERM without CAP_NET_ADMIN.
        """
        request = _request(target.family, target.protocol, 0xFFFFFFFF)
        ffi.memmove(ffi.addressof(request, "id"), target.raw_id, len(target.raw_id))
        answer = self._ask(lib.SOCK_DESTROY, lib.NLM_F_REQUEST | lib.NLM_F_ACK, bytes(ffi.buffer(request)))
        for kind, payload in answer:
            if kind == lib.NLMSG_ERROR:
                return self._destroyed(ffi.cast("struct nlmsgerr *", ffi.from_buffer(payload)).error)
        return True

    def _destroyed(self, code: int) -> bool:
        if code in (-errno.ENOENT, -errno.ESTALE):
            return False
        if code < 0:
            raise KernelError("destroy", f"a socket in {self._name}", -code)
        return True

    def _dump(self, family: int, protocol: int, states: int, program: bytes) -> Iterator[Socket]:
        body = bytes(ffi.buffer(_request(family, protocol, states)))
        if program:
            body += _attribute(lib.INET_DIAG_REQ_BYTECODE, program)
        for kind, payload in self._ask(lib.SOCK_DIAG_BY_FAMILY, lib.NLM_F_REQUEST | lib.NLM_F_DUMP, body):
            if kind == lib.NLMSG_ERROR:
                code = -ffi.cast("struct nlmsgerr *", ffi.from_buffer(payload)).error
                raise KernelError("list", f"sockets in {self._name}", code)
            yield _socket(protocol, ffi.cast("struct inet_diag_msg *", ffi.from_buffer(payload)))

    def _ask(self, kind: int, flags: int, body: bytes) -> Iterator[tuple[int, bytes]]:
        """Sends one request; (message type, payload) of every answer up to the last."""
        self._sequence += 1
        header = ffi.new("struct nlmsghdr *")
        header.nlmsg_len = ffi.sizeof("struct nlmsghdr") + len(body)
        header.nlmsg_type, header.nlmsg_flags, header.nlmsg_seq = kind, flags, self._sequence
        self._socket.send(bytes(ffi.buffer(header)) + body)
        dump = bool(flags & lib.NLM_F_DUMP)
        while True:
            for answer, sequence, payload in _messages(self._socket.recv(_ANSWER_ROOM)):
                if sequence != self._sequence:
                    continue  # The rest of an earlier dump that its reader gave up.
                if answer == lib.NLMSG_DONE:
                    return
                yield answer, payload
                if answer == lib.NLMSG_ERROR or not dump:
                    return


def can_destroy() -> bool:
    """Whether this kernel ends sockets on request (CONFIG_INET_DIAG_DESTROY), tried on a UDP socket of our own."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as victim, SocketDiag() as diag:
        victim.bind(("127.0.0.1", 0))
        victim.connect(victim.getsockname())
        address, port = victim.getsockname()
        mine = diag.connected_to(UDP, Endpoint(IPv4Address(address), port), ESTABLISHED)
        inode = os.fstat(victim.fileno()).st_ino
        try:
            return any(diag.destroy(found) for found in mine if found.inode == inode)
        except KernelError:
            return False


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    at, size = 0, ffi.sizeof("struct nlmsghdr")
    while at + size <= len(data):
        header = ffi.cast("struct nlmsghdr *", ffi.from_buffer(data) + at)
        yield header.nlmsg_type, header.nlmsg_seq, data[at + size : at + header.nlmsg_len]
        at += (header.nlmsg_len + 3) & ~3


def _request(family: int, protocol: int, states: int) -> Any:  # cffi data has no static type
    request = ffi.new("struct inet_diag_req_v2 *")
    request.sdiag_family, request.sdiag_protocol, request.idiag_states = family, protocol, states
    return request


def _attribute(kind: int, payload: bytes) -> bytes:
    header = ffi.new(
        "struct nlattr *", {"nla_len": ffi.sizeof("struct nlattr") + len(payload), "nla_type": kind}
    )
    return bytes(ffi.buffer(header)) + payload


def _destination_filter(remote: Endpoint) -> bytes:
    """inet_diag bytecode of one condition: ``no`` jumps past the end by 4 to refuse, falling off the end accepts. An
    AF_INET condition also matches v4-mapped IPv6 sockets (net/ipv4/inet_diag.c)."""
    packed = remote.address.packed
    condition = ffi.new("struct inet_diag_hostcond *", {"port": remote.port, "prefix_len": len(packed) * 8})
    condition.family = socket.AF_INET if remote.address.version == 4 else socket.AF_INET6
    body = bytes(ffi.buffer(condition, ffi.sizeof("struct inet_diag_hostcond"))) + packed
    operation = ffi.new("struct inet_diag_bc_op *")
    size = ffi.sizeof("struct inet_diag_bc_op") + len(body)
    operation.code, operation.yes, operation.no = lib.INET_DIAG_BC_D_COND, size, size + 4
    return bytes(ffi.buffer(operation)) + body


def _socket(protocol: int, message: Any) -> Socket:
    identity = message.id
    return Socket(
        protocol,
        message.idiag_family,
        message.idiag_state,
        identity.idiag_cookie[0] | identity.idiag_cookie[1] << 32,
        _endpoint(message.idiag_family, identity.idiag_src, identity.idiag_sport),
        _endpoint(message.idiag_family, identity.idiag_dst, identity.idiag_dport),
        message.idiag_uid,
        message.idiag_inode,
        bytes(ffi.buffer(ffi.addressof(identity))),
    )


def _endpoint(family: int, raw: Any, port: int) -> Endpoint:
    packed = bytes(ffi.buffer(raw))
    if family == socket.AF_INET:
        return Endpoint(IPv4Address(packed[:4]), socket.ntohs(port))
    address = IPv6Address(packed)
    return Endpoint(address.ipv4_mapped or address, socket.ntohs(port))
