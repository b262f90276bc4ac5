"""Addresses as values, for comparisons with networks."""

from __future__ import annotations

import ipaddress


def address(text: str) -> ipaddress.IPv4Address:
    return ipaddress.IPv4Address(text)
