"""An etcd that forgot its history while nobody could watch: who was reading changes has to list everything again."""

from __future__ import annotations

from meshd.lab.cuts import Drop
from meshd.lab.faults import etcdctl
from meshd.lab.faults.effect import Effect
from meshd.lab.faults.fault import Fault, nothing
from meshd.lab.faults.ground import Ground
from meshd.lab.faults.links import WATCH_S
from meshd.lab.layout import Cluster, Places
from meshd.lab.processes import kill_tree
from meshd.lab.record import LabError
from meshd.lab.topology import etcd_port
from meshd.lab.up import on_thread

# Not read by anybody; what counts is that the store's revision advances, by two that nobody's watch has seen.
KEY = "lab/compacted"


def etcd_compacted(cluster: Cluster) -> Fault:
    """The etcd of ``cluster`` is started anew, out of everybody's reach, and compacted before anybody is back."""
    name = f"etcd of {cluster.name} compacted"
    port = etcd_port(cluster)

    async def inject(ground: Ground) -> None:
        lab = ground.lab
        await ground.drop(name, [Drop(here=port), Drop(there=port)])
        # A watch that goes on over its old connection would miss nothing.
        await on_thread(kill_tree, lab.places.etcd_cgroup(cluster.name))
        await lab.start_etcd(cluster).ready()
        await on_thread(_compact, lab.places, cluster)
        await ground.carry(name)

    touches = frozenset({f"etcd/{cluster.name}"})
    return Fault(name, Effect(), inject, nothing, touches, hold_s=WATCH_S)


def _compact(places: Places, cluster: Cluster) -> None:
    first, last = (etcdctl.put(places, cluster, KEY, value) for value in ("one", "another"))
    before = first - 1
    etcdctl.ask(places, cluster, "compaction", "--physical", str(last))
    try:
        etcdctl.ask(places, cluster, "get", KEY, "--rev", str(before))
    except LabError as error:
        if "compacted" in str(error):
            return
        raise
    raise LabError(f"etcd of {cluster.name} still knows revision {before}, so no watch has to list again")
