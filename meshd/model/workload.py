"""Workloads: pods attached to this node."""

from __future__ import annotations

from dataclasses import dataclass

from meshd.model.address import Address


@dataclass(frozen=True, slots=True)
class Workload:
    """A pod of this node.

    ``netns`` is a path that can be opened (``/run/netns/x``, ``/proc/PID/ns/net``).
    ``socket_lb`` None: what the pod's namespace says, else translated.
    """

    namespace: str
    name: str
    source: str
    netns: str
    addresses: tuple[Address, ...] = ()
    socket_lb: bool | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        return self.source, self.namespace, self.name

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"
