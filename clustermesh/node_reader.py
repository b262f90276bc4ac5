"""The nodes of one cluster, its identities and the addresses of its workloads, from one etcd: its own, or a peer's.

They are listed in this order: an address means something only where its node is known, and its identity.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NoReturn, Protocol, TypeVar

from clustermesh import keys
from clustermesh.address_record import AddressRecord, decode_address
from clustermesh.errors import ClustermeshError, InvalidRecord, NotJudgedYet
from clustermesh.identity_record import Identity, decode_identity
from clustermesh.judge import Judge
from clustermesh.kv import Kv
from clustermesh.node_record import Node, decode_node
from clustermesh.operations import Listing
from clustermesh.pin import ANY, Pin
from clustermesh.reflector import SLICE_RECORDS, Copy, Reflector
from clustermesh.removals import Kept, Removals, Word
from clustermesh.together import until_failure

RecordT = TypeVar("RecordT")

NOTHING: Mapping[str, Any] = {}  # Any: nothing, of whatever kind


class NodeSink(Protocol):
    """Who is told of nodes. Called on the event loop; must not block.

    A record that vanishes says no more than that: its lease ended, or somebody deleted it. ``revision`` is that of the
    store at which it did.
    """

    def replace_nodes(self, cluster: str, nodes: Sequence[Node]) -> None:
        """These are all records of nodes of ``cluster``."""

    def put_node(self, cluster: str, node: Node) -> None:
        """``node`` is new or changed."""

    def node_vanished(self, cluster: str, name: str, revision: int) -> None:
        """There is no record of node ``name`` any more."""

    def replace_addresses(self, cluster: str, addresses: Sequence[AddressRecord]) -> None:
        """These are all addresses of ``cluster``."""

    def put_address(self, cluster: str, address: AddressRecord) -> None:
        """``address`` is new or changed."""

    def address_vanished(self, cluster: str, name: str, revision: int) -> None:
        """There is no record of address ``name`` any more."""


@dataclass(slots=True)
class NodeCopies:
    """What is known of a cluster, kept across connections."""

    nodes: Copy[Node] = field(default_factory=Copy)
    identities: Copy[Identity] = field(default_factory=Copy)
    addresses: Copy[AddressRecord] = field(default_factory=Copy)
    # None of them is a backend, so none is ever held.
    address_removals: Removals[AddressRecord] = field(default_factory=lambda: Removals(lambda _: 0))

    @property
    def refused(self) -> dict[str, str]:
        """Name -> why, of records that cannot be used now."""
        found = {f"node {name}": reason for name, reason in self.nodes.refused.items()}
        found |= {f"identity {name}": reason for name, reason in self.identities.refused.items()}
        return found | {f"address {name}": reason for name, reason in self.addresses.refused.items()}

    @property
    def refusals(self) -> Counter[str]:
        """Field at fault -> how often, ever."""
        return self.nodes.refusals + self.identities.refusals + self.addresses.refusals


class NodeReader:
    """Tells ``sink`` of the nodes of ``cluster`` in ``kv``; ``listed`` is set once all lists were told.

    Identities are kept in ``copies`` and told to nobody; ``identities`` False: they are not read.

    ``trouble(kind, reason)`` and ``settle(kind)`` are told when changes may be missing, and when none are any more.
    ``cached``: ``kv`` holds a KVStoreMesh's copy. ``canaries``: the exporter says when its lists are complete.
    ``pin()``: what the cluster may name. ``learn(nodes)`` sees all nodes before anything of them is judged by it, and
    ``teaches(node)`` says that for this one, which is new, they are worth another look. ``word``: what its word is worth; an
    address whose removal does not count stands, as every node does.
    """

    def __init__(
        self,
        kv: Kv,
        cluster: str,
        cluster_id: int,
        *,
        sink: NodeSink,
        copies: NodeCopies,
        max_connected_clusters: int,
        cached: bool = False,
        canaries: bool = True,
        pin: Callable[[], Pin] = lambda: ANY,
        learn: Callable[[Sequence[Node]], Awaitable[None]] | None = None,
        teaches: Callable[[Node], bool] = lambda _: False,
        identities: bool = True,
        word: Callable[[], Word] = lambda: Word.COUNTS,
        trouble: Callable[[str, str], None],
        settle: Callable[[str], None],
    ) -> None:
        self.listed = asyncio.Event()
        self._nodes_listed = asyncio.Event()
        self._settle = settle

        def node(key: str, name: str, value: bytes) -> Node:
            read = decode_node(key, value, cluster=cluster, name=name, cluster_id=cluster_id)
            if teaches(read):
                self._nodes.list_again()
                raise NotJudgedYet(key)
            return pin().node(key, read)

        async def look(listing: Listing) -> None:
            if learn is None:
                return
            found: list[Node] = []
            for number, item in enumerate(listing.items, start=1):
                if number % SLICE_RECORDS == 0:
                    await asyncio.sleep(0)
                name = item.key.removeprefix(nodes_prefix)
                try:
                    value = item.value or b""
                    found.append(
                        decode_node(item.key, value, cluster=cluster, name=name, cluster_id=cluster_id)
                    )
                except InvalidRecord:
                    continue  # said when it is judged
            await learn(found)

        def address(key: str, name: str, value: bytes) -> AddressRecord:
            record = decode_address(
                key, value, name=name, cluster_id=cluster_id, max_connected_clusters=max_connected_clusters
            )
            return pin().address(key, record)

        def identity(key: str, name: str, value: bytes) -> Identity:
            return decode_identity(
                key,
                value,
                name=name,
                cluster=cluster,
                cluster_id=cluster_id,
                max_connected_clusters=max_connected_clusters,
            )

        def canary(resource: str) -> str | None:
            return keys.canary(cluster, resource, cached=cached) if canaries else None

        nodes_prefix = keys.nodes_prefix(cluster, cached=cached)
        self._nodes = Reflector(
            kv,
            nodes_prefix,
            canary("nodes"),
            decode=node,
            copy=copies.nodes,
            outlet=_ToSink(
                sink.replace_nodes,
                sink.put_node,
                sink.node_vanished,
                cluster,
                "nodes",
                trouble,
                self._nodes_fresh,
            ),
            look=look,
        )
        self._identities_listed = asyncio.Event()
        self._identities = Reflector(
            kv,
            keys.identities_prefix(cluster, cached=cached),
            canary("identities"),
            decode=identity,
            copy=copies.identities,
            outlet=_ToNobody(trouble, self._identities_fresh),
        )
        self._reads_identities = identities
        self._addresses = Reflector(
            kv,
            keys.addresses_prefix(cluster, cached=cached),
            canary("ip"),
            decode=address,
            copy=copies.addresses,
            outlet=Judge(
                copies.address_removals,
                _ToSink(
                    sink.replace_addresses,
                    sink.put_address,
                    sink.address_vanished,
                    cluster,
                    "addresses",
                    trouble,
                    self._addresses_fresh,
                ),
                word,
                lambda: True,
                cluster=cluster,
                kind="addresses",
            ),
        )

    def list_again(self) -> None:
        """Read everything once more: what did not count may count now."""
        self._addresses.list_again()

    async def run(self) -> NoReturn:
        """List and watch until cancelled; a ClustermeshError when the connection cannot be relied on any more."""
        parts = [self._nodes.run(), self._run_addresses()]
        if self._reads_identities:
            parts.append(self._run_identities())
        failure: ClustermeshError = await until_failure(*parts)
        raise failure

    def _nodes_fresh(self) -> None:
        self._settle("nodes")
        self._nodes_listed.set()

    def _identities_fresh(self) -> None:
        self._settle("identities")
        self._identities_listed.set()

    def _addresses_fresh(self) -> None:
        self._settle("addresses")
        self.listed.set()

    async def _run_identities(self) -> NoReturn:
        await self._nodes_listed.wait()
        await self._identities.run()

    async def _run_addresses(self) -> NoReturn:
        await (self._identities_listed if self._reads_identities else self._nodes_listed).wait()
        await self._addresses.run()


@dataclass(frozen=True, slots=True)
class _ToSink(Generic[RecordT]):
    """A reflector's outlet: adds the cluster's name, and says whether changes arrive."""

    told_all: Callable[[str, Sequence[RecordT]], None]
    told_one: Callable[[str, RecordT], None]
    vanished: Callable[[str, str, int], None]
    cluster: str
    kind: str
    trouble: Callable[[str, str], None]
    told_fresh: Callable[[], None]

    def replace(self, records: Mapping[str, RecordT], kept: Mapping[str, Kept[RecordT]] = NOTHING) -> None:
        self.told_all(self.cluster, [*records.values(), *(each.record for each in kept.values())])

    def put(self, name: str, record: RecordT) -> None:
        self.told_one(self.cluster, record)

    def keep(self, kept: Mapping[str, Kept[RecordT]]) -> None:
        """That they are not there any more is told to nobody."""

    def delete(self, names: Sequence[str], revision: int) -> None:
        for name in names:
            self.vanished(self.cluster, name, revision)

    def fresh(self) -> None:
        self.told_fresh()

    def stale(self, reason: str) -> None:
        self.trouble(self.kind, reason)


@dataclass(frozen=True, slots=True)
class _ToNobody:
    """An outlet of identities: the copy is all that is wanted."""

    trouble: Callable[[str, str], None]
    told_fresh: Callable[[], None]

    def replace(self, records: Mapping[str, Identity]) -> None:
        pass

    def put(self, name: str, record: Identity) -> None:
        pass

    def delete(self, names: Sequence[str], revision: int) -> None:
        pass

    def fresh(self) -> None:
        self.told_fresh()

    def stale(self, reason: str) -> None:
        self.trouble("identities", reason)
