"""What is told of a policy, and by whom."""

from __future__ import annotations

import pytest

from meshd.kubeapi.resources import NETWORK_POLICIES
from meshd.kubenode.policies import OPTIONAL, Policy, PolicyMetadata, event, is_teller

NOW = "2026-01-01T00:00:00Z"


def policy(name: str = "deny", namespace: str = "shop", generation: int = 1) -> Policy:
    return Policy(PolicyMetadata(name, namespace, "0123456789", generation, "5"))


def test_an_event_is_on_the_object_and_its_name_follows_from_its_generation() -> None:
    made = event(NETWORK_POLICIES, policy(), "n1", NOW)
    assert made["metadata"] == {"name": "deny.meshd-01234567-1", "namespace": "shop"}
    assert made["involvedObject"]["kind"] == "NetworkPolicy"
    assert made == event(NETWORK_POLICIES, policy(), "n1", NOW)
    assert made["metadata"] != event(NETWORK_POLICIES, policy(generation=2), "n1", NOW)["metadata"]


def test_an_object_without_a_namespace_has_its_event_in_the_usual_one() -> None:
    made = event(OPTIONAL[0], policy(namespace=""), "n1", NOW)
    assert (made["metadata"]["namespace"], made["involvedObject"]["namespace"]) == ("default", "")


def test_a_long_name_makes_no_name_that_the_api_server_refuses() -> None:
    made = event(NETWORK_POLICIES, policy("x" * 253), "n1", NOW)
    assert len(made["metadata"]["name"]) == 253
    assert made["metadata"]["name"].endswith(".meshd-01234567-1")


@pytest.mark.parametrize(("own", "tells"), [("a", True), ("c", True), ("d", False), ("z", False)])
def test_the_agents_of_a_few_nodes_tell(own: str, tells: bool) -> None:
    assert is_teller(own, ["d", "c", "b", "a"]) is tells
