"""Who may do what in a cluster's etcd, by the common name of the client's certificate.

``admin-CLUSTER``, which this cluster's own nodes show, may do everything. ``remote-NAME``, which nodes of cluster NAME
show, may read what this cluster shares, and nothing else. Nobody has a password. The names, and what a remote one may
read, are those of Cilium's clustermesh-apiserver.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio

from clustermesh import keys
from clustermesh.call import Caller, KvOptions
from clustermesh.channel import Endpoint, TlsFiles
from clustermesh.errors import KvRefused
from clustermesh.etcdapi.authpb.auth_pb2 import Permission, UserAddOptions
from clustermesh.etcdapi.etcdserverpb import rpc_pb2
from clustermesh.etcdapi.etcdserverpb.rpc_pb2_grpc import AuthStub

ROOT, REMOTE = "root", "remote"
ENABLED_ALREADY = "authentication is already enabled"
DISABLED = "authentication is not enabled"


def admin(cluster: str) -> str:
    """The common name of this cluster's own clients."""
    return f"admin-{cluster}"


def remote(cluster: str) -> str:
    """The common name that clients from ``cluster`` have in another cluster's etcd."""
    return f"remote-{cluster}"


class Access:
    """The users of one etcd. Every method may be repeated. Raises KvError."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def restrict(self, cluster: str) -> None:
        """From now on etcd asks who somebody is; of ``cluster`` only its admin may do everything."""
        roles = set((await self._ask("RoleList", rpc_pb2.AuthRoleListRequest())).roles)
        for role in (ROOT, REMOTE):
            if role not in roles:
                await self._ask("RoleAdd", rpc_pb2.AuthRoleAddRequest(name=role), role)
        for permission in shared_by(cluster):
            request = rpc_pb2.AuthRoleGrantPermissionRequest(name=REMOTE, perm=permission)
            await self._ask("RoleGrantPermission", request, REMOTE)
        # etcd wants a user of this name before it asks anybody who they are.
        for user in (ROOT, admin(cluster)):
            await self._user(user, ROOT)
        try:
            await self._ask("AuthEnable", rpc_pb2.AuthEnableRequest())
        except KvRefused as error:
            if ENABLED_ALREADY not in error.reason:
                raise

    async def admit(self, cluster: str) -> None:
        """Nodes of ``cluster`` may read what is shared."""
        await self._user(remote(cluster), REMOTE)

    async def dismiss(self, cluster: str) -> None:
        """They may not any more, whatever certificate they show."""
        if remote(cluster) in await self._users():
            name = remote(cluster)
            await self._ask("UserDelete", rpc_pb2.AuthUserDeleteRequest(name=name), name)

    async def admitted(self) -> tuple[str, ...]:
        """The clusters whose nodes may read, by name."""
        prefix = remote("")
        return tuple(
            sorted(name.removeprefix(prefix) for name in await self._users() if name.startswith(prefix))
        )

    async def is_enabled(self) -> bool:
        """Whether etcd asks who somebody is."""
        try:
            # Nobody is called like that; etcd 3.4 has no other question that tells.
            await self._ask("Authenticate", rpc_pb2.AuthenticateRequest(name=""))
        except KvRefused as error:
            return DISABLED not in error.reason
        return True

    async def roles(self) -> dict[str, tuple[str, ...]]:
        """Every user, and the roles it has."""
        found = {}
        for name in await self._users():
            answer = await self._ask("UserGet", rpc_pb2.AuthUserGetRequest(name=name), name)
            found[name] = tuple(answer.roles)
        return found

    async def permissions(self, role: str) -> tuple[Permission, ...]:
        """What ``role`` may do; nothing if there is no such role."""
        if role not in (await self._ask("RoleList", rpc_pb2.AuthRoleListRequest())).roles:
            return ()
        return tuple((await self._ask("RoleGet", rpc_pb2.AuthRoleGetRequest(role=role), role)).perm)

    async def _users(self) -> Sequence[str]:
        found: Sequence[str] = (await self._ask("UserList", rpc_pb2.AuthUserListRequest())).users
        return found

    async def _user(self, name: str, role: str) -> None:
        if name not in await self._users():
            request = rpc_pb2.AuthUserAddRequest(name=name, options=UserAddOptions(no_password=True))
            await self._ask("UserAdd", request, name)
        await self._ask("UserGrantRole", rpc_pb2.AuthUserGrantRoleRequest(user=name, role=role), name)

    async def _ask(self, rpc: str, request: Any, key: str = "") -> Any:  # Any: one of the pairs of etcd's API
        def invoke(channel: grpc.aio.Channel, metadata: Any, timeout_s: float) -> Awaitable[Any]:
            call: Callable[..., Awaitable[Any]] = getattr(AuthStub(channel), rpc)
            return call(request, metadata=metadata, timeout=timeout_s)

        return await self._caller.call(rpc, key, invoke)


@asynccontextmanager
async def access(
    endpoints: Sequence[Endpoint], tls: TlsFiles, options: KvOptions | None = None
) -> AsyncIterator[Access]:
    """The users of the etcd at ``endpoints``, as the client whose certificate ``tls`` names."""
    caller = Caller(endpoints, None, tls, options or KvOptions())
    try:
        yield Access(caller)
    finally:
        await caller.close()


def shared_by(cluster: str) -> tuple[Permission, ...]:
    """What a reader of ``cluster`` needs (clustermesh-apiserver's role of the same name)."""
    prefixes = (f"{keys.STATE}/", keys.synced_prefix(cluster))
    single = (keys.HEARTBEAT, keys.cluster_config(cluster))
    return (
        *(Permission(permType=Permission.READ, key=key.encode()) for key in single),
        *(
            Permission(
                permType=Permission.READ, key=prefix.encode(), range_end=keys.prefix_end(prefix.encode())
            )
            for prefix in prefixes
        ),
    )
