"""Closes sockets whose backend went, and only those that our hooks sent there for that service.

The connect hooks record by socket cookie which frontend became which backend. When a frontend loses a backend, its records
are compared with who serves now; a recorded socket that is still connected to a backend that went is destroyed in the
network namespace it lives in (sock_diag, SOCK_DESTROY): UDP always, TCP where the service asks for it. A socket that
dialled the backend directly has no record; one that came through another service has that service's.

Records are level-triggered: whatever was missed is found the next time the same frontend is looked at, or at the next start.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from ipaddress import IPv6Address

import structlog

from meshd.dataplane.layouts import Connection, Endpoint, Layouts
from meshd.dataplane.rows import ServedFrontend
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


class SocketCloser:
    """``wait_for_programs`` blocks until every program that runs now has ended, so that what it recorded is seen."""

    def __init__(
        self,
        layouts: Layouts,
        connections: Map,
        netns: WorkloadNetns,
        served: Mapping[bytes, ServedFrontend],
        wait_for_programs: Callable[[], None],
    ) -> None:
        self._layouts = layouts
        self._connections = connections
        self._netns = netns
        self._served = served
        self._wait_for_programs = wait_for_programs
        self._lost: dict[bytes, ServedFrontend] = {}
        self._added = asyncio.Event()
        # (service, protocol) -> sockets destroyed
        self.destroyed: Counter[tuple[str, str]] = Counter()
        self.failed = 0

    def look_at(self, frontends: Mapping[bytes, ServedFrontend]) -> None:
        """These packed frontends lost a backend; the value is who served before."""
        self._lost.update(frontends)
        self._added.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._added.wait()
            self._added.clear()
            lost, self._lost = self._lost, {}
            await asyncio.to_thread(self._wait_for_programs)
            for _ in range(LOOKS):
                if not await self._look(lost):
                    break
                await asyncio.sleep(LOOK_AGAIN_S)

    async def _look(self, lost: Mapping[bytes, ServedFrontend]) -> int:
        """One pass over the records; how many sockets were to be closed."""
        now = {frontend: self._served.get(frontend) for frontend in lost}
        stale = await asyncio.to_thread(self._stale_records, lost, now)
        namespaces = self._netns.by_cookie()
        for cookie, record in stale:
            namespace = namespaces.get(record.netns_cookie)
            if namespace is None:
                continue
            service = lost[self._layouts.endpoint.encode(record.frontend)].service
            await self._close(namespace.diag, cookie, record, service)
        return len(stale)

    def _stale_records(
        self, lost: Mapping[bytes, ServedFrontend], now: Mapping[bytes, ServedFrontend | None]
    ) -> list[tuple[int, Connection]]:
        """Cookies and records of sockets that talk to somebody who no longer serves. Runs on a worker thread."""
        size = self._layouts.endpoint.size
        found = []
        for key, value in self._connections.items():
            # struct connection: the netns cookie, then frontend and backend; compared packed, decoded only if it matters.
            frontend, backend = value[8 : 8 + size], value[8 + size : 8 + 2 * size]
            before = lost.get(frontend)
            if before is None:
                continue
            serving = now[frontend]
            if serving is not None and backend in serving.backends:
                continue
            record = self._layouts.connection.decode(value)
            close_tcp = (serving or before).close_tcp
            if record.frontend.protocol == Protocol.UDP or close_tcp:
                found.append((self._layouts.u64.decode(key), record))
        return found

    async def _close(self, diag: SocketDiag, cookie: int, record: Connection, service: str) -> None:
        protocol = Protocol(record.frontend.protocol)
        try:
            closed = await asyncio.to_thread(close_socket, diag, cookie, protocol, record.backend)
        except KernelError as error:
            self.failed += 1
            log.warning("socket not closed", service=service, reason=str(error))
            return
        if closed:
            self.destroyed[service, protocol.name.lower()] += 1


def close_socket(diag: SocketDiag, cookie: int, protocol: Protocol, backend: Endpoint) -> bool:
    """Destroy the socket with this cookie if it is connected to ``backend``; whether it was there."""
    address = IPv6Address(backend.address)
    remote = RemoteEndpoint(address.ipv4_mapped or address, backend.port)
    return any(diag.destroy(each) for each in diag.connected_to(protocol, remote) if each.cookie == cookie)
