"""An etcd that is restored from an older snapshot: it names one ready backend less than there are."""

from __future__ import annotations

import shutil
from pathlib import Path

from meshd.lab.etcd import PEER_URL
from meshd.lab.faults import etcdctl
from meshd.lab.faults.effect import Effect
from meshd.lab.faults.fault import Fault, nothing
from meshd.lab.faults.ground import Ground
from meshd.lab.faults.links import WATCH_S
from meshd.lab.layout import Cluster, Places
from meshd.lab.objects import Condition
from meshd.lab.processes import kill_tree
from meshd.lab.readiness import settled
from meshd.lab.record import Pod
from meshd.lab.up import on_thread

PATIENCE_S = 30.0


def etcd_restored(cluster: Cluster, pod: Pod) -> Fault:
    """The etcd of ``cluster`` goes back to when its backend ``pod`` was not ready; nobody but etcd forgot that it is."""

    async def prepare(ground: Ground) -> None:
        lab = ground.lab
        lab.set_condition([pod], Condition.FAILED)
        await settled(lab, PATIENCE_S)
        await on_thread(_save, lab.places, cluster)
        lab.set_condition([pod], Condition.READY)
        await settled(lab, PATIENCE_S)

    async def inject(ground: Ground) -> None:
        lab = ground.lab
        await on_thread(kill_tree, lab.places.etcd_cgroup(cluster.name))
        await on_thread(_restore, lab.places, cluster)
        await lab.start_etcd(cluster).ready()

    touches = frozenset({f"etcd/{cluster.name}", *(node.name for node in cluster.nodes)})
    name = f"etcd of {cluster.name} restored from an older snapshot"
    return Fault(name, Effect(), inject, nothing, touches, prepare, WATCH_S)


def _snapshot(places: Places, cluster: Cluster) -> Path:
    return places.cluster(cluster.name) / "snapshot"


def _save(places: Places, cluster: Cluster) -> None:
    path = _snapshot(places, cluster)
    path.unlink(missing_ok=True)
    etcdctl.ask(places, cluster, "snapshot", "save", str(path))


def _restore(places: Places, cluster: Cluster) -> None:
    data = places.etcd_data(cluster.name)
    shutil.rmtree(data)
    name = cluster.name
    member = ("--name", name, "--initial-cluster", f"{name}={PEER_URL}")
    peer = ("--initial-advertise-peer-urls", PEER_URL, "--data-dir", str(data))
    etcdctl.work(places, cluster, "snapshot", "restore", str(_snapshot(places, cluster)), *member, *peer)
