"""Keeps the programs of the pod network where they belong: on pods' links, uplinks and the tunnel device.

A start replaces all programs in place, and only when the rows that they read are written: a pod that is not in the maps
could not send. What cannot be attached is named and tried again; nothing that is there is taken off for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from meshd.config import Config
from meshd.dataplane.devices import TUNNEL_DEVICE, Devices
from meshd.dataplane.pod_network import device_links, device_watch, filters, uplinks
from meshd.dataplane.pod_network.places import (
    EXPIRE,
    FROM_OUTSIDE,
    ORDER,
    POD,
    TUNNEL,
    UPLINK,
    Place,
    in_order,
)
from meshd.dataplane.pod_network.rows import KERNEL_MAPS, MAPS
from meshd.dataplane.takeover import Takeover
from meshd.errors import KernelError, RowsFailed
from meshd.kernel.links import Link
from meshd.kernel.program import Program
from meshd.kernel.route_socket import RouteSocket
from meshd.kernel.rtnetlink import Message
from meshd.model.attachment import CNI, Attachment
from meshd.state import Mesh

log = structlog.get_logger(__name__)

# Changes of devices come in bursts.
GATHER_S = 0.1
NO_TCX = "the kernel has no tcx, and a filter cannot be where another plugin has its own queueing"


@dataclass(frozen=True, slots=True)
class Target:
    """A device that shall have the programs of a place. ``by_link``: as tcx links, else as filters."""

    index: int
    name: str
    place: Place
    by_link: bool


class TrafficControl:
    """`run` in the node's namespace. ``programs``: those that are loaded; ``takeover``: flows that another build's programs
    carry; ``has_tcx``: the kernel knows such links. ``rerouted`` is called when the host's routes have changed."""

    def __init__(
        self,
        config: Config,
        mesh: Mesh,
        devices: Devices,
        programs: Mapping[str, Program],
        pins: Path,
        takeover: Takeover,
        *,
        has_tcx: bool,
        rerouted: Callable[[], None] = lambda: None,
    ) -> None:
        self._config = config
        self._mesh = mesh
        self._devices = devices
        self._programs = programs
        self._pins = pins
        self._takeover = takeover
        self._has_tcx = has_tcx
        self._rerouted = rerouted
        self._route = RouteSocket()
        self._changed = asyncio.Event()
        # Whether every device has its programs, but for those below: device -> why it has none.
        self.is_on = False
        self.without: dict[str, str] = {}
        # How many devices had lost programs and were given them again.
        self.repaired = 0
        # Programs of another build that carry what ours do not know yet.
        self._behind: list[Link] = []
        # Ifindexes of devices that had theirs at the last look, or since.
        self._complete: set[int] = set()

    async def run(self) -> None:
        """Until cancelled; what is attached stays."""
        watch = uplinks.Watch(self._changed, self._rerouted)
        try:
            await self._look()
            await self._rows_are_written()
            await self._take_over()
            self.is_on = True
            log.info("programs carry pods' packets", devices=len(list(self._targets())))
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._config.audit_interval_s):
                        await self._changed.wait()
                await asyncio.sleep(GATHER_S)
                self._changed.clear()
                try:
                    await self._look()
                    await self._take_over()
                except KernelError as error:
                    log.warning("devices cannot be looked at, tried again", reason=str(error))
        finally:
            for link in self._behind:
                link.close()
            watch.close()
            self._route.close()

    def requests(self, attachment: Attachment, index: int) -> list[Message]:
        """What puts the programs on the host's end of a pod's link, in the same datagram as its routes."""
        if attachment.via_stack or attachment.chained:
            return []
        self._complete.add(index)
        return filters.attach(index, POD, self._programs)

    def attach_links(self, attachment: Attachment, index: int) -> None:
        """Puts them on as links where they cannot be filters. On a worker thread.

        Raises:
            KernelError: refused.
        """
        if (attachment.via_stack or attachment.chained) and self._has_tcx:
            for name in self._loaded(POD):
                device_links.attach(index, POD, name, self._programs[name], self._pins)

    def missing(self, index: int, *, by_link: bool) -> list[str]:
        """Which programs a pod's link lacks that it could have. On a worker thread; raises KernelError."""
        if by_link and not self._has_tcx:
            return []
        there = device_links.attached(self._pins) if by_link else filters.attached(self._route, [index], POD)
        return [name for name in self._loaded(POD) if not there.get((index, name))]

    def places(self) -> dict[str, str]:
        """Program -> the devices that it is on, in words."""
        on = [each for each in self._targets() if self.is_on and each.name not in self.without]
        found = {EXPIRE: "run by the agent"} if EXPIRE in self._programs else {}
        for place in (POD, UPLINK, TUNNEL):
            names = sorted({each.name for each in on if each.place is place})
            text = f"{len(names)} pods" if place is POD else ", ".join(names)
            found |= dict.fromkeys(self._loaded(place), text if names else "")
        return found

    def _loaded(self, place: Place) -> list[str]:
        return [name for name in place.programs if name in self._programs]

    async def _look(self) -> None:
        await device_watch.look(self._route, self._config, self._mesh, self._devices)

    async def _rows_are_written(self) -> None:
        """The runtime's pods are known, and what is known is in the maps, or has failed and is named elsewhere."""
        while not self._mesh.is_complete(CNI):
            await self._mesh.moved()
        with contextlib.suppress(RowsFailed):
            await self._mesh.settled(self._mesh.revision)

    def _targets(self) -> Iterator[Target]:
        for workload in self._mesh.workloads.values():
            for link in workload.links:
                by_link = link.via_stack or link.observed
                yield Target(link.ifindex, f"pod {workload}", POD, by_link)
        for each in self._devices.now.uplinks:
            yield Target(each.ifindex, each.name, UPLINK, self._has_tcx)
        if self._devices.now.tunnel_ifindex:
            yield Target(self._devices.now.tunnel_ifindex, TUNNEL_DEVICE, TUNNEL, self._has_tcx)

    async def _take_over(self) -> None:
        """Every target has every program of its place, and these know the flows that another build's programs carried.

        Those for what comes from outside are on first, before the other build's, which go on behind them: what one does not
        know the other does. Without tcx they cannot stand beside each other; there they come last.
        """
        former, maps = self._takeover, (*MAPS, *KERNEL_MAPS)
        if not former.is_pending(maps):
            await self._attach()
            return
        await asyncio.to_thread(partial(former.copy, KERNEL_MAPS, again=True))
        if self._has_tcx:
            await asyncio.to_thread(self._put_before, list(self._targets()))
        others = frozenset(ORDER) - FROM_OUTSIDE
        await asyncio.to_thread(self._swap, list(self._targets()), others)
        await self._attach()
        if not self._has_tcx:
            await asyncio.to_thread(former.copy, KERNEL_MAPS)
        while self._behind:
            link = self._behind.pop()
            await asyncio.to_thread(link.detach)
            link.close()
        former.finish(maps)

    async def _attach(self) -> None:
        """Every target has every program of its place; receiving programs first, over all devices."""
        targets = list(self._targets())
        without, put_on = await asyncio.to_thread(self._put_right, targets, frozenset(ORDER))
        for device, reason in without.items():
            if self.without.get(device) != reason:
                log.error("programs cannot be attached", device=device, reason=reason)
        self.without = without
        lost = {target.name for target in put_on if target.index in self._complete}
        if lost:
            log.warning("programs were taken off and are attached again", devices=sorted(lost))
            self.repaired += len(lost)
        self._complete = {target.index for target in targets if target.name not in without}

    def _swap(self, targets: list[Target], programs: frozenset[str]) -> None:
        """``programs`` are on, and know what those knew whom they replace. On a worker thread.

        Since the first copy flows were begun and ended, and ports of the node given to others: a flow begun anew has another
        port than its copy says. The second copy is small, and the programs are swapped right behind it.
        """
        copy = partial(self._takeover.copy, KERNEL_MAPS)
        copy(again=True)
        self._put_right(targets, programs)
        copy(again=not self._has_tcx)

    def _put_before(self, targets: list[Target]) -> None:
        """Those for what comes from outside are on; whom they would have replaced goes behind. On a worker thread."""
        there = device_links.attached(self._pins)
        for name, target in in_order(targets, lambda each: each.place, FROM_OUTSIDE):
            if not target.by_link or not there.get((target.index, name)) or name not in self._programs:
                continue
            try:
                link = device_links.attach_before(
                    target.index, target.place, name, self._programs[name], self._pins
                )
            except KernelError as error:
                # It is replaced with the others, then.
                log.warning("program cannot stand beside another", device=target.name, reason=str(error))
                continue
            if link is not None:
                self._behind.append(link)

    def _put_right(
        self, targets: list[Target], programs: frozenset[str]
    ) -> tuple[dict[str, str], set[Target]]:
        """Of ``programs``: device -> why it lacks some; and the devices that were given some. On a worker thread.

        Raises:
            KernelError: the kernel does not say what is there.
        """
        there = self._there(targets)
        ids = {name: each.info().program_id for name, each in self._programs.items() if name in programs}
        without: dict[str, str] = {}
        put_on: set[Target] = set()
        for name, target in in_order(targets, lambda each: each.place, programs):
            if name not in ids or there.get((target.index, name)) == ids[name]:
                continue
            try:
                self._put_on(target, name)
                put_on.add(target)
            except KernelError as error:
                if error.errno != errno.ENODEV:  # gone meanwhile
                    without[target.name] = str(error)
        without |= self._update_others(targets, there, ids)
        return without, put_on

    def _put_on(self, target: Target, name: str) -> None:
        program = self._programs[name]
        if target.by_link and not self._has_tcx:
            raise KernelError("attach", f"program {name}", 0, NO_TCX)
        if target.by_link:
            device_links.attach(target.index, target.place, name, program, self._pins)
        else:
            self._route.exchange(filters.attach(target.index, target.place, {name: program}))

    def _there(self, targets: list[Target]) -> dict[tuple[int, str], int]:
        found: dict[tuple[int, str], int] = {}
        for place in (POD, UPLINK, TUNNEL):
            plain = [each.index for each in targets if each.place is place and not each.by_link]
            found |= filters.attached(self._route, plain, place)
        return found | device_links.attached(self._pins)

    def _update_others(
        self, targets: list[Target], there: Mapping[tuple[int, str], int], ids: Mapping[str, int]
    ) -> dict[str, str]:
        """A device that is no uplink any more has flows still: it keeps its programs, the newest ones, until it goes."""
        failed: dict[str, str] = {}
        wanted = {(each.index, name) for each in targets for name in each.place.programs}
        for (index, name), program in there.items():
            if (index, name) in wanted or name not in ids or program == ids[name]:
                continue
            place = next(each for each in (POD, UPLINK, TUNNEL) if name in each.programs)
            try:
                if program == 0:
                    device_links.forget(index, name, self._pins)
                else:
                    device_links.attach(index, place, name, self._programs[name], self._pins)
            except KernelError as error:
                failed[f"link {index}"] = str(error)
        return failed
