"""Something is said to all nodes of a cluster, and everyone's word is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from contextlib import aclosing

from clustermesh.errors import ClustermeshError
from meshd.errors import ClusterNotTold
from meshd.model.cluster import ETCD, OWN_NODE
from meshd.servers.short_circuit import Agreement, Word
from meshd.sources.cluster_switch import ClusterSwitch, Said
from meshd.state import Mesh


def expected(mesh: Mesh, cluster: str, node: str) -> frozenset[str]:
    """The nodes whose word is wanted: those that say, or said, in the cluster's etcd that they are there, and this one."""
    named = (one for one in mesh.nodes.values() if one.source in {ETCD, OWN_NODE})
    return frozenset({node, *(one.name for one in named if one.cluster == cluster)})


async def agreed(mesh: Mesh, switch: ClusterSwitch, *, on: bool, patience_s: float | None) -> Agreement:
    """Says ``on`` to the cluster of ``switch``, and who has done it when all have, or the time is up.

    Raises:
        ClusterNotTold: etcd did not take it.
    """
    said: Mapping[str, Said] = {}
    change = ""
    try:
        async with asyncio.timeout(patience_s):
            change = await switch.turn(on=on)
            while not mesh.is_complete(ETCD):
                # Who is expected is not known yet.
                await mesh.moved()
            async with aclosing(switch.words()) as words:
                async for said in words:
                    if switch.is_superseded(change) or not _missing(mesh, switch, said, change):
                        break
    except TimeoutError:
        if not change:
            raise ClusterNotTold("it did not answer in time") from None
    except ClustermeshError as error:
        if not change:
            raise ClusterNotTold(str(error)) from error
    given = [Word(name, one.on, one.reason) for name, one in sorted(said.items()) if one.change == change]
    if switch.is_superseded(change):
        # Nobody is waited for: words are about the other change by now.
        return Agreement(given, superseded=True)
    return Agreement(given, sorted(_missing(mesh, switch, said, change)))


def _missing(mesh: Mesh, switch: ClusterSwitch, said: Mapping[str, Said], change: str) -> Collection[str]:
    given = {name for name, one in said.items() if one.change == change}
    return expected(mesh, switch.cluster, switch.node) - given
