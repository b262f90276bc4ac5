"""What a doctor says of a snapshot. What a real etcd answers: tests/etcd/test_doctor.py."""

from __future__ import annotations

import datetime
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clustermesh import keys
from clustermesh.addresses import Network
from clustermesh.doctor import findings
from clustermesh.etcd_checks import AWAITED
from clustermesh.finding import as_table
from clustermesh.overlap import overlapping
from clustermesh.pin import Pin
from clustermesh.records import ClusterConfig
from clustermesh.snapshot import CertificateFile, Etcd, KeyLease, Member, NodeNetworks, Snapshot

NOW = datetime.datetime(2026, 6, 1, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)


def etcd(number: int, **changes: object) -> Etcd:
    """Of cluster cm-NUMBER, as it should be."""
    name = f"cm-{number}"
    well = Etcd(
        name,
        Path(f"/peers/{name}"),
        pin=Pin(number, (ip_network(f"10.{number}.0.0/16"),)),
        certificates=(
            CertificateFile(Path(f"/peers/{name}.crt"), "remote-cm-1", NOW - DAY, NOW + 365 * DAY),
        ),
        members=(Member("192.0.2.1:2379", ends=NOW + 365 * DAY, version="3.5.9", clock_ahead_s=0.4),),
        config=ClusterConfig(number),
        heartbeat_at=NOW - datetime.timedelta(seconds=59),
        canaries=frozenset(keys.canary(name, each) for each in (*AWAITED, "services")),
        leases=(KeyLease(keys.HEARTBEAT, 600, 900),),
    )
    return replace(well, **changes)  # type: ignore[arg-type] # passed through


def said(*etcds: Etcd, **changes: object) -> list[str]:
    """Problems with their objects, as cm-1 finds them."""
    snapshot = Snapshot("cm-1", NOW, 1, 255, (ip_network("10.1.0.0/16"),), etcds)
    found = findings(replace(snapshot, **changes))  # type: ignore[arg-type] # passed through
    return [f"{each.severity.value} {each.where}: {each.problem}" for each in found]


def own(**changes: object) -> Etcd:
    """The etcd of cm-1 itself."""
    return etcd(1, **{"is_own": True, "pin": Pin(), **changes})


def test_of_what_is_as_it_should_be_nothing_is_said() -> None:
    assert said(own(), etcd(2), etcd(3)) == []


def member(**changes: object) -> tuple[Member, ...]:
    """The one that serves, changed."""
    (well,) = etcd(2).members
    return (replace(well, **changes),)  # type: ignore[arg-type] # passed through


def config(**changes: object) -> ClusterConfig:
    """Of cm-2, changed."""
    return replace(ClusterConfig(2), **changes)  # type: ignore[arg-type] # passed through


SECOND = Member("192.0.2.2:2379", ends=NOW + 365 * DAY, version="3.6.0")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"config": config(cluster_id=1), "pin": Pin(0, (ip_network("10.2.0.0/16"),))}, "is that of cm-1"),
        ({"config": config(cluster_id=300), "pin": Pin()}, "its cluster id 300 is not within 1..255"),
        ({"config": config(endpoint_slices_export_mode="all")}, "its export mode 'all' is not one that can be read"),
        (
            {"config": config(endpoint_slices_export_mode="endpointslices-only")},
            "cilium/synced/cm-2/cilium/state/endpointslices/v1 is missing",
        ),
        ({"config": config(max_connected_clusters=511)}, "it allows 511 clusters, this one 255"),
        ({"pin": Pin(2)}, "/peers/cm-2: cluster cm-2 is not pinned: it may name any address"),
        ({"pin": Pin(2, (ip_network("10.0.0.0/8"),))}, "10.0.0.0/8 of cluster cm-2 overlaps 10.1.0.0/16 of cluster cm-1"),
        (
            {"nodes": (NodeNetworks("n", (ip_network("10.1.7.0/24"),)),)},
            "10.1.0.0/16 of cluster cm-1 overlaps 10.1.7.0/24 of node cm-2/n",
        ),
        ({"members": member(clock_ahead_s=-5.0)}, "its clock is 5 s behind ours"),
        ({"members": (*member(), SECOND)}, "its members are of versions 3.5, 3.6"),
        ({"members": (*member(), replace(SECOND, version="", problem="timed out"))}, "does not answer: timed out"),
        ({"members": member(ends=NOW - DAY)}, "certificate of the etcd of cm-2 at 192.0.2.1:2379: ended 2026-05-31"),
        ({"members": member(ends=NOW + 29 * DAY)}, "ends 2026-06-30, in 29 days"),
        ({"certificates": (CertificateFile(Path("/c"), "", NOW + DAY, NOW + 90 * DAY),)}, "begins only 2026-06-02"),
        ({"alarms": frozenset({"NOSPACE"})}, "alarm NOSPACE"),
        ({"heartbeat_at": NOW + DAY}, "the clock of its publisher is 86400 s ahead of that of the etcd"),
        ({"heard_s": 131.0}, "the last heartbeat was written 131 s ago"),
        ({"leases": (KeyLease("k", -1, 1),)}, "k in the etcd of cm-2: its lease is gone"),
        ({"leases": (KeyLease("k", 299, 600),)}, "not renewed: 299 of 600 s are left"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_object(changes: dict[str, object], expected: str) -> None:
    problems = said(own(), etcd(2, **changes))
    assert any(expected in each for each in problems), problems


def test_a_copy_that_a_kvstoremesh_keeps_has_canaries_of_its_own() -> None:
    cached = frozenset(keys.canary("cm-2", each, cached=True) for each in (*AWAITED, "services"))
    assert said(etcd(2, config=config(cached=True), canaries=cached)) == []
    assert len(said(etcd(2, config=config(cached=True)))) == 1


def test_an_exporter_that_writes_no_canaries_is_not_waited_for() -> None:
    assert said(etcd(2, config=config(synced_canaries=False), canaries=frozenset())) == []


def test_two_peers_with_one_id_or_network_are_told_of() -> None:
    wide = Pin(0, (ip_network("10.2.0.0/16"),))
    problems = said(etcd(2), etcd(3, config=ClusterConfig(2), pin=wide))
    assert any("cluster cm-3: its cluster id 2 is that of cm-2" in each for each in problems)
    assert any(
        "10.2.0.0/16 of cluster cm-2 overlaps 10.2.0.0/16 of cluster cm-3" in each for each in problems
    )


def test_a_heartbeat_that_was_heard_is_judged_by_that_and_tells_the_clock_of_who_wrote_it() -> None:
    problems = said(etcd(2, heartbeat_at=NOW - datetime.timedelta(seconds=600), heard_s=20.0))
    assert problems == ["warning etcd of cm-2: the clock of its publisher is 580 s behind that of the etcd"]
    ten_s = datetime.timedelta(seconds=10)
    # As far off as the clock of the etcd beside it, which is told already.
    well = etcd(2, members=member(clock_ahead_s=10.0), heartbeat_at=NOW - 2 * ten_s + ten_s, heard_s=20.0)
    assert said(well) == ["warning etcd of cm-2 at 192.0.2.1:2379: its clock is 10 s ahead of ours"]


def test_the_id_that_etcd_says_of_ourselves_is_the_one_that_is_configured() -> None:
    (problem,) = said(own(config=ClusterConfig(4)))
    assert problem == "error cluster cm-1: etcd says that its id is 4, its configuration 1"


def test_many_overlaps_of_two_clusters_are_one_finding() -> None:
    nodes = tuple(NodeNetworks(f"n{each}", (ip_network(f"10.2.{each}.0/24"),)) for each in range(100))
    stolen = tuple(replace(each, name=f"m{each.name}") for each in nodes)
    wide = Pin(3, (ip_network("10.3.0.0/16"),))
    found = said(etcd(2, nodes=nodes), etcd(3, nodes=stolen, pin=wide))
    assert len(found) == 1
    assert found[0].endswith(" more")


def test_errors_come_first_and_the_last_line_counts() -> None:
    bad = etcd(2, pin=Pin(2), heartbeat_at=None)
    snapshot = Snapshot("cm-1", NOW, 1, etcds=(bad,))
    table = as_table(findings(snapshot), "cm-1 looked at cm-2").splitlines()
    assert table[0].startswith("error    freshness     etcd of cm-2: there is no cilium/.heartbeat")
    assert table[-1] == "cm-1 looked at cm-2: 1 errors, 1 warnings"


def networks() -> st.SearchStrategy[Network]:
    """Of few addresses, so that they overlap."""
    return st.builds(
        lambda address, length: ip_network((address, length), strict=False),
        st.integers(0x0A000000, 0x0A00000F),
        st.integers(27, 32),
    )


@given(st.lists(st.tuples(networks(), st.integers(0, 3)), max_size=20))
def test_all_overlaps_and_no_others_are_found(claimed: list[tuple[Network, int]]) -> None:
    expected = {
        frozenset({one, other})
        for one in claimed
        for other in claimed
        if one[1] != other[1] and one[0].overlaps(other[0])
    }
    assert {frozenset(pair) for pair in overlapping(claimed)} == expected
