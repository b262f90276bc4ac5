"""Links of a lab's fabric that carry nothing any more, for as long as somebody wants to see what happens then."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from meshd.kernel.netns import Netns
from meshd.lab.layout import Cluster, Places
from meshd.lab.record import LabError
from meshd.lab.topology import etcd_port, node_port

TABLE = "bridge meshd-lab-cut"
# From which port of the fabric to which: one way.
Way = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Drop:
    """Frames from port ``here`` to port ``there`` (empty: any port) that match ``which`` of nftables (empty: all)."""

    here: str = ""
    there: str = ""
    which: str = ""

    @property
    def rule(self) -> str:
        here = f'iifname "{self.here}" ' if self.here else ""
        there = f'oifname "{self.there}" ' if self.there else ""
        return f"{here}{there}{self.which} drop"


def larger_than(size_bytes: int) -> str:
    """Of a frame: its packet has more bytes than this."""
    return f"meta length > {size_bytes}"


def to_udp_port(port: int) -> str:
    """Of a frame: it carries a datagram to this port."""
    return f"udp dport {port}"


def share(percent: int) -> str:
    """Of frames: so many of a hundred, drawn anew for each."""
    return f"numgen random mod 100 < {percent}"


def between(one: Cluster, other: Cluster) -> Iterator[Way]:
    """All ways between the nodes of two clusters, both directions; their etcds are reached as before."""
    for here, there in itertools.product(map(node_port, one.nodes), map(node_port, other.nodes)):
        yield from ((here, there), (there, here))


def from_etcd_of(cluster: Cluster, others: Iterable[Cluster]) -> Iterator[Way]:
    """All ways between the etcd of ``cluster`` and the nodes of ``others``; everything else goes on."""
    for node in (node for other in others for node in other.nodes):
        yield from ((etcd_port(cluster), node_port(node)), (node_port(node), etcd_port(cluster)))


def cut(places: Places, ways: Iterable[Way]) -> None:
    """Frames on these ``ways`` are dropped from now on, and no others.

    Raises:
        LabError: nftables refuses.
    """
    drop(places, [Drop(here, there) for here, there in ways])


def drop(places: Places, drops: Iterable[Drop]) -> None:
    """These frames are dropped from now on, and no others.

    Raises:
        LabError: nftables refuses.
    """
    rules = [each.rule for each in drops]
    chain = "\n".join(["type filter hook forward priority 0; policy accept;", *rules])
    # Declared first, because what is not there cannot be deleted; all in one transaction.
    _nft(
        places, f"table {TABLE}\ndelete table {TABLE}\ntable {TABLE} {{\nchain forward {{\n{chain}\n}}\n}}\n"
    )


def heal(places: Places) -> None:
    """Every link carries frames again."""
    _nft(places, f"table {TABLE}\ndelete table {TABLE}\n")


def _nft(places: Places, script: str) -> None:
    with Netns.open(places.fabric_netns) as fabric:
        done = fabric.run(
            lambda: subprocess.run(
                ["nft", "-f", "-"], input=script, capture_output=True, text=True, check=False
            )
        )
    if done.returncode != 0:
        raise LabError(f"links of lab {places.id} cannot be cut: {done.stderr.strip()}")
