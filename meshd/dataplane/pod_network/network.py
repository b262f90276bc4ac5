"""Pods' links on this node: made while a runtime waits, taken away together behind its back.

Deleting a veth pair waits until the kernel's readers are done with it, some 17 ms; sixty at once wait hardly longer. So a
detached pod is forgotten at once, and its link goes with the next sweep.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path

import structlog

from meshd.dataplane.pod_network import comparison, known_links, links, node_forwarding
from meshd.dataplane.pod_network.sysctls import Sysctls
from meshd.dataplane.pod_network.traffic_control import TrafficControl
from meshd.errors import KernelError
from meshd.kernel.netns import Netns, apart
from meshd.kernel.route_socket import RouteSocket
from meshd.model.attachment import Attachment, AttachmentKey, PodInterface
from meshd.model.workload import PodLink

log = structlog.get_logger(__name__)

# Pods that end together are swept together.
GATHER_S = 0.1
RETRY_S = 5.0
# An uplink's MTU is looked up again after this.
LOOK_S = 30.0


class PodNetwork:
    """`prepare` once, then anything; `run` sweeps until cancelled. ``versions``: families (4, 6) that pods have.

    ``remembered``: the file in which the node's own sysctls are kept. ``programs``: what puts programs on pods' links; None:
    pods are reached through the host's stack only. ``ports``: the range that these masquerade with, if they do.
    ``headroom``: bytes that a pod's packets leave free for what is put around them on their way.
    """

    def __init__(
        self,
        versions: set[int],
        remembered: Path,
        programs: TrafficControl | None = None,
        ports: tuple[int, int] | None = None,
        headroom: Callable[[], int] = lambda: 0,
    ) -> None:
        self._versions = versions
        self._ports = ports
        self._programs = programs
        self._links: dict[AttachmentKey, PodLink] = {}
        self._host = Netns.current()
        self._host_inode = self._host.inode()
        self._sysctls = Sysctls(remembered, self._host)
        self._route = RouteSocket()
        self._uplink_mtu = node_forwarding.DEFAULT_MTU
        self._headroom = headroom
        self._doomed: set[str] = set()
        self._changed = asyncio.Event()
        # Held while the doomed are deleted, so that one that comes back is not deleted again.
        self._sweeping = asyncio.Lock()

    async def prepare(self) -> None:
        """The node forwards, keeps ports for masquerading, and the MTU of its uplinks is known.

        Raises:
            KernelError, JournalError: a sysctl cannot be written, or what it was cannot be remembered.
        """
        await asyncio.to_thread(node_forwarding.enable, self._host, self._sysctls, self._versions)
        if self._programs is not None and self._ports is not None:
            await asyncio.to_thread(self._sysctls.reserve, *self._ports)
        elif self._programs is not None:
            await asyncio.to_thread(self._sysctls.put_back, reserved_only=True)
        self._uplink_mtu = await asyncio.to_thread(node_forwarding.uplink_mtu, self._host)

    @property
    def mtu(self) -> int:
        """Of pods' links."""
        return self._uplink_mtu - self._headroom()

    async def run(self) -> None:
        """Until cancelled. What is still to be swept then is found by the next start."""
        try:
            while True:
                await self._sweep()
                try:
                    async with asyncio.timeout(LOOK_S):
                        await self._changed.wait()
                except TimeoutError:
                    self._uplink_mtu = await asyncio.to_thread(node_forwarding.uplink_mtu, self._host)
                self._changed.clear()
                await asyncio.sleep(GATHER_S)
        finally:
            self._route.close()
            self._host.close()

    def why_no_pod(self, netns: str) -> str:
        """Why ``netns`` cannot be a pod's namespace, as a phrase; empty: it can."""
        found = _namespace_at(netns)
        if found is None:
            return "there is no such network namespace"
        if found.st_ino == self._host_inode:
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
        programs = self._programs
        if programs is None:
            await apart(partial(links.make, self._route, attachment, self.mtu))
        else:
            requests = partial(programs.requests, attachment)
            made = await apart(partial(links.make, self._route, attachment, self.mtu, requests))
            if attachment.via_stack:
                await asyncio.to_thread(self._attach_links, programs, attachment, made)
            self._links[attachment.key] = made
        return await self.interface(attachment)

    def _attach_links(self, programs: TrafficControl, attachment: Attachment, made: PodLink) -> None:
        try:
            programs.attach_links(attachment, made.ifindex)
        except KernelError:
            links.delete(self._route, links.ends(attachment.key).host_name)
            raise

    async def observe(self, attachment: Attachment) -> None:
        """Services are translated on the link that another plugin made, if it has an end on this node.

        Raises:
            KernelError: the namespace is not there, or the programs cannot be attached.
        """
        if self._programs is not None:
            found = await asyncio.to_thread(self._observe, attachment)
            if found is not None:
                self._links[attachment.key] = found

    def _observe(self, attachment: Attachment) -> PodLink | None:
        found = known_links.observed(self._route, attachment)
        if found is not None and self._programs is not None:
            self._programs.attach_links(attachment, found.ifindex)
        return found

    def link(self, attachment: Attachment) -> PodLink | None:
        """What programs carry of it; None: nothing."""
        return self._links.get(attachment.key)

    async def interface(self, attachment: Attachment) -> PodInterface:
        """What :meth:`attach` answers."""
        ends = links.ends(attachment.key)
        return PodInterface(ends.host_name, ends.host_mac, ends.mac, self.mtu, links.GATEWAYS)

    def forget(self, key: AttachmentKey) -> None:
        """The pair goes with the next sweep, and with it its programs."""
        self._links.pop(key, None)
        self._doomed.add(links.ends(key).host_name)
        self._changed.set()

    async def wrong(self, attachment: Attachment) -> Sequence[str]:
        """In what the kernel differs from what was made, as phrases."""
        return await asyncio.to_thread(self._wrong, attachment)

    def _wrong(self, attachment: Attachment) -> Sequence[str]:
        found = comparison.wrong(self._route, attachment)
        link = self._links.get(attachment.key)
        if found or link is None or self._programs is None:
            return found
        absent = self._programs.missing(link.ifindex, by_link=link.via_stack or link.observed)
        return [f"its link {link.ifindex} has no program {name}" for name in absent]

    async def alive(self, known: Callable[[], Iterable[Attachment]]) -> Sequence[Attachment]:
        """Those of ``known()`` whose namespace and, if it is ours, link are there. Links of nobody known go soon."""
        there = await asyncio.to_thread(links.attached, self._route)
        # Asked after the look: whoever has a link was known before he got it.
        attachments = list(known())
        strangers = there.keys() - {links.ends(each.key).host_name for each in attachments}
        if strangers - self._doomed:
            log.info("links of no known pod are deleted", links=len(strangers))
            self._doomed |= strangers
            self._changed.set()
        alive = [
            each
            for each in attachments
            if is_there(each.netns) and (each.chained or links.ends(each.key).host_name in there)
        ]
        await asyncio.to_thread(self._find, [each for each in alive if each.key not in self._links], there)
        return alive

    def _find(self, attachments: Sequence[Attachment], there: Mapping[str, int]) -> None:
        """The links of what an earlier agent attached: their programs are brought up to date by `TrafficControl.run`."""
        if self._programs is None:
            return
        for each in attachments:
            try:
                name = links.ends(each.key).host_name
                ours = known_links.ours(each, there[name]) if not each.chained else None
                found = ours or known_links.observed(self._route, each)
            except KernelError as error:
                log.warning("link of a pod cannot be found", attachment=str(each), reason=str(error))
                continue
            if found is not None:
                self._links[each.key] = found

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
    return _namespace_at(netns) is not None


def _namespace_at(netns: str) -> os.stat_result | None:
    try:
        found = os.stat(netns)  # noqa: PTH116 - asked with every ADD, and a Path is not free
    except OSError:
        return None
    return found if found.st_dev == namespaces_device() else None


@cache
def namespaces_device() -> int:
    """The file system that all namespaces of this machine are in."""
    return Path("/proc/self/ns/net").stat().st_dev
