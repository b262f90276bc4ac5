"""Pods of this node that another network plugin connected. Pure.

Their interfaces are left as they are; services are translated for them, because the hooks act on the cgroup that all pods
are in. They become ours when they are recreated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from meshd.model import Address, Workload

# Named in one sentence; the rest is counted.
NAMED = 20


def pods_of_others(
    workloads: Iterable[Workload], source: str, is_ours: Callable[[Address], bool]
) -> list[Workload]:
    """Those to which ``source`` (the API server) gives an address and nothing of ours does, by name.

    ``is_ours``: whether an address is that of a pod of ours, or was until lately: the API server hears of both ends later.
    Pods of the host's network are none of a source's workloads.
    """
    found = [
        each
        for each in workloads
        if each.source == source and each.addresses and not any(map(is_ours, each.addresses))
    ]
    return sorted(found, key=str)


def sentence(found: list[Workload]) -> str:
    """What status says of them; empty: there are none."""
    if not found:
        return ""
    pods = list(map(str, found))
    more = f" and {len(pods) - NAMED} more" if len(pods) > NAMED else ""
    count = "1 pod" if len(pods) == 1 else f"{len(pods)} pods"
    return (
        f"{count} of another network plugin, services are translated for them and nothing else, until they are recreated "
        "(those to which all of the node's pods are on one link, a bridge, do not reach new pods here): "
        f"{', '.join(pods[:NAMED])}{more}"
    )
