"""What this machine offers meshd, without an agent: `meshd node look`, which `meshctl kube` runs on nodes beforehand.

Only what nobody but the machine itself can tell; what it means is judged where all nodes are seen (meshd/ctl/kube).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from meshd.errors import ConfigError, KernelError
from meshd.kernel import cgroup, features
from meshd.kernel.netlink import in_netns
from meshd.kernel.netns import Netns

MAIN_TABLE = 254
FAMILIES = (2, 10)
# What this build uses; the others are for features to come.
NEEDED_BY = frozenset({"socket_lb", "pod_network", "short_circuit", "dataplane"})
# Directories that kubelets make for pods, with either driver of cgroups.
PODS = ("kubepods*", "*/kubepods*")


def look(bpffs: Path) -> dict[str, Any]:
    """One JSON object; leaves nothing behind.

    ``refused``: why meshd cannot run at all, empty: it can. ``missing``: features that the kernel lacks, with ``reason`` and
    ``cost``. ``cgroups``: where version 2 is mounted (empty: nowhere), ``pods``: kubelets' pods are in it. ``links``: name
    and MTU of those with a default route. ``addresses``: {link, address/length, protocol}. ``routes``: {to, link, gateway,
    protocol} of the main table, without default ones.
    """
    # Any: JSON.
    said: dict[str, Any] = {"refused": "", "missing": [], **_cgroups()}
    try:
        features.require(bpffs)
        said["missing"] = [
            {"name": each.name, "reason": each.reason, "cost": each.cost}
            for each in features.probe()
            if not each.present and each.needed_by in NEEDED_BY
        ]
    except ConfigError as error:
        said["refused"] = str(error)
    except KernelError as error:
        said["refused"] = f"its kernel cannot be tried: {error}"
    with Netns.current() as here:
        return said | in_netns(here, "links and routes", _network)


def _cgroups() -> dict[str, Any]:
    try:
        mount = cgroup.find_mount()
    except ConfigError:
        return {"cgroups": "", "pods": False}
    return {"cgroups": str(mount), "pods": any(True for pattern in PODS for _ in mount.glob(pattern))}


def _network(route: Any) -> dict[str, Any]:  # Any: pyroute2 has no types
    links = {link["index"]: link for link in route.get_links()}
    names = {index: link.get("ifname") for index, link in links.items()}
    routes = [
        each
        for family in FAMILIES
        for each in route.get_routes(family=family, table=MAIN_TABLE)
        if each.get("oif") in names
    ]
    outwards = {each.get("oif") for each in routes if not each["dst_len"]}
    return {
        "links": [
            {"name": names[index], "mtu": link.get("mtu")}
            for index, link in links.items()
            if index in outwards
        ],
        "addresses": [
            {
                "link": names.get(each["index"], ""),
                # On a link between two, the first is the other's.
                "address": f"{each.get('local') or each.get('address')}/{each['prefixlen']}",
                "protocol": each.get("proto") or 0,
            }
            for each in route.get_addr()
        ],
        "routes": [
            {
                "to": f"{each.get('dst')}/{each['dst_len']}",
                "link": names[each.get("oif")],
                "gateway": each.get("gateway") or "",
                "protocol": each["proto"],
            }
            for each in routes
            if each["dst_len"]
        ],
    }
