"""What is to be written into our Node so that it says whether new pods can have a network. Pure.

Two things keep the scheduler away: the taint that whoever adds nodes gives them, so that nothing is scheduled before the
agent is there; and the condition NetworkUnavailable, from which the node controller makes a taint of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from meshd.kubenode.node_object import NodeObject, Object

TAINT = "meshd.io/agent-not-ready"
CONDITION = "NetworkUnavailable"
UP, DOWN = "MeshdIsUp", "MeshdCannotServe"
# From one change of what is said to the next: the scheduler and everybody's eviction follow it.
SAID_FOR_S = 30.0


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether new pods can have a network; ``reason``: why not, a sentence, empty: they can."""

    reason: str = ""

    @property
    def is_given(self) -> bool:
        return not self.reason


@dataclass(frozen=True, slots=True)
class Changes:
    """Patches of our Node: ``status`` (strategic) of its subresource, ``taints`` (merge). None: it is right."""

    status: Object | None = None
    taints: Object | None = None


def changes(node: NodeObject, wanted: Availability, now: str) -> Changes:
    """What makes ``node`` say ``wanted``. ``now``: RFC 3339."""
    return Changes(_status(node, wanted, now), _taints(node, wanted))


def released(node: NodeObject, now: str) -> Changes:
    """What takes from ``node`` everything that we said: for the network that comes after."""
    has_condition = any(each.type == CONDITION for each in node.status.conditions or ())
    gone: Object = {"status": {"conditions": [{"type": CONDITION, "$patch": "delete"}]}}
    return Changes(gone if has_condition else None, _taints(node, Availability()))


def next_said(said: Availability | None, found: Availability, since_s: float) -> Availability:
    """What to say now: ``said`` has been said for ``since_s`` seconds, ``found`` is how it is. None: nothing yet."""
    if said is None or said.is_given == found.is_given:
        return found
    return found if since_s >= SAID_FOR_S else said


def _status(node: NodeObject, wanted: Availability, now: str) -> Object | None:
    status, reason = ("False", UP) if wanted.is_given else ("True", DOWN)
    message = wanted.reason or "meshd gives pods their network"
    before = next((each for each in node.status.conditions or () if each.type == CONDITION), None)
    if before is not None and (before.status, before.reason, before.message) == (status, reason, message):
        return None
    condition: Object = {
        "type": CONDITION,
        "status": status,
        "reason": reason,
        "message": message,
        "lastHeartbeatTime": now,
    }
    if before is None or before.status != status:
        condition["lastTransitionTime"] = now
    return {"status": {"conditions": [condition]}}


def _taints(node: NodeObject, wanted: Availability) -> Object | None:
    before = node.spec.taints or []
    others = [each for each in before if each.get("key") != TAINT]
    after = others if wanted.is_given else [*others, {"key": TAINT, "effect": "NoSchedule"}]
    if wanted.is_given == (len(others) == len(before)):
        return None
    # With the version, so that a taint that somebody adds meanwhile is not lost.
    return {"metadata": {"resourceVersion": node.metadata.resource_version}, "spec": {"taints": after}}
