"""A socket to the kernel's rtnetlink, for many requests in one datagram.

The kernel works through a datagram's requests before the call that sends it returns, one after the other, also when one
fails. It tells of failures by itself, so an acknowledgement is asked for with the last one only. A socket belongs to the
namespace it was made in for good, and may be used on any thread; `exchange` calls take turns.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import sys
import threading
from collections.abc import Mapping, Sequence

from meshd.errors import KernelError
from meshd.kernel.netns import SO_NETNS_COOKIE
from meshd.kernel.rtnetlink import NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, Message, attributes

_HEADER = struct.Struct("=IHHII")
_ERROR, _DONE = 2, 3
# Flags: of an answer; of a part of a table that changed while it was read, so that something may be missing.
_ACK_TLVS = 0x200
_DUMP_INTERRUPTED = 0x10
_ATTR_MSG = 1
# linux/netlink.h: options of SOL_NETLINK.
_SOL_NETLINK, _CAP_ACK, _EXT_ACK, _GET_STRICT_CHK = 270, 10, 11, 12
_SIOCGIFINDEX = 0x8933
_DATAGRAM_BYTES = 1 << 16
# Answers are there when the request was sent; without one this is a mistake of ours, and must not hold up all others.
_ANSWER_S = 30
_KERNEL = 0
# A table that changed is read again, so often.
_READINGS = 10
# Were all of them refused, this many answers still fit into the socket's buffer.
_MESSAGES_AT_ONCE = 64


class RouteSocket:
    """Made in the namespace of the calling thread."""

    def __init__(self) -> None:
        """Raises KernelError: no socket is to be had."""
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
            )
            self._socket.bind((0, 0))
            for option in (_CAP_ACK, _EXT_ACK, _GET_STRICT_CHK):
                self._socket.setsockopt(_SOL_NETLINK, option, 1)
            timeout = struct.pack("@ll", _ANSWER_S, 0)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
        except OSError as error:
            raise KernelError("open", "a netlink socket", error.errno or 0) from error
        self._sequence = 0
        self._turn = threading.Lock()

    def exchange(self, messages: Sequence[Message]) -> list[list[bytes]]:
        """What the kernel answers to each of ``messages``, as bodies of messages; all were tried, whatever some answered.

        Only the last may ask for a whole table.

        Raises:
            KernelError: the first that was refused; names its object.
        """
        answers: list[list[bytes]] = []
        refusal: KernelError | None = None
        with self._turn:
            for start in range(0, len(messages), _MESSAGES_AT_ONCE):
                some = messages[start : start + _MESSAGES_AT_ONCE]
                answered, refused = self._exchange(some)
                answers += answered
                refusal = refusal or _refusal(some, refused)
        if refusal is not None:
            raise refusal
        return answers

    def _exchange(self, messages: Sequence[Message]) -> tuple[list[list[bytes]], dict[int, tuple[int, str]]]:
        first = self._sequence + 1
        self._sequence += len(messages)
        try:
            self._socket.send(_datagram(messages, first))
            answers, refused, is_whole = self._answers(first, len(messages))
            for _ in range(_READINGS):
                if is_whole:
                    return answers, refused
                self._sequence += 1
                self._socket.send(_datagram(messages[-1:], self._sequence))
                [answers[-1]], _, is_whole = self._answers(self._sequence, 1)
        except OSError as error:
            raise KernelError("configure", messages[0].what, error.errno or 0) from error
        raise KernelError("read", messages[-1].what, errno.EINTR, "it changes faster than it can be read")

    def index(self, name: str) -> int:
        """The ifindex of link ``name``; 0: there is none."""
        try:
            request = struct.pack("16si20x", os.fsencode(name), 0)
            return int(struct.unpack_from("i", fcntl.ioctl(self._socket, _SIOCGIFINDEX, request), 16)[0])
        except OSError as error:
            if error.errno == errno.ENODEV:
                return 0
            raise KernelError("find", f"link {name}", error.errno or 0) from error

    def netns_cookie(self) -> int:
        """The number programs know this socket's namespace by."""
        return int.from_bytes(self._socket.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8), sys.byteorder)

    def close(self) -> None:
        """Gives the descriptor back."""
        self._socket.close()

    def __enter__(self) -> RouteSocket:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _answers(self, first: int, count: int) -> tuple[list[list[bytes]], dict[int, tuple[int, str]], bool]:
        """The third: whether nothing changed while it was read."""
        answers: list[list[bytes]] = [[] for _ in range(count)]
        refused: dict[int, tuple[int, str]] = {}
        is_whole = True
        while True:
            data, (sender, _) = self._socket.recvfrom(_DATAGRAM_BYTES)
            # Who may configure a pod's namespace may send to sockets in it, and is not the kernel.
            if sender != _KERNEL:
                continue
            at = 0
            while at + _HEADER.size <= len(data):
                length, kind, flags, sequence, _ = _HEADER.unpack_from(data, at)
                body = data[at + _HEADER.size : at + length]
                at += length + -length % 4
                position = sequence - first
                # Of an exchange that was given up: a signal came between its sending and its answers.
                if not 0 <= position < count:
                    continue
                is_whole = is_whole and not (flags & _DUMP_INTERRUPTED and kind != _ERROR)
                if kind in {_ERROR, _DONE}:
                    code, reason = _outcome(kind, flags, body)
                    if code:
                        refused[position] = code, reason
                    if position == count - 1:
                        return answers, refused, is_whole
                else:
                    answers[position].append(body)


def _refusal(messages: Sequence[Message], refused: Mapping[int, tuple[int, str]]) -> KernelError | None:
    for position, (code, reason) in sorted(refused.items()):
        if code not in messages[position].tolerated:
            return KernelError("configure", messages[position].what, code, reason)
    return None


def _datagram(messages: Sequence[Message], first: int) -> bytes:
    parts = []
    last = len(messages) - 1
    for position, message in enumerate(messages):
        flags = message.flags | NLM_F_REQUEST
        # A table ends with a message of its own, which is as good.
        if position == last and flags & NLM_F_DUMP != NLM_F_DUMP:
            flags |= NLM_F_ACK
        length = _HEADER.size + len(message.body)
        parts.append(_HEADER.pack(length, message.kind, flags, first + position, 0))
        parts.append(message.body + bytes(-length % 4))
    return b"".join(parts)


def _outcome(kind: int, flags: int, body: bytes) -> tuple[int, str]:
    """The errno, 0 for success, and the kernel's own words for it, if it has any."""
    code = -struct.unpack_from("=i", body)[0] if len(body) >= 4 else 0
    if code <= 0 or not flags & _ACK_TLVS:
        return max(code, 0), ""
    # Behind the number: the header of the request, without its body (_CAP_ACK); behind the end of a table nothing.
    start = 4 + (_HEADER.size if kind == _ERROR else 0)
    found = dict(attributes(body[start:]))
    return code, found.get(_ATTR_MSG, b"").rstrip(b"\0").decode(errors="replace")
