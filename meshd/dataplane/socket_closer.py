"""Closes sockets whose backend went, and only those that our hooks sent there for that service.

The connect hooks record by socket cookie which frontend became which backend. When a frontend loses a backend, its records
are compared with who serves now; a recorded socket that is still connected to a backend that went is destroyed in the
network namespace it lives in (sock_diag, SOCK_DESTROY): UDP always, TCP where the service asks for it. Where the node of a
backend is confirmed to be down, none is, or both if the service asks for that. A socket that dialled the backend directly
has no record; one that came through another service has that service's.

Records are level-triggered: whatever was missed is found the next time the same frontend is looked at, or at the next start.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from ipaddress import IPv6Address
from typing import NamedTuple

import structlog

from meshd.dataplane.layouts import Endpoint, Layouts
from meshd.dataplane.retire import grace_period
from meshd.dataplane.rows import ServedFrontend
from meshd.dataplane.spacing import Spacing
from meshd.dataplane.workload_netns import WorkloadNetns
from meshd.errors import KernelError
from meshd.kernel.maps import Map
from meshd.kernel.sockets import Endpoint as RemoteEndpoint
from meshd.kernel.sockets import SocketDiag
from meshd.model import Protocol

log = structlog.get_logger(__name__)

# connect() may still be on its way from the hook to the socket when the backend goes: look again.
LOOKS = 3
LOOK_AGAIN_S = 0.05


# Of frontends that are gone nobody remembers whose they were.
UNKNOWN = ServedFrontend("", (), close_tcp=False)


class Because(StrEnum):
    """Why a socket is closed."""

    REMOVAL = "removal"
    FAILOVER = "failover"


class Stale(NamedTuple):
    """A record, packed, of a socket that talks to somebody who no longer serves the frontend of ``service``."""

    key: bytes
    value: bytes
    service: str
    because: Because = Because.REMOVAL


class SocketCloser:
    """``served`` and ``frontends`` are looked at whenever they matter: who serves, and the rows in the kernel.
    ``wait_for_programs`` blocks until every program that runs now has ended, so that what it recorded is seen."""

    def __init__(
        self,
        layouts: Layouts,
        connections: Map,
        netns: WorkloadNetns,
        served: Mapping[bytes, ServedFrontend],
        frontends: Mapping[bytes, bytes],
        wait_for_programs: Callable[[], None],
    ) -> None:
        self._layouts = layouts
        self._connections = connections
        self._netns = netns
        self._served = served
        self._frontends = frontends
        self._wait_for_programs = wait_for_programs
        self._lost: dict[bytes, ServedFrontend] = {}
        self._all = False
        self._added = asyncio.Event()
        # (service, protocol, cause) -> sockets destroyed
        self.destroyed: Counter[tuple[str, str, Because]] = Counter()
        self.failed = 0
        # Times that everything asked for was looked at.
        self.rounds = 0

    def look_at(self, frontends: Mapping[bytes, ServedFrontend]) -> None:
        """These packed frontends lost a backend; the value is who served before."""
        self._lost.update(frontends)
        self._added.set()

    def look_at_all(self) -> None:
        """Backends and services may have gone while no agent ran. What was not planned, and has its row, is left alone."""
        self._all = True
        self._added.set()

    async def run(self) -> None:
        """Until cancelled."""
        spacing = Spacing()
        while True:
            await self._added.wait()
            await spacing.wait()
            self._added.clear()
            lost, self._lost = self._lost, {}
            try:
                if self._all:
                    self._all = False
                    lost = await self._recorded() | lost
                await grace_period(self._wait_for_programs)
                for _ in range(LOOKS):
                    if not await self._look(lost):
                        break
                    await asyncio.sleep(LOOK_AGAIN_S)
            except KernelError as error:
                log.warning("records of sockets cannot be read", reason=str(error))
            self.rounds += 1

    async def _recorded(self) -> dict[bytes, ServedFrontend]:
        """The frontends of all records, but those whose rows stand although nobody planned them."""
        frontends = await asyncio.to_thread(self._recorded_frontends)
        return {
            frontend: self._served.get(frontend, UNKNOWN)
            for frontend in frontends
            if frontend in self._served or frontend not in self._frontends
        }

    def _recorded_frontends(self) -> set[bytes]:
        size = self._layouts.endpoint.size
        return {value[8 : 8 + size] for _, value in self._connections.items()}

    async def _look(self, lost: Mapping[bytes, ServedFrontend]) -> int:
        """One pass over the records; how many sockets were to be closed."""
        now = {frontend: self._served.get(frontend) for frontend in lost}
        stale = await asyncio.to_thread(self._stale_records, lost, now)
        # By namespace, protocol and backend: one question to the kernel, however many sockets.
        together: dict[tuple[int, Endpoint], list[Stale]] = {}
        for each in stale:
            record = self._layouts.connection.decode(each.value)
            together.setdefault((record.netns_cookie, record.backend), []).append(each)
        for (netns_cookie, backend), group in together.items():
            await self.close(netns_cookie, backend, group)
        return len(stale)

    def _stale_records(
        self, lost: Mapping[bytes, ServedFrontend], now: Mapping[bytes, ServedFrontend | None]
    ) -> list[Stale]:
        """Records of sockets that talk to somebody who no longer serves. Runs on a worker thread."""
        size = self._layouts.endpoint.size
        found = []
        for key, value in self._connections.items():
            # struct connection: the netns cookie, then frontend and backend; compared packed.
            frontend = value[8 : 8 + size]
            before = lost.get(frontend)
            if before is None:
                continue
            serving = now[frontend]
            backend = value[8 + size : 8 + 2 * size]
            if serving is not None and backend in serving.backends:
                continue
            if serving is not None and backend in serving.lost:
                found.append(Stale(key, value, before.service, Because.FAILOVER))
                continue
            protocol = self._layouts.endpoint.decode(frontend).protocol
            if protocol == Protocol.UDP or (serving or before).close_tcp:
                found.append(Stale(key, value, before.service))
        return found

    async def close(self, netns_cookie: int, backend: Endpoint, group: Sequence[Stale]) -> None:
        """Destroy the sockets of ``group``, which are in that namespace and talk to that backend."""
        namespace = self._netns.by_cookie().get(netns_cookie)
        if namespace is None:
            return
        protocol = Protocol(backend.protocol)
        try:
            closed = await asyncio.to_thread(self._destroy, namespace.diag, protocol, backend, group)
        except (
            KernelError,
            OSError,
        ) as error:  # OSError: the workload left, and its netlink socket is closed
            self.failed += 1
            log.warning("sockets not closed", services=sorted({s.service for s in group}), reason=str(error))
            return
        for each in closed:
            self.destroyed[each.service, protocol.name.lower(), each.because] += 1

    def _destroy(
        self, diag: SocketDiag, protocol: Protocol, backend: Endpoint, group: Sequence[Stale]
    ) -> list[Stale]:
        """Those of ``group`` that were there, and are no more. Runs on a worker thread."""
        by_cookie = {self._layouts.u64.decode(each.key): each for each in group}
        address = IPv6Address(backend.address)
        remote = RemoteEndpoint(address.ipv4_mapped or address, backend.port)
        closed = []
        for found in diag.connected_to(protocol, remote):
            each = by_cookie.get(found.cookie)
            # It may have connected again since: elsewhere, or to the same backend through another service.
            if each is not None and self._connections.lookup(each.key) == each.value and diag.destroy(found):
                closed.append(each)
        return closed
