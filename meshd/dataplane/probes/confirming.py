"""Looks after outages while they stand: whether further silence and connections confirm or contradict them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import structlog

from meshd.dataplane.attempts import Attempts
from meshd.dataplane.probes.confirmation import Confirmation, Connects, Tally, telling_from
from meshd.errors import KernelError
from meshd.kernel.prober import Health, Sample
from meshd.model import Outage
from meshd.model.outage import PROBES
from meshd.state import Mesh

log = structlog.get_logger(__name__)

# Until it is known what becomes of an outage, and from then on.
LOOK_S = 0.25
LOOK_LATER_S = 1.0
# Rows that are looked up in one turn; nodes that do not fit have the next one.
ROWS_A_TURN = 1024

Seen = Callable[[str, str, Connects], None]


class Silent(NamedTuple):
    """A node that is down, and what came of asking it."""

    cluster: str
    node: str
    sample: Sample


@dataclass(slots=True)
class _Look:
    confirmation: Confirmation
    due: float = 0.0


class Confirming:
    """``attempts`` None: of connections nothing is known, so nothing is confirmed. ``seen`` hears of each look."""

    def __init__(self, mesh: Mesh, attempts: Attempts | None, seen: Seen = lambda *_: None) -> None:
        self._mesh = mesh
        self._attempts = attempts
        self._seen = seen
        # By cluster and name of the node.
        self._looks: dict[tuple[str, str], _Look] = {}

    def connects(self, cluster: str, node: str) -> Connects | None:
        """What connections to a node saw that is down; None: it is not, or was not looked at yet."""
        found = self._looks.get((cluster, node))
        return found.confirmation.tally.connects if found is not None and found.due else None

    def judged(self, outage: Outage) -> Outage:
        """``outage`` with what is known of it by now."""
        found = self._looks.get((outage.cluster, outage.node))
        if found is None:
            return outage
        one = found.confirmation
        return replace(outage, confirmed=one.confirmed, contradicted=one.contradicted)

    def look(
        self,
        silent: Mapping[tuple[str, str], Silent],
        health: Health,
        interval_s: float,
        hears_others_since: Callable[[Sample, float], bool],
    ) -> bool:
        """Whether anything is known now that was not; to be called with all nodes that are down, again and again."""
        self._looks = {name: look for name, look in self._looks.items() if name in silent}
        for name, each in silent.items():
            if name not in self._looks:
                self._looks[name] = _Look(self._begun(each, health, interval_s))
        changed, rows = False, 0
        for name, look in sorted(self._looks.items(), key=lambda each: each[1].due):
            if look.due > health.now or rows >= ROWS_A_TURN or self._attempts is None:
                break
            try:
                noted = self._attempts.of(*name)
            except KernelError as error:
                log.warning("what connections saw cannot be read", node="/".join(name), reason=str(error))
                look.due = health.now + LOOK_LATER_S
                continue
            one, sample = look.confirmation, silent[name].sample
            before = one.confirmed, one.contradicted
            one.look(sample, health, noted, partial(hears_others_since, sample))
            rows += len(noted)
            look.due = health.now + (LOOK_LATER_S if one.confirmed or one.contradicted else LOOK_S)
            self._seen(*name, one.tally.connects)
            if before != (one.confirmed, one.contradicted):
                changed = True
                _tell_of(silent[name], one)
        return changed

    def _begun(self, each: Silent, health: Health, interval_s: float) -> Confirmation:
        known = self._mesh.outages.get((PROBES, each.cluster, each.node))
        since = each.sample.answered_at
        if known is not None:
            # Of an earlier process, by whose clock of the wall it is known.
            since = since or health.now - max(time.time() - known.since_s + known.silent_s, 0.0)
        tally = Tally(since, telling_from(since, each.sample.rtt_s, interval_s))
        if known is None:
            return Confirmation(tally)
        return Confirmation(tally, known.confirmed, known.contradicted)


def _tell_of(silent: Silent, one: Confirmation) -> None:
    facts = {"node": f"{silent.cluster}/{silent.node}", "connects": str(one.tally.connects)}
    if one.contradicted:
        log.warning("node does not answer, and its backends do", **facts)
    elif one.confirmed:
        log.warning("node is confirmed to be down", **facts)
