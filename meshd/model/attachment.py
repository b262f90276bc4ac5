"""An interface that a container runtime asked for, and the workloads that follow from all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from meshd.model.address import Address
from meshd.model.workload import PodLink, Workload

# The source of the workloads that a runtime made known.
CNI = "cni"

# Container and interface: what the CNI specification names an attachment by.
AttachmentKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Attachment:
    """What an ADD made, or was told of. ``netns`` is a path; ``namespace`` and ``name`` are the pod's.

    ``chained``: another plugin made interface and addresses, they are not ours to take away. ``via_stack``: another plugin
    after us does something to its packets on the host's end of the link (a bandwidth limit), so nothing may go around it.
    """

    network: str
    container_id: str
    ifname: str
    netns: str
    namespace: str
    name: str
    addresses: tuple[Address, ...] = ()
    chained: bool = False
    via_stack: bool = False

    @property
    def key(self) -> AttachmentKey:
        return self.container_id, self.ifname

    def __str__(self) -> str:
        return f"interface {self.ifname} of container {self.container_id}"


@dataclass(frozen=True, slots=True)
class PodInterface:
    """Both ends of a pod's veth pair. ``gateways``: 4 or 6 -> address; ``mtu`` in bytes."""

    host_name: str
    host_mac: str
    mac: str
    mtu: int
    gateways: Mapping[int, str]


def workloads(
    attachments: Iterable[Attachment], link_of: Callable[[Attachment], PodLink | None] = lambda _: None
) -> dict[tuple[str, str], Workload]:
    """(namespace, name) -> the workload, from ``attachments`` in the order in which they were made. ``link_of``: the link
    that programs carry, if they do.

    A pod whose sandbox is made anew has two containers for a while: the newer one is the pod. Its interfaces count together.
    """
    found: dict[tuple[str, str], tuple[str, Workload]] = {}
    for each in attachments:
        pod = each.namespace, each.name
        container, before = found.get(pod, ("", None))
        if container != each.container_id:
            before = None
        addresses = tuple(dict.fromkeys((*(before.addresses if before else ()), *each.addresses)))
        link = link_of(each)
        links = (*(before.links if before else ()), *((link,) if link else ()))
        made = Workload(each.namespace, each.name, CNI, each.netns, addresses, links=links)
        found[pod] = each.container_id, made
    return {pod: workload for pod, (_, workload) in found.items()}
