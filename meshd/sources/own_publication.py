"""Keeps etcd told of this node: its own record, its pods' addresses with their identities, and which identities it uses.

And the mesh of the identities, for the rows of pods.
"""

from __future__ import annotations

import asyncio
from typing import NoReturn

from clustermesh import keys
from clustermesh.identity_allocator import IdentityAllocator
from clustermesh.kv import Kv
from clustermesh.own_keys import OwnKeys
from meshd.model.workload import IDENTITIES
from meshd.sources.own_records import (
    identity_labels_of,
    is_of_node,
    is_use_of_node,
    own_node,
    own_records,
    told_identities,
)
from meshd.state import Compacted, Mesh
from meshd.state.mesh import WORKLOAD_PRECEDENCE


class OwnPublication:
    """What node ``name`` says in ``kv`` through ``own``, which keeps it there, while ``run`` runs.

    An address whose identity is being allocated is not said yet; one that was said before stands meanwhile. What pods that
    are gone left goes once all pods are known, with their identities.
    """

    def __init__(
        self,
        mesh: Mesh,
        kv: Kv,
        own: OwnKeys,
        cluster: str,
        cluster_id: int,
        name: str,
        *,
        max_connected_clusters: int,
        audit_s: float,
    ) -> None:
        self._mesh = mesh
        self._own = own
        self._cluster = cluster
        self._cluster_id = cluster_id
        self._name = name
        self._max_connected_clusters = max_connected_clusters
        self._said: dict[str, bytes] = {}
        self._cleared = False
        self._identities = IdentityAllocator(
            kv, cluster_id, max_connected_clusters, told=self._say, audit_s=audit_s
        )

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._identities.run())
            tasks.create_task(self._follow())

    async def _follow(self) -> NoReturn:
        revision = -1
        while True:
            if self._changed(revision):
                self._identities.want(identity_labels_of(self._mesh, self._cluster).values())
                self._say()
            revision = self._mesh.revision
            self._clear()
            if self._mesh.revision == revision:
                await self._mesh.moved()

    def _changed(self, revision: int) -> bool:
        mesh = self._mesh
        try:
            tables = (mesh.nodes, mesh.workloads, mesh.namespaces)
            return revision < 0 or any(table.changes(revision) for table in tables)
        except Compacted:
            return True

    def _say(self) -> None:
        """Everything as it is now; only what differs from what was said is written."""
        identities = self._identities
        now = own_records(
            self._mesh,
            self._cluster,
            self._cluster_id,
            self._name,
            identities.numbers,
            identities.pending,
            self._said,
        )
        self._own.update(now, self._said.keys() - now.keys())
        self._said = now
        self._tell_mesh()
        self._clear()

    def _tell_mesh(self) -> None:
        identities = self._identities
        puts, deletes = told_identities(
            self._mesh, self._cluster, identities.numbers, identities.pending, all_known=self._all_known()
        )
        self._mesh.apply(IDENTITIES, puts, deletes)

    def _all_known(self) -> bool:
        return all(self._mesh.is_complete(name) for name in WORKLOAD_PRECEDENCE)

    def _clear(self) -> None:
        """What an earlier process left of pods that are gone, once: when all are known."""
        if self._cleared or self._identities.pending:
            return
        if self._all_known():
            self._cleared = True
            self._tell_mesh()
            self._mesh.mark_complete(IDENTITIES)
            self._own.clear_leftovers(keys.addresses_prefix(self._cluster), self._is_our_address)
            self._own.clear_leftovers(keys.IDENTITY_USES, self._is_our_use)

    def _is_our_address(self, key: str, value: bytes) -> bool:
        node = own_node(self._mesh, self._cluster, self._name)
        return is_of_node(node, self._cluster_id, self._max_connected_clusters, key, value)

    def _is_our_use(self, key: str, _: bytes) -> bool:
        return is_use_of_node(own_node(self._mesh, self._cluster, self._name), key)
