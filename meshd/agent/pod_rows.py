"""What the CNI plugin asks of the maps: one pod's rows, and what programs remember of pods that are gone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

from meshd.dataplane.dataplane import Dataplane
from meshd.dataplane.pod_network.old_flows import Forgetter, OldFlows
from meshd.dataplane.workload_rows import WorkloadRows
from meshd.errors import KernelError
from meshd.model import Address

# Addresses of which is remembered, while the tables of flows are read, whether they are a pod's.
REMEMBERED = 4096


class PodRows:
    """`run` forgets flows of released addresses until cancelled. ``may_be_pods``: whether this node gives an address to
    pods; ``is_held``: whether a pod has it."""

    def __init__(
        self,
        dataplane: Dataplane,
        may_be_pods: Callable[[Address], bool],
        is_held: Callable[[Address], bool],
    ) -> None:
        self._auditor = dataplane.auditor
        self._rows = WorkloadRows(dataplane.maps, dataplane.plan)
        self._flows = OldFlows(dataplane.opened.loaded.maps, dataplane.opened.btf)
        self._forgetter = Forgetter(self._flows, is_held)
        self._may_be_pods = may_be_pods
        self._is_held = is_held
        self.wrong = self._rows.wrong
        self.mend = self._rows.mend
        self.released = self._forgetter.released

    async def run(self) -> None:
        """Until cancelled."""
        await self._forgetter.run()

    async def collect(self) -> Sequence[str]:
        """Rows that nobody wants and flows that are nobody's are gone; what failed, as phrases."""
        failed = []
        for step in (self._audit, self._forget_strangers):
            try:
                await step()
            except KernelError as error:
                failed.append(str(error))
        return failed

    async def _audit(self) -> None:
        await self._auditor.audit()

    async def _forget_strangers(self) -> None:
        def is_stranger(address: Address) -> bool:
            return self._may_be_pods(address) and not self._is_held(address)

        await self._flows.forget(lru_cache(REMEMBERED)(is_stranger), is_stranger)
