"""What the node's own stack needs so that pods are reached through it: forwarding, and the MTU of the way out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import structlog

from meshd.dataplane.pod_network.sysctls import Sysctls
from meshd.kernel.netlink import in_netns
from meshd.kernel.netns import Netns

log = structlog.get_logger(__name__)

FORWARDING = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}
DEFAULT_MTU = 1500


def enable(host: Netns, sysctls: Sysctls, versions: set[int]) -> None:
    """Forwarding is on for ``versions`` (4, 6), and routes that the node learnt from router advertisements stay.

    Raises:
        KernelError, JournalError: a sysctl cannot be written, or what it was cannot be remembered.
    """
    for version in sorted(versions):
        if host.read_sysctl(FORWARDING[version]) != "0":
            continue
        if version == 6:
            # Documentation/networking/ip-sysctl: 1 means "unless forwarding"; 2 is 1 without that.
            for name in host.run(_accepting_advertisements):
                sysctls.set(f"net/ipv6/conf/{name}/accept_ra", "2")
        sysctls.set(FORWARDING[version], "1")
        log.info("forwarding switched on", sysctl=FORWARDING[version])


def _accepting_advertisements() -> list[str]:
    found = Path("/proc/sys/net/ipv6/conf").glob("*/accept_ra")
    return [path.parent.name for path in found if path.read_text().strip() == "1"]


def why_off(host: Netns, versions: set[int]) -> str:
    """The sysctls that keep packets from being forwarded, as a sentence; empty: none."""
    off = [FORWARDING[each] for each in sorted(versions) if host.read_sysctl(FORWARDING[each]) == "0"]
    return f"the node does not forward: {', '.join(off)} is 0" if off else ""


def uplink_mtu(host: Netns) -> int:
    """The smallest MTU of the links with a default route; 1500 where there is none."""

    def look(route: Any) -> int:
        indexes = {
            item.get("oif")
            for family in (2, 10)
            for item in route.get_default_routes(family=family)
            if item.get("oif") is not None
        }
        mtus = [link.get("mtu") for link in route.get_links() if link["index"] in indexes]
        return min(mtus, default=DEFAULT_MTU)

    return in_netns(host, "uplinks", look)
