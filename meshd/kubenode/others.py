"""Pods of this node that another network plugin connected. Pure.

Their interfaces are left as they are; services are translated for them, because the hooks act on the cgroup that all pods
are in. They become ours when they are recreated.
"""

from __future__ import annotations

from collections.abc import Iterable

from meshd.model import Workload
from meshd.model.attachment import CNI

# Named in one sentence; the rest is counted.
NAMED = 20


def pods_of_others(workloads: Iterable[Workload], source: str) -> list[str]:
    """NAMESPACE/NAME of those that ``source`` (the API server) gives an address and no runtime of ours does, sorted.

    Pods of the host's network are none of a source's workloads.
    """
    known = list(workloads)
    ours = {address for each in known if each.source == CNI for address in each.addresses}
    return sorted(
        str(each)
        for each in known
        if each.source == source and each.addresses and ours.isdisjoint(each.addresses)
    )


def sentence(pods: list[str]) -> str:
    """What status says of them; empty: there are none."""
    if not pods:
        return ""
    more = f" and {len(pods) - NAMED} more" if len(pods) > NAMED else ""
    count = "1 pod" if len(pods) == 1 else f"{len(pods)} pods"
    return (
        f"{count} of another network plugin, services are translated for them and nothing else, until they are recreated: "
        f"{', '.join(pods[:NAMED])}{more}"
    )
