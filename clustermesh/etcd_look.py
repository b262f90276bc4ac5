"""What is in one etcd, and what our certificate may do there. Changes nothing.

Whether a certificate may write is asked with a transaction whose condition cannot hold: etcd judges the permissions of
what it would do before it looks at the condition.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from ipaddress import ip_network
from typing import TypeVar

from clustermesh import keys
from clustermesh.access import REMOTE, Access, shared_by
from clustermesh.call import Caller, KvOptions
from clustermesh.endpoint_slice import decode_slice
from clustermesh.errors import InvalidRecord, KvError, KvRefused
from clustermesh.etcdapi.authpb.auth_pb2 import Permission
from clustermesh.kv import Kv
from clustermesh.maintenance import Maintenance
from clustermesh.node_record import Node, decode_node
from clustermesh.operations import Compare, KeyValue, Put
from clustermesh.peers import Peer
from clustermesh.pin import REACHED_BY
from clustermesh.records import (
    SERVICES,
    SERVICES_AND_SLICES,
    SLICES,
    ClusterConfig,
    decode_config,
    decode_service,
)
from clustermesh.snapshot import Etcd, Grant, KeyLease, NodeNetworks, Users

OPTIONS = KvOptions(attempt_timeout_s=1.5, deadline_s=4.0)
NEVER = 1 << 62
"""No revision is that high."""

RecordT = TypeVar("RecordT")


async def read(kv: Kv, peer: Peer, seen: Etcd) -> Etcd:
    """``seen`` with what is in the etcd of ``peer``, as far as its certificate may look. Raises KvError."""
    name = peer.name
    config_item, heartbeat = await kv.get(keys.cluster_config(name)), await kv.get(keys.HEARTBEAT)
    config: ClusterConfig | None = None
    problem = ""
    if config_item is not None:
        try:
            config = decode_config(config_item.key, config_item.value or b"")
        except InvalidRecord as error:
            problem = str(error)
    canaries = (await kv.list(keys.synced_prefix(name))).items
    cached, number = (config.cached, config.cluster_id) if config is not None else (False, 0)
    invalid: list[str] = []

    async def under(prefix: str, decode: Callable[[str, str, bytes], RecordT]) -> list[RecordT]:
        items = (await kv.list(prefix)).items if config is not None else ()
        return list(_decoded(items, prefix, decode, invalid))

    nodes = await under(
        keys.nodes_prefix(name, cached=cached),
        lambda key, last, value: peer.pin.node(
            key, decode_node(key, value, cluster=name, name=last, cluster_id=number)
        ),
    )
    if config is None or config.endpoint_slices_export_mode in {SERVICES, SERVICES_AND_SLICES}:
        await under(
            keys.services_prefix(name, cached=cached),
            lambda key, last, value: peer.pin.service(
                key, decode_service(key, value, cluster=name, name=last, cluster_id=number)
            ),
        )
    if config is not None and config.endpoint_slices_export_mode in {SERVICES_AND_SLICES, SLICES}:
        await under(
            keys.slices_prefix(name, cached=cached),
            lambda key, last, value: peer.pin.endpoint_slice(
                key, decode_slice(key, value, cluster=name, name=last, cluster_id=number)
            ),
        )
    said = [each for each in (config_item, heartbeat, *canaries) if each is not None]
    return replace(
        seen,
        config=config,
        config_problem=problem,
        heartbeat_at=None if heartbeat is None else _time(heartbeat.value or b""),
        canaries=frozenset(each.key for each in canaries),
        leases=tuple([await _lease(kv, each) for each in _one_of_each_lease(said)]),
        nodes=tuple(_networks_of(each) for each in nodes),
        invalid=tuple(invalid),
        writable=() if seen.is_own else await _writable(kv, name, config_item),
        readable=() if seen.is_own else await _readable(kv, name),
    )


def _decoded(
    items: Iterable[KeyValue], prefix: str, decode: Callable[[str, str, bytes], RecordT], invalid: list[str]
) -> Iterable[RecordT]:
    for item in items:
        if item.value is None:
            invalid.append(f"{item.key}: is larger than can be received")
            continue
        try:
            yield decode(item.key, item.key.removeprefix(prefix), item.value)
        except InvalidRecord as error:
            invalid.append(str(error))


def _networks_of(node: Node) -> NodeNetworks:
    own = (node.ipv4_network, node.ipv6_network, *node.ipv4_secondary_networks, *node.ipv6_secondary_networks)
    # Routers' addresses may be the same in every cluster, and lie among pods'.
    hosts = (each.ip for each in node.addresses if each.kind in REACHED_BY - {"CiliumInternalIP"})
    networks = [each for each in own if each is not None]
    return NodeNetworks(node.name, (*networks, *(ip_network(each) for each in hosts)))


def _one_of_each_lease(items: Sequence[KeyValue]) -> list[KeyValue]:
    leased = {item.lease: item for item in reversed(items) if item.lease}
    return [*leased.values(), *(item for item in items if not item.lease)]


async def _lease(kv: Kv, item: KeyValue) -> KeyLease:
    if not item.lease:
        return KeyLease(item.key)
    left_s, granted_s = await kv.lease_left(item.lease)
    return KeyLease(item.key, left_s, granted_s or 1)


async def _writable(kv: Kv, cluster: str, known: KeyValue | None) -> tuple[str, ...]:
    """Keys that must be its publisher's alone, and are not."""
    if known is None:
        return ()
    wanted = (
        keys.cluster_config(cluster),
        keys.HEARTBEAT,
        keys.service(cluster, "meshd", "doctor"),
        keys.node(cluster, "doctor"),
        keys.canary(cluster, "services"),
        keys.publisher(cluster),
    )
    found = []
    for key in wanted:
        try:
            await kv.txn([Compare(known.key, "mod", NEVER)], [Put(key, b"")], repeatable=True)
        except KvError as error:
            if not _is_denied(error):
                raise
        else:
            found.append(key)
    return tuple(found)


async def _readable(kv: Kv, cluster: str) -> tuple[str, ...]:
    try:
        await kv.get(keys.publisher(cluster))
    except KvError as error:
        if not _is_denied(error):
            raise
        return ()
    return (keys.publisher(cluster),)


def _is_denied(error: KvError) -> bool:
    return "permission denied" in error.reason


async def administered(peer: Peer, seen: Etcd) -> Etcd:
    """``seen`` with what only a cluster's own certificate may ask. Raises KvError."""
    caller = Caller(peer.endpoints, peer.credentials, peer.tls, OPTIONS)
    maintenance = Maintenance(peer.endpoints, peer.tls, OPTIONS)
    try:
        seen = replace(seen, alarms=await maintenance.alarms())
        asked = Access(caller)
        grants = [_grant(each, peer.name) for each in await asked.permissions(REMOTE)]
        return replace(seen, users=Users(await asked.is_enabled(), await asked.roles(), tuple(grants)))
    except KvRefused as error:
        # Of Cilium's own etcds a cluster's nodes may only read.
        if not _is_denied(error):
            raise
        return seen
    finally:
        await caller.close()
        await maintenance.close()


def _grant(permission: Permission, cluster: str) -> Grant:
    shared = any(_covers(each, permission) for each in shared_by(cluster))
    text = permission.key.decode(errors="backslashreplace")
    return Grant(
        REMOTE,
        f"all from {text} on" if permission.range_end else text,
        writes=permission.permType != Permission.READ,
        private=not shared,
    )


def _covers(wider: Permission, one: Permission) -> bool:
    if not wider.range_end:
        return bool(wider.key == one.key and not one.range_end)
    ends = one.range_end or one.key + b"\0"
    return bool(wider.key <= one.key and ends != b"\0" and ends <= wider.range_end)


def _time(value: bytes) -> datetime.datetime | None:
    try:
        found = datetime.datetime.fromisoformat(value.decode())
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=datetime.UTC)
