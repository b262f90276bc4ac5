"""Services as slices and slices as services: round trip, few changes for a change, and what is told of which change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clustermesh.endpoint_slice import MAX_SERVICE_BACKENDS, EndpointSlice, decode_slice, encode_slice
from clustermesh.errors import InvalidRecord
from clustermesh.records import ClusterService, Port, Zone, check_names
from clustermesh.reflector import Copy
from clustermesh.service_slices import slices_of
from clustermesh.slice_merge import SliceCopies, SliceMerge, merged

HTTP = {"http": Port("TCP", 8080)}
METRICS = {"metrics": Port("TCP", 9090)}


def addresses(count: int, first: str = "10.0.0.0") -> list[IPv4Address | IPv6Address]:
    return [ip_address(first) + number for number in range(count)]


def service(count: int = 2, name: str = "web") -> ClusterService:
    return ClusterService("cm-1", "ns", name, 1, backends=dict.fromkeys(addresses(count), HTTP))


def part(name: str, *texts: str, service: str = "web", leaving: Sequence[str] = ()) -> EndpointSlice:
    backends = tuple(map(ip_address, texts))
    gone = frozenset(map(ip_address, leaving))
    return EndpointSlice("cm-1", "ns", name, 1, service, backends=backends, leaving=gone, ports=HTTP)


PORTS = st.dictionaries(
    st.sampled_from(["", "http", "dns"]),
    st.builds(Port, st.sampled_from(["TCP", "UDP", "SCTP"]), st.integers(1, 65535)),
    max_size=2,
)


@settings(deadline=None, max_examples=60)  # a busy machine is no failure
@given(
    backends=st.dictionaries(st.ip_addresses(), PORTS, max_size=30),
    leaving=st.sets(st.integers(0, 30)),
    zone=st.builds(Zone, st.text(max_size=5), st.tuples(st.text(min_size=1, max_size=5))),
)
def test_a_service_comes_back_from_its_slices(
    backends: dict[IPv4Address | IPv6Address, dict[str, Port]], leaving: set[int], zone: Zone
) -> None:
    gone = [at for number, at in enumerate(backends) if number in leaving]
    shared = ClusterService(
        "cm-1",
        "ns",
        "web",
        1,
        backends=backends,
        zones=dict.fromkeys(list(backends)[:3], zone),
        hostnames=dict.fromkeys(list(backends)[:2], "pod-0"),
        terminating=tuple(sorted(gone, key=lambda at: at.packed)),
    )
    read = [
        decode_slice("k", encode_slice(one), cluster="cm-1", name=one.full_name, cluster_id=1)
        for one in slices_of(shared)
    ]
    assert merged(read) == shared


def test_a_service_without_backends_is_a_slice_without_backends_under_the_name_of_its_first() -> None:
    assert [(one.name, one.backends) for one in slices_of(service(0))] == [("web-ipv4-0", ())]
    assert [one.name for one in slices_of(service(1))] == ["web-ipv4-0"]
    assert merged(slices_of(service(0))) == service(0)


@pytest.mark.parametrize("count", [100, 101, 3000, 20_000])
def test_a_backend_that_comes_changes_one_slice_of_many(count: int) -> None:
    before = {one.name: one for one in slices_of(service(count))}
    new = ip_address("10.99.0.1")
    more = replace(service(count), backends={**service(count).backends, new: HTTP})
    after = {one.name: one for one in slices_of(more)}
    changed = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    # At a doubling all of them change: from one slice to two, here.
    assert len(changed) == (2 if count == 100 else 1)
    assert max(len(one.backends) for one in after.values()) <= 200


def test_backends_with_other_ports_and_of_the_other_family_are_in_slices_of_their_own() -> None:
    backends = {
        ip_address("10.0.0.1"): HTTP,
        ip_address("10.0.0.2"): METRICS,
        ip_address("fd00::1"): HTTP,
        ip_address("10.0.0.3"): HTTP,
    }
    made = slices_of(replace(service(), backends=backends))
    assert [(one.name, one.family, [str(at) for at in one.backends], one.ports) for one in made] == [
        ("web-ipv4-0", "IPv4", ["10.0.0.1", "10.0.0.3"], HTTP),
        ("web-ipv4-0-1", "IPv4", ["10.0.0.2"], METRICS),
        ("web-ipv6-0", "IPv6", ["fd00::1"], HTTP),
    ]


def test_long_names_of_services_make_valid_names_of_slices_that_differ() -> None:
    names = {slices_of(service(1, "a" * 250 + end))[0].name for end in ("-a", "-b", "")}
    assert len(names) == 3
    check_names("k", *names)


def test_an_address_in_several_slices_has_the_ports_of_all_and_leaves_only_if_it_is_ready_in_none() -> None:
    one = part("a", "10.0.0.1", "10.0.0.2", leaving=["10.0.0.1", "10.0.0.2"])
    two = replace(part("b", "10.0.0.1"), ports=METRICS)
    made = merged([two, one])
    assert made.backends[ip_address("10.0.0.1")] == {**HTTP, **METRICS}
    assert made.terminating == (ip_address("10.0.0.2"),)


class Told:
    """An outlet that remembers."""

    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []

    def replace(self, records: Mapping[str, ClusterService]) -> None:
        self.events.append(("replace", {name: len(one.backends) for name, one in records.items()}))

    def put(self, name: str, record: ClusterService) -> None:
        self.events.append(("put", name, len(record.backends)))

    def delete(self, names: Sequence[str], revision: int) -> None:
        self.events.append(("delete", *names, revision))

    def fresh(self) -> None:
        self.events.append(("fresh",))

    def stale(self, reason: str) -> None:
        self.events.append(("stale", reason))

    def taken(self) -> list[tuple[object, ...]]:
        events, self.events = self.events, []
        return events


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def copies() -> SliceCopies:
    return SliceCopies()


@pytest.fixture
def merge(told: Told, copies: SliceCopies) -> SliceMerge:
    made = SliceMerge(copies, Copy(), told)
    parts = part("a", "10.0.0.1"), part("b", "10.0.0.2"), part("c", "10.0.0.3", service="other")
    made.replace({one.full_name: one for one in parts})
    assert told.taken() == [("replace", {"ns/web": 2, "ns/other": 1})]
    return made


def tell(merge: SliceMerge, one: EndpointSlice) -> None:
    merge.put(one.full_name, one)


def test_slices_that_go_together_take_their_services_together(merge: SliceMerge, told: Told) -> None:
    merge.delete(["ns/a", "ns/c", "ns/b"], 7)
    assert told.taken() == [("delete", "ns/web", "ns/other", 7)]


def test_changes_of_slices_are_told_as_changes_of_services(merge: SliceMerge, told: Told) -> None:
    tell(merge, part("a", "10.0.0.1", "10.0.0.9"))
    tell(merge, part("a", "10.0.0.1", "10.0.0.9"))
    merge.delete(["ns/b"], 7)
    merge.delete(["ns/never-seen"], 8)
    merge.delete(["ns/a"], 9)
    merge.stale("why")
    merge.fresh()
    assert told.taken() == [
        ("put", "ns/web", 3),
        ("put", "ns/web", 2),
        ("delete", "ns/web", 9),
        ("stale", "why"),
        ("fresh",),
    ]


def test_a_slice_without_backends_keeps_its_service(merge: SliceMerge, told: Told) -> None:
    merge.delete(["ns/b"], 7)
    tell(merge, part("a"))
    assert told.taken() == [("put", "ns/web", 1), ("put", "ns/web", 0)]


def test_a_slice_that_goes_over_to_another_service_leaves_the_first(merge: SliceMerge, told: Told) -> None:
    tell(merge, part("c", "10.0.0.3", service="web"))
    assert told.taken() == [("delete", "ns/other", 0), ("put", "ns/web", 3)]


def test_a_service_with_too_many_backends_is_refused_by_name_and_its_last_good_version_stands(
    merge: SliceMerge, told: Told, copies: SliceCopies
) -> None:
    huge = replace(part("d"), backends=tuple(addresses(MAX_SERVICE_BACKENDS - 1, "10.1.0.0")))
    tell(merge, huge)
    assert told.taken() == []
    reason = "backends: more than the 100000 that are allowed in one service"
    assert copies.refused == {"service ns/web": reason}
    assert copies.refusals == {"backends": 1}
    tell(merge, part("c", "10.0.0.4", service="other"))
    merge.delete(["ns/a"], 3)
    assert told.taken() == [("put", "ns/other", 1), ("put", "ns/web", MAX_SERVICE_BACKENDS)]
    assert copies.refused == {}
    with pytest.raises(InvalidRecord, match="ns/web: backends"):
        merged([huge, part("a", "10.0.0.1"), part("b", "10.0.0.2")])
