"""Which backends a service uses: one row a rule."""

from __future__ import annotations

import pytest

from meshd.dataplane.candidate import Candidate, Place
from meshd.dataplane.choice import alive, choose
from meshd.model import (
    Affinity,
    Backend,
    BackendPort,
    OnStale,
    Protocol,
    Service,
    ServiceName,
    TrafficDistribution,
    parse_address,
)

READY, ENDING, DEAD = "ready", "ending", "dead"
CONDITIONS = {
    READY: {},
    "unready": {"ready": False, "serving": False},
    ENDING: {"ready": False, "serving": True, "terminating": True},
    DEAD: {"ready": False, "serving": False, "terminating": True},
    "drained": {"weight": 0},
}


def candidate(name: str) -> Candidate:
    """``here:ready`` is a ready backend on this node; ``away``: another node; ``remote``: another cluster.

    A trailing ``!``: it cannot be reached.
    """
    place, condition = name.rstrip("!").split(":")
    facts = CONDITIONS[condition]
    backend = Backend(parse_address("10.0.0.1"), (BackendPort("", Protocol.TCP, 80),), node=place, **facts)  # type: ignore[arg-type]
    if place == "remote":
        # A remote cluster may call its node like ours.
        backend = Backend(backend.address, backend.ports, node="here", **facts)  # type: ignore[arg-type]
    return Candidate(backend, name, remote=place == "remote", reachable=not name.endswith("!"))


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
    ("out of reach", {}, "away:ready remote:ready!", "away:ready"),
    ("all out of reach", {}, "away:ready! remote:ready! here:dead", "away:ready! remote:ready!"),
    ("out of reach, the other ending", {}, "away:ending remote:ready!", "away:ending"),
    ("out of reach, the other drained", {}, "away:drained remote:ready!", "away:drained"),
    (
        "affinity remote, out of reach",
        {"affinity": Affinity.REMOTE},
        "away:ready remote:ready!",
        "away:ready",
    ),
    (
        "affinity remote, all out of reach",
        {"affinity": Affinity.REMOTE},
        "away:ready! remote:ready!",
        "remote:ready!",
    ),
    (
        "local constraint, and within reach is another node",
        {"internal_traffic_local": True},
        "here:ready! away:ready",
        "here:ready!",
    ),
]


@pytest.mark.parametrize(("rule", "facts", "given", "expected"), RULES, ids=[row[0] for row in RULES])
def test_a_service_uses(rule: str, facts: dict[str, object], given: str, expected: str) -> None:
    chosen = choose(service(**facts), [candidate(name) for name in given.split()], Place("here", "z1"))
    assert " ".join(each.source for each in chosen) == expected


STALE = [
    (
        "others first, whatever it prefers",
        {"affinity": Affinity.REMOTE},
        "stale:ready here:ready",
        "here:ready",
    ),
    ("stale ones as a last resort", {}, "stale:ready here:unready", "stale:ready"),
    ("stale ones that serve still", {}, "stale:ending here:dead", "stale:ending"),
    ("fresh ones that serve still, before stale ones", {}, "stale:ending here:ending", "here:ending"),
]


@pytest.mark.parametrize(("rule", "facts", "given", "expected"), STALE, ids=[row[0] for row in STALE])
def test_a_service_with_stale_backends_uses(
    rule: str, facts: dict[str, object], given: str, expected: str
) -> None:
    candidates = [
        candidate(name.replace("stale", "remote"))._replace(
            source=name, on_stale=OnStale.DEPRIORITISE if name.startswith("stale") else OnStale.KEEP
        )
        for name in given.split()
    ]
    assert " ".join(each.source for each in choose(service(**facts), candidates, Place("here"))) == expected
    assert {each.source for each in candidates if each.on_stale is OnStale.DEPRIORITISE} <= {
        each.source for each in alive(service(**facts), candidates)
    }


NODE, ZONE = TrafficDistribution.SAME_NODE, TrafficDistribution.SAME_ZONE


def placed(text: str) -> Candidate:
    """``n2/z1 for:z1,n3``: a ready backend on node n2 in zone z1, with hints; a leading ``remote`` is another cluster's."""
    where, _, hints = text.partition(" for:")
    remote, node, zone = ["", *where.split("/")][-3:]
    names = tuple(hints.split(",")) if hints else ()
    backend = Backend(
        parse_address("10.0.0.1"),
        (BackendPort("", Protocol.TCP, 80),),
        node=node,
        zone=zone,
        for_zones=tuple(name for name in names if name.startswith("z")),
        for_nodes=tuple(name for name in names if name.startswith("n")),
    )
    return Candidate(backend, text, remote=bool(remote))


# We are n1 in z1.
PLACES: list[tuple[str, dict[str, object], list[str], list[int]]] = [
    ("no wish, all", {}, ["n1/z1", "n2/z1", "n3/z2"], [0, 1, 2]),
    ("same zone", {"traffic_distribution": ZONE}, ["n1/z1", "n2/z1", "n3/z2"], [0, 1]),
    ("same zone has none", {"traffic_distribution": ZONE}, ["n3/z2", "n4/z3"], [0, 1]),
    ("same zone, a backend without one", {"traffic_distribution": ZONE}, ["n2/", "n3/z2"], [0, 1]),
    ("same node", {"traffic_distribution": NODE}, ["n1/z1", "n2/z1", "n3/z2"], [0]),
    ("same node has none, so same zone", {"traffic_distribution": NODE}, ["n2/z1", "n3/z2"], [0]),
    ("same node and zone have none", {"traffic_distribution": NODE}, ["n3/z2", "n4/z3"], [0, 1]),
    ("hints for our zone", {}, ["n1/z1 for:z1", "n3/z2 for:z2"], [0]),
    ("hints win over where a backend is", {}, ["n1/z1 for:z2", "n3/z2 for:z1"], [1]),
    ("hints for several zones", {}, ["n1/z1 for:z2", "n3/z2 for:z1,z2", "n4/z3 for:z3"], [1]),
    ("hints, and none for us", {}, ["n3/z2 for:z2", "n4/z3 for:z3"], [0, 1]),
    ("hints for some only", {}, ["n1/z1 for:z1", "n3/z2"], [0, 1]),
    ("hints for some only, and a wish", {"traffic_distribution": ZONE}, ["n1/z1 for:z1", "n3/z2"], [0, 1]),
    ("hints for our node", {}, ["n1/z1 for:z1,n1", "n2/z1 for:z1,n2"], [0]),
    ("hints for other nodes, one for our zone", {}, ["n2/z1 for:z1,n2", "n3/z2 for:z2,n3"], [0]),
    ("a node hint of another cluster is not ours", {}, ["remote/n1/z9 for:n1", "n2/z2 for:n2"], [0, 1]),
    ("a zone is a zone, also in another cluster", {"traffic_distribution": ZONE}, ["remote/n9/z1", "n3/z2"], [0]),
    (
        "local is a constraint, hints do not narrow it",
        {"internal_traffic_local": True},
        ["n1/z1 for:z2", "n1/z1 for:z1", "n3/z2 for:z1"],
        [0, 1],
    ),
    ("local affinity before zones", {"affinity": Affinity.LOCAL, "traffic_distribution": ZONE},
     ["remote/n9/z1", "n3/z2"], [1]),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "facts", "given", "expected"), PLACES, ids=[row[0] for row in PLACES])
def test_a_service_prefers(
    rule: str, facts: dict[str, object], given: list[str], expected: list[int]
) -> None:
    chosen = choose(service(**facts), [placed(text) for text in given], Place("n1", "z1"))
    assert [each.source for each in chosen] == [given[index] for index in expected]


def test_a_node_that_knows_no_zone_prefers_none() -> None:
    given = [placed(text) for text in ("n2/z1 for:z1", "n3/z2 for:z2")]
    assert choose(service(), given, Place("n1")) == given
    unzoned = [placed(text) for text in ("n2/", "n3/z2")]
    assert choose(service(traffic_distribution=ZONE), unzoned, Place("n1")) == unzoned


def test_internal_traffic_policy_is_not_about_external_frontends() -> None:
    given = [candidate("here:ready"), candidate("away:ready")]
    local = service(internal_traffic_local=True)
    assert choose(local, given, Place("here"), external=True) == given


def test_connections_are_left_to_backends_that_serve_while_they_end() -> None:
    names = ["here:ready", "here:ending", "here:dead", "here:unready"]
    assert [c.source for c in alive(service(), map(candidate, names))] == ["here:ready", "here:ending"]


def test_connections_are_left_to_backends_that_cannot_be_reached() -> None:
    assert [c.source for c in alive(service(), [candidate("remote:ready!")])] == ["remote:ready!"]
