"""Pods' links on this node: made while a runtime waits, taken away together behind its back.

Deleting a veth pair waits until the kernel's readers are done with it, some 17 ms; sixty at once wait hardly longer. So a
detached pod is forgotten at once, and its link goes with the next sweep.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import structlog

from meshd.dataplane.pod_network import comparison, links, node_forwarding
from meshd.errors import KernelError
from meshd.kernel.netns import Netns
from meshd.kernel.route_socket import RouteSocket
from meshd.kernel.rtnetlink import Message
from meshd.model.attachment import Attachment, AttachmentKey, PodInterface

log = structlog.get_logger(__name__)

# Pods that end together are swept together.
GATHER_S = 0.1
RETRY_S = 5.0
# An uplink's MTU is looked up again after this.
LOOK_S = 30.0


# What the host's end of a pod's link is given besides routes, by its ifindex: requests that go with them.
More = Callable[[Attachment, int], Sequence[Message]]


class PodNetwork:
    """`prepare` once, then anything; `run` sweeps until cancelled. ``versions``: families (4, 6) that pods have."""

    def __init__(self, versions: set[int], more: More = lambda _attachment, _index: ()) -> None:
        self._versions = versions
        self._more = more
        self._host = Netns.current()
        self._route = RouteSocket()
        self._mtu = node_forwarding.DEFAULT_MTU
        self._doomed: set[str] = set()
        self._changed = asyncio.Event()
        # Held while the doomed are deleted, so that one that comes back is not deleted again.
        self._sweeping = asyncio.Lock()

    async def prepare(self) -> None:
        """The node forwards, and the MTU of its uplinks is known.

        Raises:
            KernelError: a sysctl cannot be written.
        """
        await asyncio.to_thread(node_forwarding.enable, self._host, self._versions)
        self._mtu = await asyncio.to_thread(node_forwarding.uplink_mtu, self._host)

    async def run(self) -> None:
        """Until cancelled. What is still to be swept then is found by the next start."""
        try:
            while True:
                await self._sweep()
                try:
                    async with asyncio.timeout(LOOK_S):
                        await self._changed.wait()
                except TimeoutError:
                    self._mtu = await asyncio.to_thread(node_forwarding.uplink_mtu, self._host)
                self._changed.clear()
                await asyncio.sleep(GATHER_S)
        finally:
            self._route.close()
            self._host.close()

    def why_no_pod(self, netns: str) -> str:
        """Why ``netns`` cannot be a pod's namespace, as a phrase; empty: it can."""
        if not is_there(netns):
            return "there is no such network namespace"
        if os.path.samestat(Path(netns).stat(), os.fstat(self._host.fd)):
            return "it is the node's own network namespace"
        return ""

    async def attach(self, attachment: Attachment) -> PodInterface:
        """The pair is there as ``attachment`` says; an earlier one of the same container and interface is not.

        Raises:
            KernelError: refused; nothing is left of it.
        """
        name = links.ends(attachment.key).host_name
        if name in self._doomed:
            async with self._sweeping:
                self._doomed.discard(name)
        more = partial(self._more, attachment)
        await asyncio.to_thread(links.make, self._route, attachment, self._mtu, more)
        return await self.interface(attachment)

    async def interface(self, attachment: Attachment) -> PodInterface:
        """What :meth:`attach` answers."""
        ends = links.ends(attachment.key)
        return PodInterface(ends.host_name, ends.host_mac, ends.mac, self._mtu, links.GATEWAYS)

    def forget(self, key: AttachmentKey) -> None:
        """The pair goes with the next sweep."""
        self._doomed.add(links.ends(key).host_name)
        self._changed.set()

    async def wrong(self, attachment: Attachment) -> Sequence[str]:
        """In what the kernel differs from what was made, as phrases."""
        return await asyncio.to_thread(comparison.wrong, self._route, attachment)

    async def alive(self, known: Callable[[], Iterable[Attachment]]) -> Sequence[Attachment]:
        """Those of ``known()`` whose namespace and, if it is ours, link are there. Links of nobody known go soon."""
        there = set(await asyncio.to_thread(links.attached, self._route))
        # Asked after the look: whoever has a link was known before he got it.
        attachments = list(known())
        strangers = there - {links.ends(each.key).host_name for each in attachments}
        if strangers - self._doomed:
            log.info("links of no known pod are deleted", links=len(strangers))
            self._doomed |= strangers
            self._changed.set()
        return [
            each
            for each in attachments
            if is_there(each.netns) and (each.chained or links.ends(each.key).host_name in there)
        ]

    async def why_limited(self) -> str:
        """Why pods cannot be reached from everywhere; empty: they can."""
        return await asyncio.to_thread(node_forwarding.why_off, self._host, self._versions)

    async def _sweep(self) -> None:
        async with self._sweeping:
            names = sorted(self._doomed)
            try:
                await asyncio.to_thread(links.doom, self._route, names)
            except KernelError as error:
                log.warning("links of pods that are gone cannot be deleted, retrying", reason=str(error))
                asyncio.get_running_loop().call_later(RETRY_S, self._changed.set)
                return
            self._doomed.difference_update(names)


def is_there(netns: str) -> bool:
    """Whether ``netns`` is a network namespace still: a file that is none stays when a mount is taken away."""
    try:
        return Path(netns).stat().st_dev == Path("/proc/self/ns/net").stat().st_dev
    except OSError:
        return False
