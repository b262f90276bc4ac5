"""The rules of the baselines: a bench against rules that nobody would write proves nothing."""

from __future__ import annotations

import re

from meshd.bench import iptables, nftables
from meshd.bench.population import population

SERVICE = population(1)[0]


def test_nftables_finds_a_service_by_one_map_whatever_their_number() -> None:
    rules = nftables.ruleset(population(20)).splitlines()
    in_services = [line for line in rules if line.startswith("add rule ip kube-proxy services ")]
    elements = [line for line in rules if line.startswith("add element ip kube-proxy service-ips ")]
    assert len(in_services) == 2
    assert len(elements) == 20
    assert re.search(
        r"\{ 10\.96\.0\.1 \. tcp \. 80 : goto service-[0-9A-F]{8}-bench/s0/tcp/http \}", elements[0]
    )


def test_nftables_draws_evenly_among_the_endpoints_of_a_service() -> None:
    rules = nftables.ruleset([SERVICE])
    draws = re.findall(r"numgen random mod (\d+) vmap \{(.*)\}", rules)
    assert [count for count, _ in draws] == ["5"]
    assert re.findall(r"(\d) : goto endpoint-", draws[0][1]) == ["0", "1", "2", "3", "4"]
    assert [f"{backend}:8080" for backend in SERVICE.backends] == re.findall(r"dnat to (\S+)", rules)


def test_nftables_changes_one_service_without_a_word_about_the_others() -> None:
    left = SERVICE.backends[1:]
    change = nftables.endpoints_changed(SERVICE, SERVICE.backends, left)
    assert "numgen random mod 4" in change
    assert {"s0"} == set(re.findall(r"bench/(s\d+)/", change))
    gone = f"__{SERVICE.backends[0]}/8080"
    assert re.findall(rf"^(\w+) chain \S+ \S+ \S+{re.escape(gone)}$", change, re.MULTILINE) == [
        "flush",
        "delete",
    ]


def test_nftables_brings_an_endpoint_back_before_it_is_drawn() -> None:
    change = nftables.endpoints_changed(SERVICE, SERVICE.backends[1:], SERVICE.backends).splitlines()
    added = next(index for index, line in enumerate(change) if line.startswith("add chain"))
    drawn = next(index for index, line in enumerate(change) if "numgen" in line)
    assert added < drawn
    assert f"__{SERVICE.backends[0]}/8080" in change[added]


def test_iptables_asks_one_rule_for_each_service() -> None:
    rules = iptables.ruleset(population(20)).splitlines()
    asked = [line for line in rules if line.startswith("-A KUBE-SERVICES -d ")]
    assert [f"10.96.0.{number}/32" for number in range(1, 21)] == [line.split()[3] for line in asked]


def test_iptables_gives_every_endpoint_the_same_chance() -> None:
    rules = iptables.ruleset([SERVICE])
    assert re.findall(r"--probability (\S+)", rules) == [
        "0.2000000000",
        "0.2500000000",
        "0.3333333333",
        "0.5000000000",
    ]
    assert [f"{backend}:8080" for backend in SERVICE.backends] == re.findall(r"--to-destination (\S+)", rules)


def test_iptables_declares_every_chain_it_jumps_to() -> None:
    nat = iptables.ruleset(population(3)).split("*nat\n")[1]
    declared = set(re.findall(r"^:(\S+)", nat, re.MULTILINE))
    jumped = set(re.findall(r"-j (KUBE-\S+)", nat))
    assert jumped <= declared
