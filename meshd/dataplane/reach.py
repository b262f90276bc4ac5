"""How the pods of another node are reached: by plain routing, or in a tunnel. A pure decision, which both ends make alike.

It depends on what both ends say of themselves, and where that leaves it open on whether they share a link: then plain
routing needs nobody else's consent. A node that is not one of ours does not say how it would be reached, so there is no
tunnel to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from meshd.model import Address, Node, NodeState, is_ipv4

ROUTINGS = frozenset({"auto", "native", "vxlan"})


class Via(Enum):
    """NOT: not at all."""

    NATIVE = "native"
    TUNNEL = "vxlan"
    NOT = ""


@dataclass(frozen=True, slots=True)
class Here:
    """This end. ``v4``, ``v6``: under which other nodes reach it; None: not in that family."""

    routing: str
    v4: Address | None = None
    v6: Address | None = None


@dataclass(frozen=True, slots=True)
class Reached:
    """``tunnel``: the other end's address. ``gateways``: addresses of the node on a link of ours, for routes of the host.

    ``reason``: why its pods are not reached, as a phrase.
    """

    via: Via
    tunnel: Address | None = None
    gateways: tuple[Address, ...] = ()
    reason: str = ""

    def gateway(self, *, v4: bool) -> Address | None:
        """The gateway of one family."""
        return next((address for address in self.gateways if is_ipv4(address) is v4), None)


def reach(here: Here, node: Node, is_near: Callable[[Address], bool]) -> Reached:
    """How this end reaches the pods of ``node``. ``is_near``: whether an address is on a link of ours, without a gateway."""
    # IPv4 first, at both ends: they must come to the same pair of addresses.
    common = [address for address in (_of(node, v4=True), _of(node, v4=False)) if address]
    common = [address for address in common if _has_family(here, address)]
    gateways = tuple(address for address in common if is_near(address))
    is_on_link = bool(common) and common[0] in gateways
    if reason := _obstacle(here, node, common, is_on_link=is_on_link):
        return Reached(Via.NOT, reason=reason)
    both = {here.routing, node.routing or "native"}
    if "vxlan" in both or (node.routing and both != {"native"} and not is_on_link):
        return Reached(Via.TUNNEL, tunnel=common[0])
    return Reached(Via.NATIVE, gateways=gateways)


def _obstacle(here: Here, node: Node, common: list[Address], *, is_on_link: bool) -> str:
    """Why the pods of ``node`` cannot be reached, as a phrase; empty: they can."""
    if node.state is NodeState.REFUSED:
        return node.reason
    if node.routing and node.routing not in ROUTINGS:
        return f"it says routing {node.routing[:40]!r}, which is not known here"
    if not common:
        return "it has no address of a family in which this node has one"
    needs_tunnel = here.routing == "vxlan" or (here.routing == "auto" and not is_on_link)
    if not node.routing and needs_tunnel:
        return (
            "it is no meshd node, so it can be reached by native routing only, and that would take a tunnel"
        )
    return ""


def _of(node: Node, *, v4: bool) -> Address | None:
    return next((address for address in node.addresses if is_ipv4(address) is v4), None)


def _has_family(here: Here, address: Address) -> bool:
    return (here.v4 if is_ipv4(address) else here.v6) is not None
