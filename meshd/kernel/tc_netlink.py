"""Classic traffic control, encoded for `route_socket.py`: the clsact qdisc and BPF filters that decide by themselves.

On a pod's link they are made in the same datagram as its routes, half a millisecond each. A tcx link does the same, but
attaching one waits until all readers of the device are done: 16 ms on a kernel 6.18, three times what an ADD may take.
Layouts and numbers are those of linux/pkt_sched.h, pkt_cls.h and tc_act/tc_bpf.h.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from dataclasses import dataclass

from meshd.kernel.rtnetlink import (
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    Message,
    attribute,
    attributes,
    number,
    text,
)

# A filter's parent: which way packets go, seen from the device.
INGRESS, EGRESS = 0xFFFFFFF2, 0xFFFFFFF3

_RTM_NEWQDISC, _RTM_NEWTFILTER, _RTM_DELTFILTER, _RTM_GETTFILTER = 36, 44, 45, 46
_CLSACT, _CLSACT_HANDLE = 0xFFFFFFF1, 0xFFFF0000
_TCA_KIND, _TCA_OPTIONS = 1, 2
_TCA_BPF_FD, _TCA_BPF_NAME, _TCA_BPF_FLAGS, _TCA_BPF_ID = 6, 7, 8, 11
_ACT_DIRECT = 1
_ETH_P_ALL = 3
_TRAFFIC = struct.Struct("=BxxxiIII")


@dataclass(frozen=True, slots=True)
class FilterAt:
    """Where a filter is: fixed, so that one is replaced in place. ``priority`` 1..65535, the lowest goes first."""

    index: int
    parent: int
    priority: int
    handle: int = 1


def add_clsact(index: int) -> Message:
    """A clsact qdisc on a device; one that is there is left."""
    body = _TRAFFIC.pack(socket.AF_UNSPEC, index, _CLSACT_HANDLE, _CLSACT, 0)
    body += attribute(_TCA_KIND, text("clsact"))
    what = f"clsact qdisc of link {index}"
    return Message(what, _RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, body, tolerated=(errno.EEXIST,))


def replace_filter(at: FilterAt, program: int, name: str) -> Message:
    """The BPF program with descriptor ``program`` as a filter whose answer is the verdict, instead of the one there.

    ``name`` is what `tc filter show` says.
    """
    options = attribute(_TCA_BPF_FD, number(program)) + attribute(_TCA_BPF_NAME, text(name))
    options += attribute(_TCA_BPF_FLAGS, number(_ACT_DIRECT))
    body = _head(at) + attribute(_TCA_KIND, text("bpf")) + attribute(_TCA_OPTIONS, options)
    return Message(f"filter {name} of link {at.index}", _RTM_NEWTFILTER, NLM_F_CREATE, body)


def delete_filter(at: FilterAt) -> Message:
    """Takes a filter away; absent is no error, and neither is a device that is gone."""
    body = _head(at) + attribute(_TCA_KIND, text("bpf"))
    gone = (errno.ENOENT, errno.ENODEV, errno.EINVAL)
    return Message(f"filter of link {at.index}", _RTM_DELTFILTER, 0, body, tolerated=gone)


def get_filter(at: FilterAt) -> Message:
    """Asks for a filter; `program_id` reads the answer. No answer: there is none."""
    body = _head(at) + attribute(_TCA_KIND, text("bpf"))
    gone = (errno.ENOENT, errno.ENODEV, errno.EINVAL)
    return Message(f"filter of link {at.index}", _RTM_GETTFILTER, 0, body, tolerated=gone)


def get_filters(index: int, parent: int) -> Message:
    """Asks for all filters of a device in one direction."""
    body = _TRAFFIC.pack(socket.AF_UNSPEC, index, 0, parent, 0)
    return Message(f"filters of link {index}", _RTM_GETTFILTER, NLM_F_DUMP, body)


def program_id(answer: bytes) -> int:
    """The kernel's id of the program of a filter; 0 where it is no BPF filter."""
    outer = dict(attributes(answer[_TRAFFIC.size :]))
    if outer.get(_TCA_KIND) != text("bpf"):
        return 0
    inner = dict(attributes(outer.get(_TCA_OPTIONS, b"")))
    return int.from_bytes(inner.get(_TCA_BPF_ID, b""), sys.byteorder)


def _head(at: FilterAt) -> bytes:
    information = at.priority << 16 | socket.htons(_ETH_P_ALL)
    return _TRAFFIC.pack(socket.AF_UNSPEC, at.index, at.handle, at.parent, information)
