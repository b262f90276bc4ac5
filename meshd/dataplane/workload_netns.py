"""The network namespaces of this node's workloads: their cookies, and a way to their sockets.

A cookie is what programs know a namespace by. The namespace is held open from when it is first planned, so its sockets are
found from anywhere, also after the pod's processes and the namespace's path are gone. Entering it costs a thread while a
runtime waits, so that happens only where nobody has been inside for the pod's link, or when sockets must be closed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from meshd.errors import KernelError
from meshd.kernel.netns import Netns
from meshd.kernel.netns_id import netns_id
from meshd.kernel.route_socket import RouteSocket
from meshd.kernel.sockets import SocketDiag
from meshd.model import Workload


class OpenNetns:
    """A namespace that lives at least until `close`. ``cookie``: if it is known already. ``id``: what the node's
    calls it, once somebody has asked."""

    def __init__(self, netns: Netns, path: str, cookie: int | None = None) -> None:
        """Takes ownership of ``netns``."""
        self.path = path
        self.netns = netns
        self.id: int | None = None
        self._diag: SocketDiag | None = None
        self.cookie = self.diag.netns_cookie() if cookie is None else cookie

    @property
    def diag(self) -> SocketDiag:
        """The way to its sockets, opened when it is first asked for.

        Raises:
            KernelError, OSError: the namespace cannot be entered, or gives no socket.
        """
        if self._diag is None:
            self._diag = SocketDiag(self.netns)
        return self._diag

    def is_at_path(self) -> bool:
        """Whether its path still names it: a pod of the same name may have come back with another. While we hold it, its
        inode is nobody else's.

        Raises:
            KernelError: nothing is there.
        """
        try:
            return os.path.samestat(Path(self.path).stat(), os.fstat(self.netns.fd))
        except OSError as error:
            raise KernelError("open", f"network namespace {self.path}", error.errno or 0) from error

    def close(self) -> None:
        """Give its descriptors back; may be repeated."""
        if self._diag is not None:
            self._diag.close()
        self.netns.close()


class WorkloadNetns:
    """Open namespaces by workload name; ``""`` is the node's own."""

    def __init__(self) -> None:
        self._open: dict[str, OpenNetns] = {"": OpenNetns(Netns.current(), "")}
        self._route: RouteSocket | None = None

    def cookie_of(self, name: str, workload: Workload | None) -> int:
        """The cookie of the workload's namespace, which is opened if it is new; 0 if there is no workload (any more).

        Raises:
            KernelError: its namespace is not there.
        """
        known = self._open.get(name)
        if workload is None:
            if known is not None:
                self._open.pop(name).close()
            return known.cookie if known else 0
        if known is not None and known.path == workload.netns and known.is_at_path():
            return known.cookie
        # Another namespace under a known name: what a link said of the one before does not count.
        cookie = _cookie_of_links(workload) if known is None else None
        opened = _opened(workload.netns, cookie)
        if known is not None:
            known.close()
        self._open[name] = opened
        return opened.cookie

    @property
    def node_cookie(self) -> int:
        """The cookie of the node's own namespace."""
        return self._open[""].cookie

    def id_of(self, name: str) -> int:
        """What the node's namespace calls that of a workload whose cookie was asked for before.

        Raises:
            KernelError: it cannot be asked.
        """
        opened = self._open[name]
        if opened.id is None:
            if self._route is None:
                self._route = RouteSocket()
            opened.id = netns_id(self._route, opened.netns)
        return opened.id

    def by_cookie(self) -> dict[int, OpenNetns]:
        """Cookie -> namespace."""
        return {each.cookie: each for each in self._open.values()}

    def close(self) -> None:
        """Give all descriptors back."""
        for each in self._all():
            each.close()
        self._open.clear()
        if self._route is not None:
            self._route.close()

    def _all(self) -> Iterator[OpenNetns]:
        return iter(self._open.values())


def _opened(path: str, cookie: int | None) -> OpenNetns:
    netns = Netns.open(Path(path))
    try:
        return OpenNetns(netns, path, cookie)
    except BaseException:
        netns.close()
        raise


def _cookie_of_links(workload: Workload) -> int | None:
    """Whoever made the pod's link was inside and saw the cookie; None: nobody was, or they saw different ones."""
    seen = {link.netns_cookie for link in workload.links}
    return seen.pop() if len(seen) == 1 else None
