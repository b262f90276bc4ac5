"""What the servers show of the dataplane, the kernel and the remote clusters, in the servers' own values."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from meshd import __version__
from meshd.agent.counts import Counts
from meshd.commit import commit
from meshd.config import Config
from meshd.dataplane.dataplane import Dataplane
from meshd.dataplane.dump import dump
from meshd.dataplane.opening import left_out, map_pins
from meshd.errors import UnknownObject
from meshd.kernel.features import Feature as KernelFeature
from meshd.kernel.maps import Map
from meshd.kernel.pins import pin_path
from meshd.model import ServiceName
from meshd.servers.introspection import (
    Build,
    Feature,
    Figure,
    KernelMap,
    MapRow,
    Program,
    Reconcile,
    Sample,
)
from meshd.sources.local_etcd import LocalEtcd
from meshd.sources.manifests import Manifests
from meshd.sources.remote import RemoteClusters

# BPF_MAP_TYPE_* of include/uapi/linux/bpf.h, as far as our maps use them.
KINDS = {
    1: "hash",
    2: "array",
    3: "prog_array",
    5: "percpu_hash",
    6: "percpu_array",
    9: "lru_hash",
    11: "lpm_trie",
    18: "sockhash",
    27: "ringbuf",
}


def build(started_s: float) -> Build:
    """What runs here."""
    return Build(__version__, commit(), platform.release(), platform.python_version(), started_s)


def problems(manifests: Manifests | None, remotes: RemoteClusters, local_etcd: LocalEtcd | None) -> list[str]:
    """What the sources were given and cannot use, each as one sentence."""
    found = [str(problem) for problem in manifests.problems()] if manifests is not None else []
    status = remotes.status
    found += [f"peer file {name}: {reason}" for name, reason in status.refused_files.items()]
    if status.directory_error:
        found.append(f"peers cannot be read, those known stand: {status.directory_error}")
    for peer in status.peers:
        found += [f"cluster {peer.cluster}: {name}: {reason}" for name, reason in peer.refused.items()]
    if local_etcd is not None and local_etcd.last_error:
        found.append(f"this cluster's etcd: {local_etcd.last_error}")
    for name in local_etcd.absent_agents() if local_etcd is not None else ():
        found.append(
            f"the agent of node {name} is not there: what it put in force stands, and nothing new is"
        )
    return found


class DataplaneView:
    """``found``: what the kernel was found to have at the start. ``places``: program -> the devices that it is on."""

    def __init__(
        self,
        config: Config,
        dataplane: Dataplane,
        found: Sequence[KernelFeature],
        places: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self._places = places
        self._config = config
        self._dataplane = dataplane
        self._found = found
        self._counts = Counts()

    def features(self) -> Sequence[Feature]:
        return [Feature(f.name, f.present, f.needed_by, f.reason, f.cost) for f in self._found]

    def programs(self) -> Sequence[Program]:
        """Every hook: where it acts, or why it does not."""
        on = self._dataplane.hooks()
        loaded = self._dataplane.opened.loaded.programs
        missing = {f.name: f.reason for f in self._found if not f.present}
        without = left_out(missing)
        where = {name: str(self._dataplane.cgroup or "") for name, is_on in on.items() if is_on}
        where |= self._places()
        return [
            Program(
                name,
                loaded[name].info().program_id if name in loaded else 0,
                where.get(name, ""),
                "" if name in loaded else missing.get(without.get(name, ""), "left out"),
            )
            for feature in self._dataplane.opened.features
            for name in feature.programs
        ]

    def maps(self) -> Sequence[KernelMap]:
        """Every map; entries of ours from memory, of those the kernel writes by a walk."""
        return [
            self._map(each) for each in self._dataplane.opened.loaded.maps.values() if self._is_ours(each)
        ]

    def dump(self, name: str) -> Iterator[MapRow]:
        """The entries of one map.

        Raises:
            UnknownObject: no map has that name.
        """
        found = self._dataplane.opened.loaded.maps.get(name)
        if found is None or not self._is_ours(found):
            raise UnknownObject(f"map {name}")
        return (MapRow(key, value) for key, value in dump(found, self._dataplane.opened.btf))

    def figures(self) -> Sequence[Figure]:
        """What the dataplane counts."""
        plane = self._dataplane
        events = tuple(Sample(float(count), {"event": name}) for name, count in plane.events().items())
        destroyed = tuple(
            Sample(float(count), {"service": service, "protocol": protocol, "cause": because.value})
            for (service, protocol, because), count in plane.closer.destroyed.items()
        )
        repaired = tuple(
            Sample(float(count), {"map": name}) for name, count in plane.auditor.repaired.items()
        )
        return [
            Figure("socket_lb_events", "What the socket hooks did, by event.", "counter", events),
            Figure("sockets_destroyed", "Sockets closed because their backend went.", "counter", destroyed),
            Figure(
                "sockets_not_destroyed",
                "Sockets that the kernel refused to close.",
                "counter",
                (Sample(float(plane.closer.failed)),),
            ),
            Figure("rows_repaired", "Rows that somebody else had changed and an audit put right.", "counter", repaired),
            Figure("rows_retired", "Rows that wait until no program can be reading them.", "gauge",
                   (Sample(float(plane.retired.waiting)),)),
            Figure("reconcile_turn_seconds", "Duration of the last turn of the reconciler.", "gauge",
                   (Sample(plane.reconciler.last_turn_s),)),
        ]  # fmt: skip

    def reconcile(self) -> Reconcile:
        """How far the kernel is behind the mesh."""
        plane = self._dataplane
        return Reconcile(
            plane.lag_s(time.monotonic()), plane.reconciler.failures, plane.auditor.repaired.total()
        )

    def backends_in_use(self, name: ServiceName) -> int:
        """Distinct backends that a new connection could be given now."""
        return self._dataplane.backends_in_use(name)

    def _map(self, each: Map) -> KernelMap:
        observed = self._dataplane.delta.observed.get(each.name)
        kind = KINDS.get(each.info.map_type, str(each.info.map_type))
        # An array is always full, and a ring has no entries.
        counted = (
            None
            if "array" in kind or kind == "ringbuf"
            else self._counts.of(each)
            if observed is None
            else len(observed)
        )
        pin = pin_path(map_pins(self._config), each.name, self._dataplane.opened.btf.schema_hash(each.name))
        return KernelMap(
            each.name, kind, each.info.key_size, each.info.value_size, each.info.max_entries, counted,
            each.memlock_bytes(), str(pin),
        )  # fmt: skip

    def _is_ours(self, each: Map) -> bool:
        return each.name in self._dataplane.opened.btf.maps()
