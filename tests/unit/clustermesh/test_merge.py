"""Which backends of which cluster are chosen, and how annotations are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clustermesh.merge import Candidate, Health, choose
from clustermesh.sharing import Affinity, Sharing, parse_sharing

A, T, U = Health.ACTIVE, Health.TERMINATING, Health.UNHEALTHY


def candidates(local: Sequence[Health], remote: Sequence[Health]) -> dict[str, list[Candidate[str]]]:
    """Backends l0, l1, ... of cm-1 (ours) and r0, r1, ... of cm-2."""
    return {
        "cm-1": [Candidate(f"l{number}", health) for number, health in enumerate(local)],
        "cm-2": [Candidate(f"r{number}", health) for number, health in enumerate(remote)],
    }


CASES = {
    "a service that is not global stays in its cluster": (None, [A], [A], "l0"),
    "also when it has no backend there": (None, [], [A], ""),
    "no affinity uses all": (Affinity.NONE, [A, U], [A, T], "l0 l1 r0 r1"),
    "local keeps to its own while one is active": (Affinity.LOCAL, [A, U], [A], "l0 l1"),
    "local adds the others when its own only terminate": (Affinity.LOCAL, [T], [A], "l0 r0"),
    "local adds the others when its own are unhealthy": (Affinity.LOCAL, [U], [A], "l0 r0"),
    "local uses the others when it has none": (Affinity.LOCAL, [], [A], "r0"),
    "local keeps terminating ones when the others are unhealthy": (Affinity.LOCAL, [T], [U], "l0"),
    "remote keeps to the others while one is healthy": (Affinity.REMOTE, [A], [A, U], "r0 r1"),
    "remote counts a terminating other as healthy": (Affinity.REMOTE, [A], [T], "r0"),
    "remote adds its own when no other is healthy": (Affinity.REMOTE, [A], [U], "l0 r0"),
    "remote uses its own when there is no other": (Affinity.REMOTE, [A], [], "l0"),
    "with nothing healthy anywhere all are used": (Affinity.LOCAL, [U], [U], "l0 r0"),
}


@pytest.mark.parametrize(("affinity", "local", "remote", "expected"), CASES.values(), ids=CASES.keys())
def test_the_chosen_backends(
    affinity: Affinity | None, local: Sequence[Health], remote: Sequence[Health], expected: str
) -> None:
    sharing = Sharing(is_global=affinity is not None, shared=True, affinity=affinity or Affinity.NONE)
    choice = choose(sharing, "cm-1", candidates(local, remote))
    assert " ".join(candidate.backend for candidate in choice.backends) == expected


healths = st.lists(st.sampled_from(Health), max_size=3)


@settings(deadline=None)  # a busy machine is no failure
@given(st.sampled_from(Affinity), healths, healths)
def test_a_preference_never_leaves_nothing_while_some_backend_could_serve(
    affinity: Affinity, local: list[Health], remote: list[Health]
) -> None:
    choice = choose(Sharing(True, True, affinity), "cm-1", candidates(local, remote))
    could_serve = any(health is not U for health in local + remote)
    assert any(candidate.health is not U for candidate in choice.backends) == could_serve


@settings(deadline=None)  # a busy machine is no failure
@given(healths, healths, healths)
def test_the_order_of_clusters_does_not_depend_on_who_was_heard_first(
    one: list[Health], two: list[Health], three: list[Health]
) -> None:
    named = {name: [Candidate((name, h)) for h in hs] for name, hs in (("b", one), ("a", two), ("c", three))}
    turned = dict(reversed(named.items()))
    sharing = Sharing(True, True)
    assert choose(sharing, "b", named) == choose(sharing, "b", turned)


NOTHING: Mapping[str, str] = {}

ANNOTATIONS = {
    "nothing said": (NOTHING, NOTHING, Sharing()),
    "global": ({"service.cilium.io/global": "true"}, NOTHING, Sharing(True, True)),
    "in any case": ({"meshd.io/global": "True"}, NOTHING, Sharing(True, True)),
    "by an older alias": ({"io.cilium/global-service": "true"}, NOTHING, Sharing(True, True)),
    "global but not shared": (
        {"service.cilium.io/global": "true", "io.cilium/shared-service": "false"},
        NOTHING,
        Sharing(True, False),
    ),
    "shared without being global": ({"meshd.io/shared": "true"}, NOTHING, Sharing()),
    "affinity": (
        {"meshd.io/global": "true", "service.cilium.io/affinity": "local"},
        NOTHING,
        Sharing(True, True, Affinity.LOCAL),
    ),
    "in a namespace that is not global": (
        {"meshd.io/global": "true"},
        {"clustermesh.cilium.io/global": "false"},
        Sharing(),
    ),
    "our own name counts before an alias": (
        {"meshd.io/global": "false", "service.cilium.io/global": "true"},
        NOTHING,
        Sharing(),
    ),
}


@pytest.mark.parametrize(("service", "namespace", "expected"), ANNOTATIONS.values(), ids=ANNOTATIONS.keys())
def test_annotations_are_read(
    service: Mapping[str, str], namespace: Mapping[str, str], expected: Sharing
) -> None:
    assert parse_sharing(service, namespace) == expected


def test_words_that_mean_nothing_leave_the_default_and_are_named() -> None:
    sharing = parse_sharing({"meshd.io/global": "yes", "meshd.io/affinity": "near"})
    assert (sharing.is_global, sharing.affinity) == (False, Affinity.NONE)
    assert sharing.problems == (
        "meshd.io/global: 'yes' is neither true nor false; taken as false",
        "meshd.io/affinity: 'near' is none of none, local, remote; taken as none",
    )


def test_a_mesh_may_make_namespaces_opt_in() -> None:
    annotations = {"meshd.io/global": "true"}
    assert not parse_sharing(annotations, namespaces_are_global=False).is_global
    namespace = {"clustermesh.cilium.io/global": "true"}
    assert parse_sharing(annotations, namespace, namespaces_are_global=False).is_global
