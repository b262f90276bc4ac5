"""A node that is suddenly far away: every packet of it and to it comes late, and none gets lost.

Its port leaves the fabric's bridge, and a relay (``relay.py``) carries frames between it and a port that stands in for it.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from meshd.kernel import netlink
from meshd.kernel.netlink import VethEnd
from meshd.kernel.netns import Netns
from meshd.lab.faults.effect import Effect
from meshd.lab.faults.fault import Fault
from meshd.lab.faults.ground import Ground
from meshd.lab.faults.links import WATCH_S
from meshd.lab.layout import Node, Places
from meshd.lab.processes import Program, kill_tree, start, tell
from meshd.lab.topology import BRIDGE, node_port
from meshd.lab.up import on_thread

# More of a round trip; half of it each way.
MORE_S = 0.3


def moved_away(node: Node) -> Fault:
    """`MORE_S` more round-trip time between ``node`` and everybody."""
    name = f"{node.name} moved {MORE_S * 1000:g} ms away"

    async def inject(ground: Ground) -> None:
        places = ground.lab.places
        await on_thread(_make_links, places, node)
        relay = start(_relay(places, node), notify=True)
        ground.lab.running[f"relay/{node.name}"] = relay
        await relay.ready()
        await on_thread(_lead_through_relay, places, node)

    async def heal(ground: Ground) -> None:
        tell(_cgroup(ground.lab.places, node), signal.SIGTERM)
        # By then nothing is under way that was to wait.
        await asyncio.sleep(MORE_S)
        await on_thread(_lead_past_relay, ground.lab.places, node)
        ground.lab.running.pop(f"relay/{node.name}").reap()

    effect = Effect(late=frozenset({node.name}))
    return Fault(name, effect, inject, heal, frozenset({node.name}), hold_s=WATCH_S)


def _stands_in(node: Node) -> tuple[str, str]:
    """The port of the bridge that stands in for the node's own, and its other end."""
    return f"{node_port(node)}far", f"{node_port(node)}relay"


def _relay(places: Places, node: Node) -> Program:
    script = Path(__file__).with_name("relay.py")
    directory = places.run / "relays" / node.name
    links = [node_port(node), _stands_in(node)[1]]
    return Program(
        f"relay of {node.name}",
        [sys.executable, "-I", "-S", str(script), "--delay", str(MORE_S / 2), *links],
        _cgroup(places, node),
        places.fabric_netns,
        directory / "log",
        {},
    )


def _cgroup(places: Places, node: Node) -> Path:
    return places.cgroup / "relays" / node.name


def _make_links(places: Places, node: Node) -> None:
    port, end = _stands_in(node)
    with Netns.open(places.fabric_netns) as fabric:
        netlink.create_veth(VethEnd(fabric, port), VethEnd(fabric, end))


def _lead_through_relay(places: Places, node: Node) -> None:
    with Netns.open(places.fabric_netns) as fabric:
        netlink.remove_port(fabric, node_port(node))
        netlink.add_port(fabric, BRIDGE, _stands_in(node)[0])


def _lead_past_relay(places: Places, node: Node) -> None:
    with Netns.open(places.fabric_netns) as fabric:
        netlink.delete_link(fabric, _stands_in(node)[0])
        netlink.add_port(fabric, BRIDGE, node_port(node))
    kill_tree(_cgroup(places, node))
