"""Workloads: pods attached to this node."""

from __future__ import annotations

from dataclasses import dataclass

from meshd.model.address import Address


@dataclass(frozen=True, slots=True)
class PodLink:
    """An interface of a pod as the node's programs see it. ``ifindex`` is the host's end, ``mac`` the link address of the
    pod's.

    ``via_stack``: the host's stack does something to its packets. ``observed``: another plugin made it.
    """

    ifindex: int
    netns_cookie: int
    mac: str
    host_mac: str
    addresses: tuple[Address, ...]
    via_stack: bool = False
    observed: bool = False


IDENTITIES = "identities"
"""The source of identities."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Of the pod ``namespace/name`` of this node: the ``number`` that all pods of its cluster with such labels have."""

    namespace: str
    name: str
    number: int
    source: str = IDENTITIES

    @property
    def key(self) -> tuple[str, str, str]:
        return self.source, self.namespace, self.name

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Workload:
    """A pod of this node.

    ``netns`` is a path that can be opened (``/run/netns/x``, ``/proc/PID/ns/net``); empty: its source does not know.
    ``socket_lb`` None: what the pod's namespace says, else translated. ``short_circuit`` None: what the namespace says, else
    the configuration. ``links``: those that this node's programs carry. ``labels`` of the pod, by key; None: its source does
    not know them.
    """

    namespace: str
    name: str
    source: str
    netns: str
    addresses: tuple[Address, ...] = ()
    socket_lb: bool | None = None
    short_circuit: bool | None = None
    links: tuple[PodLink, ...] = ()
    labels: tuple[tuple[str, str], ...] | None = None
    service_account: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.source, self.namespace, self.name

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"
