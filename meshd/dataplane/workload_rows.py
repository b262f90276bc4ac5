"""The rows of one workload in the kernel: compared with what is wanted, and written again where they differ.

The audit does that for all rows, in its own time. A runtime that asks (CHECK), or that adds a pod once more, is told of that
pod's rows now.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from meshd.dataplane.rows import Plan
from meshd.kernel.maps import Map
from meshd.state import PlanKey


class WorkloadRows:
    """``plan``: what a plan key wants now. Keys are `NAMESPACE/NAME`."""

    def __init__(self, maps: Mapping[str, Map], plan: Callable[[PlanKey], Plan]) -> None:
        self._maps = maps
        self._plan = plan

    def wrong(self, workload: str) -> list[str]:
        """In what the kernel differs, as phrases.

        Raises:
            KernelError: a map cannot be read, or the workload's namespace is gone.
        """
        found = Counter(
            f"map {name} {'lacks rows' if there is None else 'has other rows'} of it"
            for name, _, _, there in self._differing(workload)
        )
        return [f"{phrase} ({count})" for phrase, count in found.items()]

    def mend(self, workload: str) -> None:
        """Writes what is wanted over what is there. Raises KernelError as above."""
        for name, key, value, _ in list(self._differing(workload)):
            self._maps[name].update(key, value)

    def _differing(self, workload: str) -> Iterator[tuple[str, bytes, bytes, bytes | None]]:
        for name, rows in self._plan(PlanKey("workload", workload)).rows.items():
            for key, value in rows.items():
                found = self._maps[name].lookup(key)
                if found != value:
                    yield name, key, value, found
