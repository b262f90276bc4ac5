"""What the plugin needs done in the kernel. It may not do it: the agent, which knows all parts, hands it those that can."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from meshd.model import Address
from meshd.model.attachment import Attachment, AttachmentKey, PodInterface
from meshd.model.workload import PodLink


class PodRows(Protocol):
    """Rows of pods in the maps. ``pod`` is `NAMESPACE/NAME`. Errors of the kernel are KernelError."""

    def wrong(self, pod: str) -> Sequence[str]:
        """In what the rows of ``pod`` differ from what is wanted, as phrases."""
        ...

    def mend(self, pod: str) -> None:
        """They differ no more."""
        ...

    def released(self, address: Address) -> None:
        """No pod has ``address`` any more: what was remembered of it is forgotten soon."""
        ...

    async def collect(self) -> Sequence[str]:
        """What is nobody's is gone; what failed, as phrases."""
        ...


class PodNetwork(Protocol):
    """Pods' links on this node. Every method may be repeated. Errors of the kernel are KernelError."""

    def why_no_pod(self, netns: str) -> str:
        """Why ``netns`` cannot be a pod's namespace, as a phrase; empty: it can."""
        ...

    async def attach(self, attachment: Attachment) -> PodInterface:
        """The interface is there as ``attachment`` says; an earlier one of the same container and name is not."""
        ...

    async def observe(self, attachment: Attachment) -> None:
        """Another plugin made the interface: what is ours to do for it is done."""
        ...

    def link(self, attachment: Attachment) -> PodLink | None:
        """What programs carry of the interface; None: nothing."""
        ...

    def forget(self, key: AttachmentKey) -> None:
        """The interface is not wanted any more; it goes soon."""
        ...

    async def wrong(self, attachment: Attachment) -> Sequence[str]:
        """In what the kernel differs from what an ADD of ``attachment`` made (or was told of), as phrases."""
        ...

    async def interface(self, attachment: Attachment) -> PodInterface:
        """What :meth:`attach` would answer."""
        ...

    async def alive(self, known: Callable[[], Iterable[Attachment]]) -> Sequence[Attachment]:
        """Those of ``known()`` whose namespace and, if it is ours, link are there. Links of nobody known go soon."""
        ...

    async def why_limited(self) -> str:
        """Why pods that are there cannot be reached from everywhere; empty: they can."""
        ...
