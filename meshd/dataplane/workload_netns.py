"""The network namespaces of this node's workloads: their cookies, and a way to their sockets.

A cookie is what programs know a namespace by. The sock_diag socket is opened inside the namespace once; from then on it is
used from anywhere, also after the pod's processes are gone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from meshd.kernel.netns import Netns
from meshd.kernel.sockets import SocketDiag
from meshd.model import Workload


@dataclass(frozen=True, slots=True)
class OpenNetns:
    path: str
    cookie: int
    diag: SocketDiag


class WorkloadNetns:
    """Open namespaces by workload name; ``""`` is the node's own."""

    def __init__(self) -> None:
        with_own = Netns.current()
        self._open: dict[str, OpenNetns] = {"": _opened(with_own, "")}

    def cookie_of(self, name: str, workload: Workload | None) -> int:
        """The cookie of the workload's namespace, which is opened if it is new; 0 if there is no workload (any more).

        Raises:
            KernelError: its namespace is not there.
        """
        known = self._open.get(name)
        if workload is None:
            if known is not None:
                self._open.pop(name).diag.close()
            return known.cookie if known else 0
        if known is not None and known.path == workload.netns and _is_same(known):
            return known.cookie
        opened = _opened(Netns.open(Path(workload.netns)), workload.netns)
        if known is not None:
            known.diag.close()
        self._open[name] = opened
        return opened.cookie

    def by_cookie(self) -> dict[int, OpenNetns]:
        """Cookie -> namespace."""
        return {each.cookie: each for each in self._open.values()}

    def close(self) -> None:
        """Give all descriptors back."""
        for each in self._all():
            each.diag.close()
        self._open.clear()

    def _all(self) -> Iterator[OpenNetns]:
        return iter(self._open.values())


def _opened(netns: Netns, path: str) -> OpenNetns:
    """One visit: it costs a thread, and a runtime waits for it."""
    with netns:
        diag = SocketDiag(netns)
    return OpenNetns(path, diag.netns_cookie(), diag)


def _is_same(known: OpenNetns) -> bool:
    """Whether the path still is the namespace we know: a pod of the same name may have come back with another."""
    netns = Netns.open(Path(known.path))
    try:
        return netns.cookie() == known.cookie
    finally:
        netns.close()
