"""Which clusters may read an etcd, declared in a file, and made so by whoever looks after it (upkeep.py).

Several look after one etcd, and see a new file at different times: a generation says which is the newer.
"""

from __future__ import annotations

from dataclasses import dataclass

from clustermesh.access import Access
from clustermesh.errors import MembershipError
from clustermesh.invitation import as_mapping, dump
from clustermesh.kv import Kv

KEY = "meshd/readers"
"""In etcd: the generation that is in force. No reader may read it."""


@dataclass(frozen=True, slots=True)
class Readers:
    """``names``: the clusters that may read the etcd of ``cluster``; ``generation`` grows with every change."""

    cluster: str
    generation: int = 1
    names: tuple[str, ...] = ()

    def admitting(self, name: str) -> Readers:
        """With ``name``; the same if it may read already."""
        if name in self.names:
            return self
        return Readers(self.cluster, self.generation + 1, tuple(sorted((*self.names, name))))

    def dismissing(self, name: str) -> Readers:
        """Without ``name``; the same if it may not read."""
        if name not in self.names:
            return self
        names = tuple(each for each in self.names if each != name)
        return Readers(self.cluster, self.generation + 1, names)


def render(readers: Readers) -> bytes:
    """``readers`` as YAML."""
    return dump(
        {"cluster": readers.cluster, "generation": readers.generation, "readers": list(readers.names)}
    )


def parse(where: object, text: bytes) -> Readers:
    """What render() wrote; MembershipError names ``where``."""
    document = as_mapping(where, text)
    try:
        names = tuple(str(each) for each in document["readers"])
        return Readers(str(document["cluster"]), int(document["generation"]), names)
    except (KeyError, TypeError, ValueError) as error:
        raise MembershipError(f"{where}: {error!r}") from error


async def put_in_force(kv: Kv, access: Access, wanted: Readers) -> int:
    """The generation that is in force: that of ``wanted``, or a newer one that somebody else has seen.

    May be repeated; where everything is so already, nothing is written, because etcd refuses what is under way while its
    users change. Raises KvError.
    """
    found = await kv.get(KEY)
    known = int(found.value or b"0") if found is not None else 0
    if known > wanted.generation:
        return known
    if not known:
        await access.restrict(wanted.cluster)
    admitted = set(await access.admitted())
    for name in sorted(set(wanted.names) - admitted):
        await access.admit(name)
    for name in sorted(admitted - set(wanted.names)):
        await access.dismiss(name)
    if known < wanted.generation:
        await kv.put(KEY, str(wanted.generation).encode())
    return wanted.generation
