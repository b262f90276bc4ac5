"""An etcd is looked after: space is given back one member at a time, and an alarm for want of space ends when there is some.

The keeper beside the member that leads does it, so that no two are defragmented at once. A leased key would not do: etcd
grants none while it is out of space.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import structlog

from clustermesh.errors import Compacted
from clustermesh.kv import Kv
from clustermesh.maintenance import CORRUPT, NOSPACE, Maintenance, Status
from clustermesh.readers import KEY as READERS

log = structlog.get_logger()

WORTH_BYTES = 64 << 20
WORTH_SHARE = 0.5
"""Both have to be free before a member is defragmented: it answers nobody meanwhile."""
# Below this share of the quota an alarm is taken back.
ROOM = 0.8


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of an etcd. ``members``: by address, None: it does not answer."""

    members: Mapping[str, Status | None]
    alarms: frozenset[str]


def is_worthwhile(status: Status) -> bool:
    """Whether defragmentation gives back enough."""
    return status.free_bytes >= WORTH_BYTES and status.free_bytes >= status.size_bytes * WORTH_SHARE


def next_member(
    members: Mapping[str, Status | None], done: Collection[str] = (), *, everybody: bool = False
) -> str | None:
    """Who is to be defragmented now: of the followers the one with most to give, then the leader; None: nobody.

    ``done``: those that were already. ``everybody``: whatever they have to give; an etcd that takes no writes does not even
    count what became free. Nobody while a member is away: with one more, which is busy, there may be no majority. The leader
    comes last, because who follows it waits for it.
    """
    there = {name: status for name, status in members.items() if status is not None}
    if len(there) < len(members):
        return None
    wanting = [
        name for name, status in there.items() if name not in done and (everybody or is_worthwhile(status))
    ]
    return min(wanting, key=lambda name: (there[name].leads, -there[name].free_bytes), default=None)


async def look(maintenance: Maintenance) -> Seen:
    """How the etcd is. Raises KvError: no member answers."""
    return Seen(await maintenance.statuses(), await maintenance.alarms())


async def keep_up(kv: Kv, maintenance: Maintenance, seen: Seen, mine: str, quota_bytes: int) -> int:
    """Does what is to be done, if the member with address ``mine`` leads; how many members were defragmented.

    Raises KvError: what was not done is done the next time.
    """
    me = seen.members.get(mine)
    if me is None or not me.leads:
        return 0
    if CORRUPT in seen.alarms:
        # Defragmenting, or anything else that writes, would hide what happened.
        log.error("etcd members differ", alarm=CORRUPT, remedy="docs/join-clusters.md, The mesh's own etcd")
        return 0
    alarmed = NOSPACE in seen.alarms
    everybody = alarmed and await _forget_history(kv)
    done = await _give_back(maintenance, everybody=everybody)
    if alarmed:
        await _take_back(maintenance, quota_bytes)
    return done


async def _forget_history(kv: Kv) -> bool:
    """History is what can go; False: there is none since the last time."""
    try:
        await kv.compact((await kv.find(READERS)).revision)
    except Compacted:
        return False
    return True


async def _give_back(maintenance: Maintenance, *, everybody: bool) -> int:
    done = set[str]()
    # Who was done and still has something to give has it for another reason.
    while (name := next_member(await maintenance.statuses(), done, everybody=everybody)) is not None:
        await maintenance.defragment(name)
        done.add(name)
        log.info("etcd member defragmented", member=name)
    return len(done)


async def _take_back(maintenance: Maintenance, quota_bytes: int) -> None:
    """The alarm for want of space ends, if there is some."""
    sizes = [status.size_bytes for status in (await maintenance.statuses()).values() if status is not None]
    largest = max(sizes, default=quota_bytes)
    if largest < quota_bytes * ROOM:
        await maintenance.disarm(NOSPACE)
        log.warning("etcd takes writes again", size_bytes=largest, quota_bytes=quota_bytes)
    else:
        log.error("etcd has no space for what it holds", size_bytes=largest, quota_bytes=quota_bytes)
