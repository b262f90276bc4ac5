"""What one network namespace calls another: programs look up sockets there by that number (linux/net_namespace.h)."""

from __future__ import annotations

import errno
import struct

from meshd.kernel import rtnetlink as rt
from meshd.kernel.netns import Netns
from meshd.kernel.route_socket import RouteSocket
from meshd.kernel.rtnetlink import Message

_RTM_NEWNSID, _RTM_GETNSID = 88, 90
_NETNSA_NSID, _NETNSA_FD = 1, 3
_NONE = -1


def netns_id(route: RouteSocket, netns: Netns) -> int:
    """The number of ``netns`` in the namespace of ``route``, where it is given one if it has none. It is never negative.

    Raises:
        KernelError: refused.
    """
    found = _asked(route, netns)
    if found == _NONE:
        body = _body(netns) + rt.attribute(_NETNSA_NSID, struct.pack("=i", _NONE))
        # Somebody may have given it one meanwhile: the kernel does so where links lead there.
        route.exchange([Message(f"id of {netns.name}", _RTM_NEWNSID, 0, body, (errno.EEXIST,))])
        found = _asked(route, netns)
    return found


def _asked(route: RouteSocket, netns: Netns) -> int:
    [answers] = route.exchange([Message(f"id of {netns.name}", _RTM_GETNSID, 0, _body(netns))])
    found = dict(rt.attributes(answers[0][4:]))
    return int(struct.unpack("=i", found[_NETNSA_NSID])[0])


def _body(netns: Netns) -> bytes:
    family = struct.pack("=Bxxx", 0)
    return family + rt.attribute(_NETNSA_FD, rt.number(netns.fd))
