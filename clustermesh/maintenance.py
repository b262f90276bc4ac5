"""What is asked of each member of an etcd by itself, how large its store is and to give space back; and alarms."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc.aio

from clustermesh.call import Caller, KvOptions
from clustermesh.channel import Endpoint, TlsFiles
from clustermesh.errors import KvError
from clustermesh.etcdapi.etcdserverpb import rpc_pb2
from clustermesh.etcdapi.etcdserverpb.rpc_pb2_grpc import MaintenanceStub

NOSPACE, CORRUPT = "NOSPACE", "CORRUPT"
# A member answers nobody while it rewrites its store, some 100 MB/s.
DEFRAGMENT_S = 120.0


@dataclass(frozen=True, slots=True)
class Status:
    """Of one member: its store in bytes, what of it is in use, and whether it leads."""

    size_bytes: int
    in_use_bytes: int
    leads: bool

    @property
    def free_bytes(self) -> int:
        """What defragmentation gives back."""
        return max(0, self.size_bytes - self.in_use_bytes)


class Maintenance:
    """Of the etcd with members at ``endpoints``. To be closed. Raises KvError."""

    def __init__(
        self, endpoints: Sequence[Endpoint], tls: TlsFiles | None, options: KvOptions | None = None
    ) -> None:
        self._all = Caller(endpoints, None, tls, options or KvOptions())
        self._each = {
            f"{each.host}:{each.port}": Caller([each], None, tls, options or KvOptions())
            for each in endpoints
        }

    async def close(self) -> None:
        """Closes the connections."""
        for caller in (self._all, *self._each.values()):
            await caller.close()

    async def statuses(self) -> dict[str, Status | None]:
        """Of every member by its address; None: it does not answer."""
        return {name: await self._status(caller) for name, caller in self._each.items()}

    async def defragment(self, member: str) -> None:
        """Rewrites the store of ``member``, which answers nobody meanwhile."""
        request = rpc_pb2.DefragmentRequest()
        await self._ask(self._each[member], "Defragment", request, deadline_s=DEFRAGMENT_S, repeatable=False)

    async def alarms(self) -> frozenset[str]:
        """Names of those that any member has: NOSPACE, CORRUPT."""
        answer = await self._ask(self._all, "Alarm", rpc_pb2.AlarmRequest(action=rpc_pb2.AlarmRequest.GET))
        return frozenset(rpc_pb2.AlarmType.Name(each.alarm) for each in answer.alarms)

    async def disarm(self, alarm: str) -> None:
        """No member has ``alarm`` any more; etcd raises it again if there is reason to."""
        request = rpc_pb2.AlarmRequest(action=rpc_pb2.AlarmRequest.GET)
        for each in (await self._ask(self._all, "Alarm", request)).alarms:
            if rpc_pb2.AlarmType.Name(each.alarm) == alarm:
                off = rpc_pb2.AlarmRequest(
                    action=rpc_pb2.AlarmRequest.DEACTIVATE, memberID=each.memberID, alarm=each.alarm
                )
                await self._ask(self._all, "Alarm", off)

    async def _status(self, caller: Caller) -> Status | None:
        try:
            answer = await self._ask(caller, "Status", rpc_pb2.StatusRequest(), deadline_s=3.0)
        except KvError:
            return None
        return Status(answer.dbSize, answer.dbSizeInUse, answer.leader == answer.header.member_id)

    async def _ask(  # Any: one of the pairs of etcd's API
        self,
        caller: Caller,
        rpc: str,
        request: Any,
        *,
        deadline_s: float | None = None,
        repeatable: bool = True,
    ) -> Any:
        def invoke(channel: grpc.aio.Channel, metadata: Any, timeout_s: float) -> Awaitable[Any]:
            call: Callable[..., Awaitable[Any]] = getattr(MaintenanceStub(channel), rpc)
            return call(request, metadata=metadata, timeout=timeout_s)

        return await caller.call(rpc, "", invoke, deadline_s=deadline_s, repeatable=repeatable)
