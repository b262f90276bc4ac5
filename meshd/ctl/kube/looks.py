"""What a node says of itself (`meshd node look`), as values. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network, ip_interface, ip_network
from typing import Any


@dataclass(frozen=True, slots=True)
class Missing:
    """A feature that the kernel lacks, and what that costs."""

    name: str
    cost: str


@dataclass(frozen=True, slots=True)
class SeenAddress:
    """An address of the node itself. ``protocol``: who gave it to it (linux/if_addr.h); 0: nobody says."""

    link: str
    address: IPv4Interface | IPv6Interface
    protocol: int = 0


@dataclass(frozen=True, slots=True)
class SeenRoute:
    """``gateway``: empty where the destination is on the link; ``protocol``: who made it (rtnetlink)."""

    to: IPv4Network | IPv6Network
    link: str
    gateway: str = ""
    protocol: int = 0


@dataclass(frozen=True, slots=True)
class Look:
    """``refused``: why meshd cannot run there; ``pods``: kubelets' pods are in cgroups of version 2; ``mtus``: of links
    with a default route."""

    refused: str = ""
    missing: tuple[Missing, ...] = ()
    pods: bool = True
    mtus: tuple[int, ...] = (1500,)
    addresses: tuple[SeenAddress, ...] = ()
    routes: tuple[SeenRoute, ...] = ()


def parse(said: Mapping[str, Any]) -> Look:  # Any: JSON
    """What meshd/agent/machine.py prints.

    Raises:
        ValueError: it is something else.
    """
    try:
        return Look(
            refused=said["refused"],
            missing=tuple(Missing(each["name"], each["cost"]) for each in said["missing"]),
            pods=said["pods"],
            mtus=tuple(each["mtu"] for each in said["links"]),
            addresses=tuple(
                SeenAddress(each["link"], ip_interface(each["address"]), each["protocol"])
                for each in said["addresses"]
            ),
            routes=tuple(
                SeenRoute(ip_network(each["to"]), each["link"], each["gateway"], each["protocol"])
                for each in said["routes"]
            ),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"no look at a node: {error!r}") from error
