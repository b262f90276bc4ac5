"""Asks other nodes whether they are there, and tells the mesh of those that are not: source `probes`.

Questions and answers are a thread's in C (`kernel/prober.py`); here is only looked at what came of them, often in a second.
An event loop that comes late looks late, and sees what was answered meanwhile.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from meshd.config import Config
from meshd.dataplane.attempts import Attempts
from meshd.dataplane.probes.confirmation import Connects, hears_others
from meshd.dataplane.probes.confirming import Confirming, Seen, Silent
from meshd.dataplane.probes.targets import PORT, Asked, asked
from meshd.dataplane.probes.verdict import Judge, against_us
from meshd.errors import KernelError
from meshd.kernel.prober import Health, Prober, Sample, Target
from meshd.model import Address, Node, Outage, Reachability, format_address, is_ipv4, parse_address
from meshd.model.address_pool import health_addresses
from meshd.model.cluster import REMOTE_PREFIX
from meshd.model.outage import PROBES
from meshd.state import Mesh

log = structlog.get_logger(__name__)

LOOK_S = 0.05
# Whom to ask follows the mesh at most so often: every backend is looked at.
RETARGET_S = 0.5


@dataclass(frozen=True, slots=True)
class Answering:
    """One node, as it is seen now. ``since_s``: Unix time since when; ``rtt_s`` and ``loss`` (0..1) of late.

    ``suspicion``: why it is not down although it is silent. ``is_reference``: only asked to know that this node hears.
    ``connects``: of one that is down, what connections to its backends saw; None: not known.
    """

    cluster: str
    node: str
    address: Address
    reachability: Reachability
    since_s: float
    rtt_s: float
    loss: float
    suspicion: str
    is_reference: bool
    connects: Connects | None = None


class NodeProbes:
    """`run` in the node's namespace. Outages that the mesh holds at the start stand until their nodes answer again.

    ``attempts``: what the hooks noted of connections; None: nothing. ``seen`` hears what they saw of nodes that are down.
    """

    def __init__(
        self, config: Config, mesh: Mesh, attempts: Attempts | None = None, seen: Seen = lambda *_: None
    ) -> None:
        self._config = config
        self._mesh = mesh
        self._confirming = Confirming(mesh, attempts, seen)
        self._own = health_addresses(config.cni.pod_cidrs)
        self._references = [parse_address(text) for text in config.probes.references]
        self._targets: dict[int, Asked] = {}
        # By cluster and name of the node.
        self._numbers: dict[tuple[str, str], int] = {}
        self._judges: dict[int, Judge] = {}
        self._samples: Mapping[int, Sample] = {}
        self._next_id = 1
        self._interval_s = config.probes.interval_s
        self._revision = -1
        self._retargeted_at = 0.0
        self._trouble = ""
        self.falls = 0
        """How many times a node was found to be down since the start."""

    async def run(self) -> None:
        """Until cancelled; outages stand."""
        try:
            prober = Prober()
        except KernelError as error:
            # Everything else goes on as without probes.
            log.error("nodes of other clusters are not probed", reason=str(error))
            self._trouble = f"nodes of other clusters are not probed: {error}"
            return
        try:
            while True:
                moved = self._mesh.moved_event()
                self._follow(prober)
                if not self._targets:
                    await moved.wait()
                    await asyncio.sleep(RETARGET_S)
                    continue
                self._look(*prober.read())
                await asyncio.sleep(LOOK_S)
        finally:
            prober.close()

    def answering(self) -> list[Answering]:
        """All that are asked, by cluster and name."""
        ordered = sorted(self._targets.items(), key=lambda each: each[1])
        return [self._answering(number, target) for number, target in ordered]

    def answering_of(self, node: Node) -> Answering | None:
        """Whether ``node`` answers; None: it is not asked."""
        number = self._numbers.get((node.cluster, node.name))
        return self._answering(number, self._targets[number]) if number is not None else None

    def _answering(self, number: int, target: Asked) -> Answering:
        judge, sample = self._judges[number], self._samples.get(number)
        return Answering(
            target.cluster,
            target.node,
            target.address,
            judge.state,
            time.time() - (time.monotonic() - judge.since) if judge.since else 0.0,
            sample.rtt_s if sample is not None else 0.0,
            judge.loss(),
            judge.suspicion,
            target.is_reference,
            self._confirming.connects(target.cluster, target.node),
        )

    def problems(self) -> list[str]:
        """Whoever does not answer, as sentences."""
        found = [self._trouble] if self._trouble else []
        for each in self.answering():
            name = (
                f"node {each.cluster}/{each.node}" if each.node else f"address {format_address(each.address)}"
            )
            if each.reachability is Reachability.DOWN and not each.is_reference:
                said = f"{name} does not answer: its backends are used only where nobody else serves"
                found.append(said + _seen_by(each.connects))
            elif each.suspicion:
                found.append(f"{name} does not answer, but this may be this node's fault: {each.suspicion}")
        return found

    # Whom to ask

    def _follow(self, prober: Prober) -> None:
        now = time.monotonic()
        if self._mesh.revision == self._revision or now - self._retargeted_at < RETARGET_S:
            return
        self._revision, self._retargeted_at = self._mesh.revision, now
        wanted = asked(self._mesh, self._own, self._references)
        known = {target: number for number, target in self._targets.items()}
        if known.keys() == set(wanted) and self._mesh.is_complete(PROBES):
            self._tell()
            return
        numbers = {target: known.get(target) or self._new_number() for target in wanted}
        self._targets = {number: target for target, number in numbers.items()}
        self._numbers = {(target.cluster, target.node): number for target, number in numbers.items()}
        self._judges = {
            number: self._judges.get(number) or self._judge(target)
            for number, target in self._targets.items()
        }
        self._interval_s = max(self._config.probes.interval_s, len(wanted) / self._config.probes.budget)
        prober.set([self._question(number, target) for target, number in numbers.items()], self._interval_s)
        self._tell()

    def _new_number(self) -> int:
        self._next_id += 1
        return self._next_id

    def _judge(self, target: Asked) -> Judge:
        outage = self._mesh.outages.get((PROBES, target.cluster, target.node))
        if outage is None or target.is_reference:
            return Judge()
        age = max(time.time() - outage.since_s, 0.0)
        return Judge(Reachability.DOWN, time.monotonic() - age)

    def _question(self, number: int, target: Asked) -> Target:
        """From our own address of that family among our pods', so that question and answer go the way of pods' packets."""
        family = is_ipv4(target.address)
        own = next((each for each in self._own if is_ipv4(each) is family), None)
        return Target(number, target.address, PORT, own if target.node else None)

    # What came of it

    def _look(self, samples: Mapping[int, Sample], health: Health) -> None:
        self._samples = samples
        references = [each for number, each in samples.items() if self._targets[number].is_reference]
        newest = max((each.answered_at for each in samples.values()), default=0.0)
        changed = False

        def doubt(sample: Sample) -> str:
            return against_us(sample, references, newest)

        for number, sample in samples.items():
            judge, target = self._judges[number], self._targets[number]
            before, suspected = judge.state, judge.suspicion
            after = judge.look(
                sample, health, self._interval_s, nobody_doubts if target.is_reference else doubt
            )
            if judge.suspicion and not suspected:
                log.warning("node silent, perhaps for us alone", node=str(target), reason=judge.suspicion)
            if after is not before and not target.is_reference:
                self._note(target, judge, sample, health)
                changed = changed or Reachability.DOWN in (before, after)
        if self._confirm(samples, references, newest, health) or changed:
            self._tell()

    def _confirm(
        self, samples: Mapping[int, Sample], references: list[Sample], newest: float, health: Health
    ) -> bool:
        silent = {
            name: Silent(*name, samples[number]) for name, number in self._down().items() if number in samples
        }

        def hears_others_since(sample: Sample, since: float) -> bool:
            return hears_others(sample, references, newest, since)

        return self._confirming.look(silent, health, self._interval_s, hears_others_since)

    def _down(self) -> dict[tuple[str, str], int]:
        return {
            (target.cluster, target.node): number
            for number, target in self._targets.items()
            if not target.is_reference and self._judges[number].state is Reachability.DOWN
        }

    def _note(self, target: Asked, judge: Judge, sample: Sample, health: Health) -> None:
        if judge.state is Reachability.DOWN:
            self.falls += 1
            log.warning("node does not answer", node=str(target), **_silence(sample, health))
        else:
            log.info("node answers", node=str(target), rtt_ms=round(sample.rtt_s * 1000, 3))

    def _tell(self) -> None:
        """The mesh holds an outage of each node that is down, and of none that answers."""
        down = self._down()
        outages = [self._confirming.judged(self._outage(*name, number)) for name, number in down.items()]
        # Of a cluster that has not listed since the start nobody knows whom to ask.
        outages += [
            each
            for each in self._mesh.outages.values()
            if (each.cluster, each.node) not in down
            and not self._mesh.is_complete(REMOTE_PREFIX + each.cluster)
        ]
        if not self._mesh.is_complete(PROBES):
            self._mesh.replace(PROBES, outages)
            return
        named = {each.key for each in outages}
        over = [(Outage, key) for key, _ in self._mesh.outages.items() if key not in named]
        self._mesh.apply(PROBES, outages, over)

    def _outage(self, cluster: str, node: str, number: int) -> Outage:
        known = self._mesh.outages.get((PROBES, cluster, node))
        if known is not None:
            return known
        since, sample = self._judges[number].since, self._samples.get(number)
        since_s = time.time() - (time.monotonic() - since)
        silent_s = max(since - sample.answered_at, 0.0) if sample is not None and sample.answered_at else 0.0
        return Outage(cluster, node, since_s, "it does not answer probes", silent_s=silent_s)


def _seen_by(connects: Connects | None) -> str:
    """What is added to a sentence on a node that does not answer."""
    if connects is None:
        return ""
    contradicted = "; its backends do answer, so no connection is closed for it" if connects.answered else ""
    return f"; connects: {connects}{contradicted}"


def nobody_doubts(_: Sample) -> str:
    """Of a reference nothing follows."""
    return ""


def _silence(sample: Sample, health: Health) -> dict[str, object]:
    said = {
        "silent_ms": round((health.now - sample.answered_at) * 1000),
        "unanswered": sample.unanswered,
        "rtt_ms": round(sample.rtt_s * 1000, 3),
    }
    return said | ({"error": errno.errorcode.get(sample.last_error, "")} if sample.last_error else {})
