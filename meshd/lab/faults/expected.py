"""The right outcome of a fault, fixed before it is injected. Pure: the lab's plan and the fault's effect, no look at either.

Rules (docs/probes.md, docs/faults.md):

* A remote node that cannot be reached is left by every client whose own node has an agent, or else by its hooks.
* Nobody leaves who can be reached. What is wrong with an etcd, an agent or a publisher moves nobody.
* Within a cluster, who serves is its own word, and in a lab nobody says that a node died: requests to it are lost.
* A node that reaches nobody at all is itself cut off, and finds fault with nobody; what its clients lose, nobody can save.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from meshd.lab.faults.effect import Effect, NodeName
from meshd.lab.layout import Cluster
from meshd.lab.record import Pod


@dataclass(frozen=True, slots=True)
class Outlook:
    """What clients of one node must see while the fault lasts.

    ``serving``: backends (CLUSTER/POD) that can be reached, so they may not be left. ``left``: those that must be left.
    ``unsaved``: those that cannot be reached, while nobody can know or say so: requests to them are lost.
    ``hooks_only``: its agent does not judge, so its hooks do. ``lossy``: some requests are lost on the way. ``late``: of
    ``serving``, those to whom every packet comes late. ``gone``: its clients are dead.
    """

    serving: frozenset[str] = frozenset()
    left: frozenset[str] = frozenset()
    unsaved: frozenset[str] = frozenset()
    hooks_only: bool = False
    lossy: bool = False
    late: frozenset[str] = frozenset()
    gone: bool = False

    @property
    def must_switch(self) -> bool:
        """Whether its clients may lose requests only until they have switched."""
        return bool(self.left) and not self.unsaved and not self.gone


@dataclass(frozen=True, slots=True)
class Expected:
    """``outlooks``: by node. Pairs are (observer, node): where its agent may (``may_fall``) and must
    (``must_fall``) say that the node does not answer.
    """

    outlooks: Mapping[NodeName, Outlook]
    may_fall: frozenset[tuple[NodeName, NodeName]] = frozenset()
    must_fall: frozenset[tuple[NodeName, NodeName]] = frozenset()


def expected(
    clusters: Sequence[Cluster], backends: Sequence[Pod], effect: Effect, *, is_single: bool = True
) -> Expected:
    """What ``effect`` must lead to, for the clients and the agent of every node. ``is_single``: it began in one instant."""
    of = {node.name: cluster.name for cluster in clusters for node in cluster.nodes}
    fall = frozenset(
        (here, there)
        for here in of
        for there in of
        if of[here] != of[there] and here not in effect.dead and not effect.reaches(here, there)
    )
    # Who hears nobody blames nobody; but a neighbour that was silent before the others proves nothing of what came then.
    must = frozenset((here, there) for here, there in fall if not is_cut_off(here, of, effect))
    outlooks = {here: _outlook(here, of, backends, effect, must) for here in of}
    able = frozenset((here, there) for here, there in must if here not in effect.without_agent)
    return Expected(outlooks, must if is_single else fall, able)


def is_cut_off(here: NodeName, of: Mapping[NodeName, str], effect: Effect) -> bool:
    """Whether ``here`` lives and reaches no other node."""
    return here not in effect.dead and not any(effect.reaches(here, there) for there in of if there != here)


def _outlook(
    here: NodeName,
    of: Mapping[NodeName, str],
    backends: Sequence[Pod],
    effect: Effect,
    judging: frozenset[tuple[NodeName, NodeName]],
) -> Outlook:
    if here in effect.dead:
        return Outlook(gone=True)
    hooks_only = here in effect.without_agent
    serving: set[str] = set()
    left: set[str] = set()
    unsaved: set[str] = set()
    for pod in backends:
        if pod.id in effect.killed:
            # Its cluster says so, unless nobody is there to hear.
            (unsaved if hooks_only else left).add(pod.id)
        elif effect.reaches(here, pod.node):
            serving.add(pod.id)
        elif (here, pod.node) in judging:
            left.add(pod.id)
        else:
            unsaved.add(pod.id)
    lossy = any(here in way for way in effect.lossy)
    late = frozenset(
        pod.id
        for pod in backends
        if pod.id in serving and pod.node != here and {here, pod.node} & effect.late
    )
    return Outlook(frozenset(serving), frozenset(left), frozenset(unsaved), hooks_only, lossy, late)
