"""What a node's sysctls were before pods came, and are again after them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from meshd.dataplane.pod_network.sysctls import RESERVED_PORTS, Sysctls
from meshd.errors import JournalError
from meshd.kernel.netns import Netns

FORWARD = "net/ipv4/ip_forward"


@pytest.fixture
def host() -> Iterator[Netns]:
    with Netns.create("host") as made:
        made.write_sysctl(FORWARD, "0")
        yield made


@pytest.fixture
def sysctls(host: Netns, tmp_path: Path) -> Sysctls:
    return Sysctls(tmp_path / "sysctls.json", host)


@pytest.mark.parametrize(
    ("before", "during"),
    [
        ("", "50000-65535"),
        ("8080,9100-9110", "8080,9100-9110,50000-65535"),
        ("49000-50100", "49000-65535"),
        ("50000-65535", "50000-65535"),
    ],
)
def test_ports_are_reserved_beside_those_of_others_and_given_back(
    host: Netns, sysctls: Sysctls, before: str, during: str
) -> None:
    host.write_sysctl(RESERVED_PORTS, before or "\n")
    sysctls.reserve(50000, 65535)
    assert host.read_sysctl(RESERVED_PORTS) == during
    sysctls.put_back()
    assert host.read_sysctl(RESERVED_PORTS) == before


def test_another_range_takes_the_place_of_the_one_before(
    host: Netns, sysctls: Sysctls, tmp_path: Path
) -> None:
    host.write_sysctl(RESERVED_PORTS, "50001")
    sysctls.reserve(50000, 50999)
    again = Sysctls(tmp_path / "sysctls.json", host)
    again.reserve(60000, 60999)
    assert host.read_sysctl(RESERVED_PORTS) == "50001,60000-60999"
    again.put_back()
    assert host.read_sysctl(RESERVED_PORTS) == "50001"


def test_ports_that_others_reserved_since_stay(host: Netns, sysctls: Sysctls) -> None:
    sysctls.reserve(50000, 50999)
    host.write_sysctl(RESERVED_PORTS, "8080,50000-50999")
    sysctls.put_back()
    assert host.read_sysctl(RESERVED_PORTS) == "8080"


def test_a_value_that_we_set_is_put_back_also_after_a_second_start(
    host: Netns, sysctls: Sysctls, tmp_path: Path
) -> None:
    sysctls.set(FORWARD, "1")
    again = Sysctls(tmp_path / "sysctls.json", host)
    again.set(FORWARD, "1")
    assert (again.put_back(), host.read_sysctl(FORWARD)) == ([FORWARD], "0")


def test_a_value_that_somebody_else_changed_since_stays(host: Netns, sysctls: Sysctls) -> None:
    sysctls.set("net/ipv6/conf/all/accept_ra", "2")
    host.write_sysctl("net/ipv6/conf/all/accept_ra", "0")
    assert (sysctls.put_back(), host.read_sysctl("net/ipv6/conf/all/accept_ra")) == ([], "0")


def test_what_is_found_after_a_reboot_is_the_nodes_own(host: Netns, tmp_path: Path) -> None:
    path = tmp_path / "sysctls.json"
    before = Sysctls(path, host, boot="first")
    before.set(FORWARD, "1")
    before.reserve(50000, 50999)
    after = Sysctls(path, host, boot="second")
    assert (after.put_back(), host.read_sysctl(FORWARD)) == ([], "1")


def test_nothing_is_changed_that_could_not_be_put_back(host: Netns, tmp_path: Path) -> None:
    (tmp_path / "sysctls.json").write_text("{")
    with pytest.raises(JournalError, match="remove it to take the node as it is"):
        Sysctls(tmp_path / "sysctls.json", host).set(FORWARD, "1")
    assert host.read_sysctl(FORWARD) == "0"
