"""One form of an IP address everywhere: 16 bytes, IPv4 as ::ffff:a.b.c.d.

It is the form the kernel maps hold, so v4, v6 and v4-mapped sockets share one lookup and no code is written twice.
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address
from typing import NewType

Address = NewType("Address", bytes)

V4_PREFIX = b"\0" * 10 + b"\xff\xff"


def parse_address(text: str) -> Address:
    """The 16 bytes of ``text``, an IPv4 or IPv6 address without zone.

    Raises:
        ValueError: ``text`` is no address, or carries a zone (``fe80::1%eth0``).
    """
    try:
        if ":" in text:
            return Address(socket.inet_pton(socket.AF_INET6, text))
        return Address(V4_PREFIX + socket.inet_pton(socket.AF_INET, text))
    except OSError:
        raise ValueError(f"{text!r} is not an IP address") from None


def is_ipv4(address: Address) -> bool:
    """Whether ``address`` is an IPv4 (or v4-mapped) one."""
    return address.startswith(V4_PREFIX)


def format_address(address: Address) -> str:
    """How people write ``address``; v4-mapped ones as IPv4."""
    if is_ipv4(address):
        return socket.inet_ntop(socket.AF_INET, address[12:])
    return socket.inet_ntop(socket.AF_INET6, address)


def format_endpoint(address: Address, port: int) -> str:
    """``10.0.0.1:80`` or ``[fd00::1]:80``."""
    text = format_address(address)
    return f"{text}:{port}" if is_ipv4(address) else f"[{text}]:{port}"


def to_ip(address: Address) -> IPv4Address | IPv6Address:
    """``address`` as the standard library has it."""
    return IPv4Address(address[12:]) if is_ipv4(address) else IPv6Address(address)


def from_ip(ip: IPv4Address | IPv6Address) -> Address:
    """The inverse of :func:`to_ip`."""
    return Address(V4_PREFIX + ip.packed if ip.version == 4 else ip.packed)
