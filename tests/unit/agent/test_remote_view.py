"""Peers as the agent tells of them."""

from __future__ import annotations

from ipaddress import ip_address

from clustermesh.mesh import MeshStatus
from clustermesh.records import ClusterService, Port
from clustermesh.remote import RemoteStatus, State
from clustermesh.removals import Kept
from meshd.agent.remote_view import peers, removal_problems


def kept(name: str, since_s: float, *, held: bool, backends: int = 2) -> Kept[ClusterService]:
    addressed = {ip_address(f"10.2.0.{number}"): {"": Port("TCP", 80)} for number in range(1, backends + 1)}
    return Kept(ClusterService("cm-2", "galaxy", name, 2, backends=addressed), since_s, held)


def status(state: State, *standing: Kept[ClusterService]) -> MeshStatus:
    remote = RemoteStatus(
        cluster="cm-2",
        state=state,
        since=0.0,
        reason="",
        cluster_id=2,
        services=10,
        kept={each.record.full_name: each for each in standing},
        nodes=0,
        addresses=0,
        identities=0,
        lag_s=0.0,
        refused={},
        refusals={},
        heartbeat_age_s=None,
        etcd_cluster_id=None,
        failures=0,
        last_failure="",
        config=None,
    )
    return MeshStatus((remote,), "", {})


def test_what_is_held_is_told_with_its_backends_and_since_when() -> None:
    found = status(
        "synced",
        kept("a", 1700000060.0, held=True),
        kept("b", 1700000000.0, held=True, backends=3),
        kept("c", 1.0, held=False),
    )
    (peer,) = peers(found)
    assert (peer.stale_services, peer.held_services, peer.held_backends, peer.held_since_s) == (
        3,
        2,
        5,
        1700000000.0,
    )
    held, stale = removal_problems(found)
    assert held.startswith("cluster cm-2: 2 services with 5 backends are held since 2023-11-14T22:13:20Z: ")
    assert stale.startswith("cluster cm-2: 1 services stand although its etcd does not name them: ")
    assert "`meshctl clustermesh confirm cm-2`" in held
    assert "`meshctl clustermesh confirm cm-2`" in stale


def test_all_of_a_cluster_out_of_reach_is_stale_and_no_problem_of_its_own() -> None:
    (peer,) = peers(status("stale"))
    assert (peer.stale_services, peer.held_since_s) == (10, None)
    assert list(removal_problems(status("stale"))) == []
