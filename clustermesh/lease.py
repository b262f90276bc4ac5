"""Leases: granted, kept alive, and taken as lost by our own clock when etcd was silent for their whole time.

etcd extends every lease when it restarts or changes its leader, so a key outliving its owner proves
nothing; and a lease that we could not renew may be gone without a word. Both are answered in the same way:
grant again, put again.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import NoReturn

import grpc.aio

from clustermesh.call import Caller, Metadata
from clustermesh.errors import KvUnavailable, LeaseLost
from clustermesh.etcdapi.etcdserverpb import rpc_pb2, rpc_pb2_grpc


@dataclass(slots=True)
class Lease:
    """A lease of ``ttl_s`` seconds as etcd granted it.

    ``expires_at`` on the monotonic clock, moved by renewals.
    """

    id: int
    ttl_s: int
    expires_at: float

    @property
    def expired(self) -> bool:
        """Whether it was not renewed for its whole time; etcd may have dropped its keys."""
        return time.monotonic() >= self.expires_at


async def grant(caller: Caller, ttl_s: int) -> Lease:
    """A new lease. etcd raises ``ttl_s`` to its own minimum.

    Repeated grants leave a lease that expires unused.
    """

    async def invoke(
        channel: grpc.aio.Channel, metadata: Metadata, timeout_s: float
    ) -> rpc_pb2.LeaseGrantResponse:
        request = rpc_pb2.LeaseGrantRequest(TTL=ttl_s)
        return await rpc_pb2_grpc.LeaseStub(channel).LeaseGrant(request, timeout=timeout_s, metadata=metadata)

    asked_at = time.monotonic()
    answer = await caller.call("lease grant", "", invoke)
    return Lease(answer.ID, answer.TTL, asked_at + answer.TTL)


async def renew(caller: Caller, lease: Lease) -> None:
    """Renew once.

    Raises:
        LeaseLost: etcd does not know the lease any more.
        KvUnavailable: no member answered within a third of its time.
    """

    async def invoke(
        channel: grpc.aio.Channel, metadata: Metadata, timeout_s: float
    ) -> rpc_pb2.LeaseKeepAliveResponse:
        # One question per stream: a standing stream would have to be moved to another member by hand.
        questions = iter([rpc_pb2.LeaseKeepAliveRequest(ID=lease.id)])
        stub = rpc_pb2_grpc.LeaseStub(channel)
        stream = stub.LeaseKeepAlive(questions, timeout=timeout_s, metadata=metadata)
        answer = await stream.read()
        if not isinstance(answer, rpc_pb2.LeaseKeepAliveResponse):
            raise TimeoutError("lease keepalive ended without an answer")
        stream.cancel()
        return answer

    asked_at = time.monotonic()
    answer = await caller.call("lease keepalive", "", invoke, deadline_s=max(1.0, lease.ttl_s / 3))
    if answer.TTL <= 0:
        raise LeaseLost("lease keepalive", "", f"lease {lease.id:x} is gone")
    lease.expires_at = asked_at + answer.TTL


async def left(caller: Caller, lease_id: int) -> tuple[int, int]:
    """Seconds that are left of a lease, whoever has it, and those it was granted; (-1, 0): it is gone."""

    async def invoke(
        channel: grpc.aio.Channel, metadata: Metadata, timeout_s: float
    ) -> rpc_pb2.LeaseTimeToLiveResponse:
        request = rpc_pb2.LeaseTimeToLiveRequest(ID=lease_id)
        stub = rpc_pb2_grpc.LeaseStub(channel)
        return await stub.LeaseTimeToLive(request, timeout=timeout_s, metadata=metadata)

    try:
        answer = await caller.call("lease timetolive", "", invoke)
    except LeaseLost:
        return -1, 0
    return answer.TTL, answer.grantedTTL


async def keep(caller: Caller, lease: Lease) -> NoReturn:
    """Renew at every third of the lease's time until cancelled or lost (LeaseLost)."""
    while True:
        await asyncio.sleep(lease.ttl_s / 3)
        try:
            await renew(caller, lease)
        except KvUnavailable as error:
            if lease.expired:
                raise LeaseLost(
                    "lease keepalive", "", f"lease {lease.id:x} not renewed: {error.reason}"
                ) from error


async def revoke(caller: Caller, lease: Lease) -> None:
    """Give the lease up; its keys vanish at once. A lease that is gone already is no error."""

    async def invoke(
        channel: grpc.aio.Channel, metadata: Metadata, timeout_s: float
    ) -> rpc_pb2.LeaseRevokeResponse:
        request = rpc_pb2.LeaseRevokeRequest(ID=lease.id)
        return await rpc_pb2_grpc.LeaseStub(channel).LeaseRevoke(
            request, timeout=timeout_s, metadata=metadata
        )

    try:
        await caller.call("lease revoke", "", invoke)
    except LeaseLost:
        return
