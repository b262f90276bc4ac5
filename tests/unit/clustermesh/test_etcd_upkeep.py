"""Which member of an etcd is defragmented when, who may read, and how a member is started: decisions, without an etcd."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from clustermesh import etcd_members, readers
from clustermesh.errors import MembershipError
from clustermesh.etcd_members import Members
from clustermesh.maintenance import Status
from clustermesh.readers import Readers
from clustermesh.upkeep import next_member

MIB = 1 << 20
FULL = Status(200 * MIB, 190 * MIB, leads=False)
LOOSE = Status(200 * MIB, 60 * MIB, leads=False)
LOOSER = Status(300 * MIB, 60 * MIB, leads=False)
LEADER = Status(900 * MIB, 60 * MIB, leads=True)


@pytest.mark.parametrize(
    ("members", "everybody", "expected"),
    [
        ({"a": FULL, "b": FULL, "c": FULL}, False, None),
        ({"a": FULL, "b": LOOSE, "c": LOOSER}, False, "c"),
        # The leader has most to give, and comes last.
        ({"a": LEADER, "b": LOOSE, "c": FULL}, False, "b"),
        ({"a": LEADER, "b": FULL, "c": FULL}, False, "a"),
        ({"a": LEADER}, False, "a"),
        # One more that does not answer, and there may be no majority.
        ({"a": LEADER, "b": LOOSE, "c": None}, False, None),
        # Half of it, but so little that nobody is to wait for it.
        ({"a": Status(10 * MIB, 1 * MIB, leads=True)}, False, None),
        # Much, but of a store that needs most of what it has.
        ({"a": Status(2000 * MIB, 1900 * MIB, leads=True)}, False, None),
        ({"a": Status(10 * MIB, 1 * MIB, leads=True)}, True, "a"),
        ({"a": Status(10 * MIB, 10 * MIB, leads=True), "b": FULL}, True, "b"),
        ({}, False, None),
    ],
)
def test_a_member_is_defragmented_when_it_is_worth_the_pause_and_nobody_is_away(
    members: Mapping[str, Status | None], everybody: bool, expected: str | None
) -> None:
    assert next_member(members, everybody=everybody) == expected


def test_nobody_is_defragmented_twice_in_a_row() -> None:
    members = {"a": LEADER, "b": LOOSE}
    assert [next_member(members, done) for done in ((), ("b",), ("b", "a"))] == ["b", "a", None]


def test_readers_have_a_generation_that_grows_with_every_change_and_no_other() -> None:
    first = Readers("cm-1")
    both = first.admitting("cm-3").admitting("cm-2")
    assert (both.generation, both.names) == (3, ("cm-2", "cm-3"))
    assert both.admitting("cm-2") == both
    assert both.dismissing("cm-2") == Readers("cm-1", 4, ("cm-3",))
    assert first.dismissing("cm-2") == first
    assert readers.parse("", readers.render(both)) == both


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"cluster: cm-1\n", b"cluster: a\ngeneration: x\nreaders: []\n"]
)
def test_what_declares_no_readers_is_refused(text: bytes) -> None:
    with pytest.raises(MembershipError):
        readers.parse("readers.yaml", text)


def test_members_are_written_and_read() -> None:
    members = Members("cm-1-ab", {"n1": "192.0.2.1", "n2": "fd00::2"}, 1 << 30)
    assert etcd_members.parse("", etcd_members.render(members)) == members
    assert members.endpoints == ("https://192.0.2.1:23790", "https://[fd00::2]:23790")


@pytest.mark.parametrize("count", [0, 2, 4])
def test_two_members_are_no_etcd(count: int) -> None:
    members = Members("t", {f"n{number}": f"192.0.2.{number}" for number in range(count)})
    with pytest.raises(MembershipError, match=f"1 or 3 members, not {count}"):
        etcd_members.check(members)


def test_a_node_that_was_not_named_is_no_member() -> None:
    members = Members("t", {"n1": "192.0.2.1"})
    with pytest.raises(MembershipError, match="node n2 is no member: n1 are"):
        etcd_members.command(members, "n2", Path("/c"), Path("/d"), "etcd")


def test_a_member_lets_clients_and_members_in_by_certificate_only() -> None:
    members = Members("t", {"n1": "192.0.2.1", "n2": "fd00::2"})
    command = etcd_members.command(members, "n2", Path("/c"), Path("/d"), "etcd")
    assert {
        *("--client-cert-auth=true", "--peer-client-cert-auth=true", "--peer-cert-allowed-cn=etcd"),
        *("--data-dir=/d/t", "--initial-cluster-token=t", "--enable-grpc-gateway=false"),
        "--initial-cluster=n1=https://192.0.2.1:23791,n2=https://[fd00::2]:23791",
    } <= set(command)
    listening = [each for each in command if each.startswith("--listen-")]
    # Without certificates only on loopback.
    assert [each for each in listening if "http://" in each] == [
        "--listen-metrics-urls=http://127.0.0.1:23792"
    ]
