"""What is written into our Node."""

from __future__ import annotations

import pytest

from meshd.kubenode.announcement import (
    SAID_FOR_S,
    Availability,
    Changes,
    changes,
    next_said,
    released,
)
from meshd.kubenode.node_object import Condition, Metadata, NodeObject, Object, Spec, Status

NOW = "2026-01-01T00:00:00Z"
OURS = {"key": "meshd.io/agent-not-ready", "effect": "NoSchedule"}
OTHER = {"key": "dedicated", "value": "db", "effect": "NoExecute"}
UP, FULL = Availability(), Availability("no address left")
SAID_UP = Condition("NetworkUnavailable", "False", "MeshdIsUp", "meshd gives pods their network")
SAID_FULL = Condition("NetworkUnavailable", "True", "MeshdCannotServe", "no address left")


def node(condition: Condition | None, *taints: Object) -> NodeObject:
    conditions = [Condition("Ready", "True"), *([condition] if condition else [])]
    return NodeObject(Metadata("n1", "u1", "7"), Spec(taints=list(taints)), Status(conditions=conditions))


def taints_written(found: Changes) -> object:
    return None if found.taints is None else found.taints["spec"]["taints"]


def condition_written(found: Changes) -> object:
    if found.status is None:
        return None
    written = found.status["status"]["conditions"][0]
    return written["status"], written["reason"], written["message"], "lastTransitionTime" in written


@pytest.mark.parametrize(
    ("before", "wanted", "condition", "taints"),
    [
        (node(None, OURS), UP, ("False", "MeshdIsUp", SAID_UP.message, True), []),
        (node(SAID_UP), UP, None, None),
        (node(SAID_UP, OTHER, OURS), UP, None, [OTHER]),
        (node(SAID_UP, OTHER), FULL, ("True", "MeshdCannotServe", "no address left", True), [OTHER, OURS]),
        (node(SAID_FULL, OURS), FULL, None, None),
        (
            node(SAID_FULL, OURS),
            Availability("worse"),
            ("True", "MeshdCannotServe", "worse", False),
            None,
        ),
        (
            node(Condition("NetworkUnavailable", "True", "NoRouteCreated")),
            UP,
            ("False", "MeshdIsUp", SAID_UP.message, True),
            None,
        ),
    ],
)
def test_the_node_is_made_to_say_whether_new_pods_can_come(
    before: NodeObject, wanted: Availability, condition: object, taints: object
) -> None:
    found = changes(before, wanted, NOW)
    assert (condition_written(found), taints_written(found)) == (condition, taints)


def test_taints_are_written_over_the_version_that_was_read_only() -> None:
    found = changes(node(SAID_UP, OURS), UP, NOW).taints
    assert found is not None
    assert found["metadata"] == {"resourceVersion": "7"}


def test_a_node_that_is_let_go_has_nothing_of_ours() -> None:
    found = released(node(SAID_FULL, OTHER, OURS), NOW)
    assert taints_written(found) == [OTHER]
    assert found.status == {"status": {"conditions": [{"type": "NetworkUnavailable", "$patch": "delete"}]}}
    assert released(node(None, OTHER), NOW) == Changes()


@pytest.mark.parametrize(
    ("said", "found", "since_s", "then"),
    [
        (None, FULL, 0.0, FULL),
        (UP, FULL, SAID_FOR_S - 1, UP),
        (UP, FULL, SAID_FOR_S, FULL),
        (FULL, UP, SAID_FOR_S - 1, FULL),
        (FULL, UP, SAID_FOR_S, UP),
        (FULL, Availability("worse"), 0.0, Availability("worse")),
    ],
)
def test_what_is_said_does_not_flap(
    said: Availability | None, found: Availability, since_s: float, then: Availability
) -> None:
    assert next_said(said, found, since_s) == then
