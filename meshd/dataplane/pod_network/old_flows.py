"""Flows of addresses that no pod has any more: forgotten, before another pod gets the address.

What programs remember of a flow decides how its packets go (through the host's stack, translated to what), so a stranger's
flow must not be found by the next holder of its address. The programs expire flows by age only, hours after the last packet
of an established connection. So after pods went, the tables are read through once, on a worker thread.

A row says an address in four places: both ends as the packets are, and both as they become.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

import structlog

from meshd.errors import KernelError, LayoutError
from meshd.kernel.btf import Btf
from meshd.kernel.layout import Record
from meshd.kernel.maps import Map
from meshd.model import Address

log = structlog.get_logger(__name__)

TABLES = ("flows", "new_flows")
OWNERS = "pod_flows"
# Deleted without letting anybody else run between.
SLICE = 1024

IsGone = Callable[[Address], bool]
Ends = Sequence[Address]


class OldFlows:
    """``maps``: those of the object; where there is no pod network, there is nothing to forget."""

    def __init__(self, maps: Mapping[str, Map], btf: Btf) -> None:
        self._maps = {name: maps[name] for name in (*TABLES, OWNERS) if name in maps}
        self._in_key, self._in_value = _places(btf) if self._maps else ((), ())

    async def forget(self, is_suspect: IsGone, is_gone: IsGone) -> int:
        """Deletes every flow of an address that ``is_gone``; how many there were.

        ``is_suspect`` is asked while the tables are read, for every address in them and on a worker thread; ``is_gone``
        before a row is deleted: an address may have been given to somebody meanwhile.

        Raises:
            KernelError: a table cannot be read or changed; what was deleted is.
        """
        found = await asyncio.to_thread(self._look, is_suspect)
        forgotten = 0
        for name, rows in found.items():
            for start in range(0, len(rows), SLICE):
                some = rows[start : start + SLICE]
                still = [key for key, ends in some if any(map(is_gone, ends))]
                forgotten += self._maps[name].delete_batch(still)
                await asyncio.sleep(0)
        return forgotten

    def _look(self, is_suspect: IsGone) -> dict[str, list[tuple[bytes, Ends]]]:
        """Table -> keys to delete, with their addresses. Many rows, of which most stay: each costs no more than it must."""
        key_ends, value_ends = self._in_key, self._in_value
        found: dict[str, list[tuple[bytes, Ends]]] = {}
        for name in TABLES:
            found[name] = []
            for key, value in self._maps[name].items() if name in self._maps else ():
                ends = [Address(key[at]) for at in key_ends] + [Address(value[at]) for at in value_ends]
                if any(map(is_suspect, ends)):
                    found[name].append((key, ends))
        owners = self._maps[OWNERS].keys() if OWNERS in self._maps else ()
        found[OWNERS] = [(key, [Address(key)]) for key in owners if is_suspect(Address(key))]
        return {name: rows for name, rows in found.items() if rows}


def _places(btf: Btf) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where a flow's key and value hold addresses."""
    key = _offsets(btf, "tuple")
    other = _offsets(btf, "flow")["other"]
    ends = key["source"], key["destination"]
    return (
        tuple(slice(each, each + 16) for each in ends),
        tuple(slice(other + each, other + each + 16) for each in ends),
    )


def _offsets(btf: Btf, name: str) -> dict[str, int]:
    layout = btf.layout(name)
    if not isinstance(layout, Record):
        raise LayoutError(name, "it is no struct")
    return {field.name: field.offset for field in layout.fields}


class Forgetter:
    """Forgets flows of released addresses soon after their release. Use: ``await run()``, `released` at any time."""

    # Pods that end together are swept together; and of the time no more than a twentieth goes into it.
    GATHER_S = 1.0
    REST = 20

    def __init__(self, flows: OldFlows, is_held: Callable[[Address], bool]) -> None:
        """``is_held``: whether some pod has the address again."""
        self._flows = flows
        self._is_held = is_held
        self._released: set[Address] = set()
        self._changed = asyncio.Event()

    def released(self, address: Address) -> None:
        """No pod has ``address`` any more."""
        self._released.add(address)
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            await self._changed.wait()
            await asyncio.sleep(self.GATHER_S)
            self._changed.clear()
            before, gone = clock(), frozenset(self._released)
            try:
                forgotten = await self._flows.forget(
                    gone.__contains__,
                    lambda address, gone=gone: address in gone and not self._is_held(address),  # type: ignore[misc] # a bound default
                )
            except KernelError as error:
                log.warning("flows of released addresses are not forgotten, tried again", reason=str(error))
                self._changed.set()
            else:
                self._released -= gone
                if forgotten:
                    log.info("flows of released addresses forgotten", addresses=len(gone), flows=forgotten)
            await asyncio.sleep(self.REST * (clock() - before))
