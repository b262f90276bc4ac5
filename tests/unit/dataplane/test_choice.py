"""Which backends a service uses: one row a rule."""

from __future__ import annotations

import pytest

from meshd.dataplane.choice import Candidate, alive, choose
from meshd.model import Affinity, Backend, BackendPort, Protocol, Service, ServiceName, parse_address

READY, ENDING, DEAD = "ready", "ending", "dead"
CONDITIONS = {
    READY: {},
    "unready": {"ready": False, "serving": False},
    ENDING: {"ready": False, "serving": True, "terminating": True},
    DEAD: {"ready": False, "serving": False, "terminating": True},
    "drained": {"weight": 0},
}


def candidate(name: str) -> Candidate:
    """``here:ready`` is a ready backend on this node; ``away``: another node; ``remote``: another cluster."""
    place, condition = name.split(":")
    facts = CONDITIONS[condition]
    backend = Backend(parse_address("10.0.0.1"), (BackendPort("", Protocol.TCP, 80),), node=place, **facts)  # type: ignore[arg-type]
    if place == "remote":
        # A remote cluster may call its node like ours.
        backend = Backend(backend.address, backend.ports, node="here", **facts)  # type: ignore[arg-type]
    return Candidate(backend, name, remote=place == "remote")


def service(**facts: object) -> Service:
    return Service(ServiceName("default", "s"), "manifests", **facts)  # type: ignore[arg-type]


RULES = [
    ("all ready ones", {}, "here:ready away:ready remote:ready", "here:ready away:ready remote:ready"),
    ("ready before ending", {}, "here:ready away:ending", "here:ready"),
    ("ending if no ready one is left", {}, "here:unready away:ending remote:dead", "away:ending"),
    ("nobody", {}, "here:unready away:dead", ""),
    ("unready if published so", {"publish_not_ready": True}, "here:unready away:dead", "here:unready"),
    ("drained only if alone", {}, "here:drained away:ready", "away:ready"),
    ("drained alone", {}, "here:drained", "here:drained"),
    (
        "local constraint",
        {"internal_traffic_local": True},
        "here:ready away:ready remote:ready",
        "here:ready",
    ),
    ("local constraint may leave nobody", {"internal_traffic_local": True}, "away:ready remote:ready", ""),
    ("local constraint, ending", {"internal_traffic_local": True}, "here:ending away:ready", "here:ending"),
    ("affinity local", {"affinity": Affinity.LOCAL}, "away:ready remote:ready", "away:ready"),
    ("affinity local yields", {"affinity": Affinity.LOCAL}, "away:unready remote:ready", "remote:ready"),
    (
        "affinity local, local ending",
        {"affinity": Affinity.LOCAL},
        "away:ending remote:ready",
        "remote:ready",
    ),
    ("affinity local, all ending", {"affinity": Affinity.LOCAL}, "away:ending remote:ending", "away:ending"),
    ("affinity remote", {"affinity": Affinity.REMOTE}, "away:ready remote:ready", "remote:ready"),
    ("affinity remote yields", {"affinity": Affinity.REMOTE}, "away:ready remote:dead", "away:ready"),
]


@pytest.mark.parametrize(("rule", "facts", "given", "expected"), RULES, ids=[row[0] for row in RULES])
def test_a_service_uses(rule: str, facts: dict[str, object], given: str, expected: str) -> None:
    chosen = choose(service(**facts), [candidate(name) for name in given.split()], node="here")
    assert " ".join(each.source for each in chosen) == expected


def test_connections_are_left_to_backends_that_serve_while_they_end() -> None:
    names = ["here:ready", "here:ending", "here:dead", "here:unready"]
    assert [c.source for c in alive(service(), map(candidate, names))] == ["here:ready", "here:ending"]
