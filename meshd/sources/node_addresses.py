"""The addresses of one cluster's pods by the node they are on, as its etcd has them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from clustermesh.address_record import AddressRecord
from meshd.model import Address, parse_address
from meshd.model.address import from_ip


class NodeAddresses:
    """``refused``: address -> why it does not count, as a sentence."""

    def __init__(self) -> None:
        self.is_listed = False
        self.refused: dict[Address, str] = {}
        self._by_host: dict[Address, set[Address]] = {}
        self._hosts: dict[Address, Address] = {}
        self._gone: tuple[int, set[Address]] = (0, set())

    def at(self, hosts: Iterable[Address]) -> set[Address]:
        """The addresses of pods on the node that has ``hosts``."""
        return set().union(*(self._by_host.get(host, ()) for host in hosts))

    def gone_at(self, revision: int) -> set[Address]:
        """What vanished last, if it was at ``revision`` of the store: keys of one lease end together."""
        return set(self._gone[1]) if self._gone[0] == revision else set()

    def replace(self, records: Sequence[AddressRecord]) -> None:
        """These are all."""
        self.is_listed = True
        self._by_host, self._hosts, self.refused = {}, {}, {}
        for record in records:
            self.put(record)

    def put(self, record: AddressRecord) -> set[Address]:
        """``record`` is new or changed; the nodes' addresses for which something changed. Prefixes are nobody's pods."""
        if record.network.prefixlen != record.network.max_prefixlen:
            return set()
        address = from_ip(record.network.network_address)
        touched = self._take(address)
        if record.host is not None:
            host = self._hosts[address] = from_ip(record.host)
            self._by_host.setdefault(host, set()).add(address)
            touched.add(host)
        return touched

    def vanished(self, name: str, revision: int) -> set[Address]:
        """There is no record of ``name`` any more; the nodes' addresses for which something changed."""
        if "/" in name:
            return set()
        address = parse_address(name)
        touched = self._take(address)
        if touched:
            before = self._gone[1] if self._gone[0] == revision else set()
            self._gone = revision, before | {address}
        return touched

    def _take(self, address: Address) -> set[Address]:
        host = self._hosts.pop(address, None)
        if host is None:
            return set()
        self._by_host[host].discard(address)
        self.refused.pop(address, None)
        return {host}
