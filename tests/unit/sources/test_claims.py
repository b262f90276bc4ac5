"""Who has which addresses."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.sources.claims import Claims, Conflict, Network, unusable


def networks(*texts: str) -> list[Network]:
    return [ip_network(text) for text in texts]


def claims(**held: str) -> Claims[str]:
    made: Claims[str] = Claims()
    for owner, texts in held.items():
        made.set(owner, networks(*texts.split()))
    return made


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("10.1.0.0/24", {"a"}),
        ("10.1.0.128/25", {"a"}),
        ("10.1.0.7", {"a"}),
        ("10.0.0.0/14", {"a", "b"}),
        ("192.168.0.1", {"a"}),
        ("10.1.1.0/24", set()),
        ("fd00:1::/48", {"b"}),
        ("fd00:2::/48", set()),
    ],
)
def test_whatever_overlaps_is_found(wanted: str, found: set[str]) -> None:
    held = claims(a="10.1.0.0/24 10.1.0.9 192.168.0.1", b="10.2.0.0/24 fd00:1::/64")
    assert {each.owner for each in held.conflicts("c", networks(wanted))} == found


def test_nobody_is_in_his_own_way() -> None:
    held = claims(a="10.1.0.0/24", b="10.2.0.0/24")
    (found,) = held.conflicts("a", networks("10.1.0.0/16", "10.2.0.0/25"))
    assert found == Conflict(ip_network("10.2.0.0/25"), "b")


def test_what_is_given_up_is_free() -> None:
    held = claims(a="10.1.0.0/24 10.3.0.0/24", b="10.2.0.0/24")
    held.set("a", networks("10.3.0.0/24"))
    assert not list(held.conflicts("c", networks("10.1.0.0/24")))
    assert held.remove("b")
    assert not held.remove("b")
    assert not list(held.conflicts("c", networks("10.2.0.0/24")))
    assert held.of("a") == (ip_network("10.3.0.0/24"),)


@pytest.mark.parametrize(
    ("network", "usable"),
    [
        ("10.0.0.0/8", True),
        ("fd00::/16", True),
        ("192.0.2.1", True),
        ("0.0.0.0/1", False),
        ("2000::/3", False),
        ("127.0.0.1", False),
        ("224.0.0.0/24", False),
        ("169.254.1.0/24", False),
        ("fe80::/64", False),
        ("::ffff:10.0.0.0/120", False),
        ("0.0.0.0", False),
    ],
)
def test_some_networks_are_nobodys(network: str, usable: bool) -> None:
    assert (unusable(ip_network(network)) == "") == usable


blocks = st.builds(
    lambda number, length: ip_network(f"10.0.0.{number >> (32 - length) << (32 - length)}/{length}"),
    st.integers(0, 255),
    st.integers(24, 32),
)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.lists(blocks, max_size=4)), max_size=12), blocks)
def test_overlaps_are_those_that_comparing_with_everything_finds(
    history: list[tuple[str, list[Network]]], asked: Network
) -> None:
    held: Claims[str] = Claims()
    expected: dict[str, list[Network]] = {}
    for owner, wanted in history:
        if not list(held.conflicts(owner, wanted)):
            held.set(owner, wanted)
            expected[owner] = wanted
    overlapping = {owner for owner, has in expected.items() if any(each.overlaps(asked) for each in has)}
    assert {each.owner for each in held.conflicts("", [asked])} == overlapping
