"""A vxlan device whose packets say themselves where they go (collect metadata). Pure, as `rtnetlink.py`.

Layouts and numbers are those of linux/if_link.h.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

from meshd.kernel import rtnetlink as rt
from meshd.kernel.rtnetlink import Message

_LINKINFO, _INFO_KIND, _INFO_DATA = 18, 1, 2
_LEARNING, _PORT, _COLLECT_METADATA = 7, 15, 25
_NOARP = 0x80


@dataclass(frozen=True, slots=True)
class VxlanDevice:
    """``index`` 0: not made yet. ``port``: UDP, of this end and of others. ``is_external``: it collects metadata."""

    name: str
    port: int
    mtu: int
    index: int = 0
    is_external: bool = True
    is_up: bool = True


def add_vxlan(device: VxlanDevice) -> Message:
    """Makes ``device``, up. Nobody is asked for link addresses on it: where a packet goes is in its tunnel key."""
    data = rt.attribute(_COLLECT_METADATA, b"\1") + rt.attribute(_LEARNING, b"\0")
    data += rt.attribute(_PORT, struct.pack("!H", device.port))
    info = rt.attribute(_INFO_KIND, b"vxlan") + rt.attribute(_INFO_DATA, data)
    flags = rt.IFF_UP | _NOARP
    body = rt.LINK.pack(socket.AF_UNSPEC, 0, 0, flags, flags)
    body += rt.attribute(rt.IFLA_IFNAME, rt.text(device.name)) + rt.attribute(
        rt.IFLA_MTU, rt.number(device.mtu)
    )
    body += rt.attribute(_LINKINFO, info)
    return Message(f"link {device.name}", rt.RTM_NEWLINK, rt.NLM_F_CREATE | rt.NLM_F_EXCL, body)


def set_vxlan(device: VxlanDevice) -> Message:
    """Sets the device of that index up, with ``device.mtu``."""
    flags = rt.IFF_UP | _NOARP
    body = rt.LINK.pack(socket.AF_UNSPEC, 0, device.index, flags, flags)
    return Message(
        f"link {device.name}", rt.RTM_NEWLINK, 0, body + rt.attribute(rt.IFLA_MTU, rt.number(device.mtu))
    )


def vxlan_of(answer: bytes) -> VxlanDevice | None:
    """An answer to `rtnetlink.get_link`; None: it is another kind of device."""
    _, _, index, flags, _ = rt.LINK.unpack_from(answer)
    found = dict(rt.attributes(answer[rt.LINK.size :]))
    info = dict(rt.attributes(found.get(_LINKINFO, b"")))
    if info.get(_INFO_KIND, b"").rstrip(b"\0") != b"vxlan":
        return None
    data = dict(rt.attributes(info.get(_INFO_DATA, b"")))
    return VxlanDevice(
        found.get(rt.IFLA_IFNAME, b"").rstrip(b"\0").decode(),
        struct.unpack("!H", data.get(_PORT, b"\0\0"))[0],
        rt.value(found.get(rt.IFLA_MTU)),
        index,
        data.get(_COLLECT_METADATA, b"\0")[:1] == b"\1",
        bool(flags & rt.IFF_UP) and bool(flags & _NOARP),
    )
