"""What the kernel says of the ways to other nodes, remembered: asked for the first time while a node is planned."""

from __future__ import annotations

import errno

from meshd.dataplane.reach import Here, Reached, reach
from meshd.kernel import rtnetlink as rt
from meshd.kernel.route_socket import RouteSocket
from meshd.kernel.rtnetlink_answers import route_of
from meshd.model import Address, Node
from meshd.model.address import to_ip

# linux/rtnetlink.h: an address of this machine itself is no way to another node.
_UNICAST = 1
_NO_WAY = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL)


class Ways:
    """``here`` None: this node was not looked at yet, so nothing can be said of others."""

    def __init__(self) -> None:
        self.here: Here | None = None
        self._socket: RouteSocket | None = None
        self._near: dict[Address, bool] = {}

    def reached(self, node: Node) -> Reached | None:
        """How the pods of ``node`` are reached; None: it is not known yet."""
        if self.here is None:
            return None
        return reach(self.here, node, self._is_near)

    def look_again(self) -> set[Address]:
        """Asks for every way anew; addresses for which the answer is another than before. May run on any thread.

        Raises:
            KernelError: the kernel cannot be asked.
        """
        before = dict(self._near)
        return {address for address, was in before.items() if self._ask(address) is not was}

    def forget(self, kept: set[Address]) -> None:
        """Nobody is interested in any but ``kept`` any more."""
        self._near = {address: near for address, near in self._near.items() if address in kept}

    def close(self) -> None:
        """Gives the descriptor back."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _is_near(self, address: Address) -> bool:
        known = self._near.get(address)
        return self._ask(address) if known is None else known

    def _ask(self, address: Address) -> bool:
        """One question takes some 20 us: it is asked where the answer is needed."""
        if self._socket is None:
            self._socket = RouteSocket()
        (answers,) = self._socket.exchange([rt.get_route(to_ip(address), _NO_WAY)])
        near = bool(answers) and rt.ROUTE.unpack_from(answers[0])[7] == _UNICAST
        near = near and route_of(answers[0]).gateway is None
        self._near[address] = near
        return near
