"""Identities that nobody uses any more are deleted by the cluster's publisher, as Cilium's operator does in its clusters."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import structlog

from clustermesh import keys
from clustermesh.kv import Kv
from clustermesh.operations import Compare

log = structlog.get_logger()

DeleteIf = Callable[[str, Sequence[Compare]], Awaitable[bool]]
"""Deletes a key if the conditions hold; whether they did."""


class UnusedIdentities:
    """Looked for with every ``sweep``; one that was unused, and not written, from one to the next is deleted."""

    def __init__(self, kv: Kv, cluster: str) -> None:
        self._kv = kv
        self._prefix = keys.identities_prefix(cluster)
        self._unused: dict[str, int] = {}

    async def sweep(self, delete_if: DeleteIf) -> int:
        """How many were deleted. KvError when etcd does not answer; then nothing follows."""
        uses = (await self._kv.list(keys.IDENTITY_USES)).items
        used = {(item.value or b"").decode(errors="replace") for item in uses}
        # Read after the uses: one that got its first user in between is looked at again before anything happens to it.
        found = (await self._kv.list(self._prefix)).items
        unused = {
            item.key: item.mod_revision for item in found if item.key.removeprefix(self._prefix) not in used
        }
        again = [key for key, revision in unused.items() if self._unused.get(key) == revision]
        deleted = 0
        for key in again:
            # Who begins to use it writes it first.
            if await delete_if(key, [Compare(key, "mod", unused.pop(key))]):
                deleted += 1
        self._unused = unused
        if deleted:
            log.info("unused identities deleted", identities=deleted)
        return deleted
