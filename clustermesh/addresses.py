"""IP addresses as they stand in records: parsed at the edge, written the way Go writes them."""

from __future__ import annotations

import base64
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def parse(text: str) -> Address:
    """The address that ``text`` is.

    ValueError with the reason if it is none or has an IPv6 zone, which means something on one host only.
    """
    if "%" in text:
        raise ValueError(f"{text[:80]!r} has an IPv6 zone")
    if len(text) > 45:
        raise ValueError(f"{text[:45]!r}... is not an IP address")
    return ip_address(text)


def to_text(address: Address) -> str:
    """``address`` as Go writes it; an IPv4 address inside IPv6 keeps its dots."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return f"::ffff:{address.ipv4_mapped}"
    return str(address)


def mask_to_text(network: Network) -> str:
    """The mask as base64 of its bytes, which is how Go writes a byte slice ("////AA==" is /24)."""
    return base64.b64encode(network.netmask.packed).decode()


def parse_network(address_text: str, mask_text: str) -> Network:
    """The network; ValueError if address, mask or their lengths do not fit together."""
    address = parse(address_text)
    mask = base64.b64decode(mask_text, validate=True)
    bits = int.from_bytes(mask, "big")
    width = len(mask) * 8
    prefix = bits.bit_count()
    if len(mask) != address.max_prefixlen // 8 or bits != ((1 << prefix) - 1) << (width - prefix):
        raise ValueError(f"{mask_text[:40]!r} is not a mask for {address_text}")
    if isinstance(address, IPv4Address):
        return IPv4Network((address, prefix), strict=False)
    return IPv6Network((address, prefix), strict=False)
