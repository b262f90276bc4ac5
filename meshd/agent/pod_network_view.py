"""The pod network's programs in the agent, and what the servers show of them: drops, events, flows, and who has none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from meshd.config import Config
from meshd.dataplane.dataplane import Dataplane
from meshd.dataplane.devices import Devices
from meshd.dataplane.features import POD_NETWORK
from meshd.dataplane.opening import Opened, link_pins
from meshd.dataplane.pod_network import removal
from meshd.dataplane.pod_network.counters import Counters
from meshd.dataplane.pod_network.expire import Expirer
from meshd.dataplane.pod_network.places import POD
from meshd.dataplane.pod_network.traffic_control import TrafficControl
from meshd.kernel.features import Feature as KernelFeature
from meshd.servers.introspection import Drop, Figure, Sample
from meshd.state import Mesh


def traffic_control(
    config: Config, mesh: Mesh, dataplane: Dataplane, found: Sequence[KernelFeature]
) -> TrafficControl | None:
    """None: no programs carry pods' packets here, by configuration or because the kernel cannot."""
    loaded = dataplane.opened.loaded.programs
    programs = {name: loaded[name] for name in POD_NETWORK.programs if name in loaded}
    # The one that expires flows needs less of the kernel than those that carry packets.
    if POD_NETWORK not in dataplane.opened.features or not programs.keys() >= set(POD.programs):
        return None
    has_tcx = any(each.name == "tcx" and each.present for each in found)
    return TrafficControl(
        config,
        mesh,
        dataplane.devices,
        programs,
        link_pins(config),
        dataplane.opened.takeover,
        has_tcx=has_tcx,
        rerouted=dataplane.rerouted,
    )


class PodNetworkView:
    """``programs`` None: no programs carry pods' packets here; then there is nothing to show."""

    def __init__(
        self,
        config: Config,
        opened: Opened,
        devices: Devices,
        programs: TrafficControl | None,
        expirer: Expirer | None,
    ) -> None:
        self._devices = devices
        # Looked at once: nobody but a clean-up takes them away, and that runs without an agent.
        self._is_left_over = not config.has_pod_network and removal.is_attached(config)
        self._is_not_built = config.has_pod_network and POD_NETWORK not in opened.features
        self._programs = programs
        self._expirer = expirer
        self._counters: Counters | None = None
        if POD_NETWORK in opened.features:
            self._counters = Counters(opened.btf, opened.loaded.maps)

    def drops(self) -> Sequence[Drop] | None:
        """Every reason and direction."""
        if self._counters is None:
            return None
        return [Drop(one.reason, one.direction, one.packets, one.bytes) for one in self._counters.drops()]

    def figures(self) -> Sequence[Figure]:
        """What the programs count."""
        drops = self.drops()
        if drops is None or self._counters is None:
            return []
        labels = [{"reason": one.reason, "direction": one.direction} for one in drops]
        packets = tuple(Sample(float(one.packets), of) for one, of in zip(drops, labels, strict=True))
        size = tuple(Sample(float(one.bytes), of) for one, of in zip(drops, labels, strict=True))
        events = tuple(Sample(float(n), {"event": name}) for name, n in self._counters.events().items())
        return [
            Figure("drop_packets", "Packets of pods that were dropped, by reason.", "counter", packets),
            Figure("drop_bytes", "Bytes of these packets.", "counter", size),
            Figure(
                "pod_network_events", "What the programs on pods' links did, by event.", "counter", events
            ),
            *self._flows(),
            *self._repaired(),
        ]

    def _repaired(self) -> Iterator[Figure]:
        if self._programs is not None:
            count = Sample(float(self._programs.repaired))
            help_text = "Devices that somebody had taken programs off, and that were given them again."
            yield Figure("programs_repaired", help_text, "counter", (count,))

    def _flows(self) -> Iterator[Figure]:
        """As of the last walk over the table."""
        expirer = self._expirer
        if expirer is None or expirer.last is None:
            return
        last, capacity = expirer.last, Sample(float(expirer.capacity))
        translated = {"masqueraded": last.masqueraded, "to_service": last.services}
        yield _by("flows", "Flows of pods, by state.", "gauge", "state", last.kept._asdict())
        yield _by("flows_expired", "Flows that nobody used any more.", "counter", "state", expirer.expired)
        yield _by(
            "flows_translated", "Flows whose packets are rewritten.", "gauge", "translation", translated
        )
        help_text = "Entries of the table of answered flows; a translated flow takes two."
        yield Figure("flows_capacity", help_text, "gauge", (capacity,))

    def problems(self) -> list[str]:
        """What is not as it should be, each as one sentence."""
        found: list[str] = []
        if self._is_not_built:
            found.append(
                "podNetwork is on, but the BPF object has no programs for it: the host's stack carries all packets"
            )
        if self._is_left_over:
            found.append(
                "podNetwork is off, but programs that an earlier agent attached act still: `meshd cleanup` removes them"
            )
        if self._programs is None:
            return found
        found += [
            f"{device} has no programs, the host's stack carries its packets: {why}"
            for device, why in self._programs.without.items()
        ]
        found += [
            f"{device} leads out of the node, but is no Ethernet device: what pods send through it is not masqueraded"
            for device in self._devices.now.not_carried
        ]
        return found


def _by(
    name: str, help_text: str, kind: Literal["counter", "gauge"], label: str, values: Mapping[str, int]
) -> Figure:
    samples = tuple(Sample(float(count), {label: of}) for of, count in values.items())
    return Figure(name, help_text, kind, samples)
