"""The test of connectivity: what is tried, what answers mean, and the prober on real sockets of this machine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from argparse import ArgumentTypeError
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from meshd.ctl.kube import connectivity_objects as objects
from meshd.ctl.kube import connectivity_rows
from meshd.ctl.kube.cli import place
from meshd.ctl.kube.connectivity_rows import LARGE, LOOK, Outcome, Row, Server, Surroundings, Target

DOCUMENT = Path(__file__).parents[3] / connectivity_rows.DOCUMENT
AROUND = Surroundings(api_server=["10.96.0.1"], outside=[("192.0.2.7", 80)])


def server(number: int, **other: Any) -> Server:  # Any: of any field
    made = Server(
        node=f"n{number}",
        name=f"server-{number}",
        pod_addresses=[f"10.244.{number}.2", f"fd00:{number}::2"],
        service_addresses=[f"10.96.0.{number}"],
        node_addresses=[f"10.0.0.{number}", f"2001:db8::{number}"],
    )
    return replace(made, **other)


def tried(servers: list[Server], around: Surroundings = AROUND) -> list[tuple[str, str]]:
    return [(each.what, each.tried) for each in connectivity_rows.targets(servers, 0, around)]


def test_a_pod_tries_its_node_the_others_services_names_and_the_outside() -> None:
    assert tried([server(1), server(2)]) == [
        ("pod on the same node", "10.244.1.2:8080"),
        ("pod on the same node", "[fd00:1::2]:8080"),
        ("pod on n2", "10.244.2.2:8080"),
        ("pod on n2", "[fd00:2::2]:8080"),
        ("service, TCP", "10.96.0.1:8080"),
        ("service, UDP", "10.96.0.1:8080"),
        ("service with its backend on n2", "10.96.0.2:8080"),
        ("cluster DNS, IPv4", "server-1"),
        ("API server's service", "10.96.0.1:443"),
        ("its own node", "10.0.0.1:10250"),
        ("its own node", "[2001:db8::1]:10250"),
        ("node n2", "10.0.0.2:10250"),
        ("node n2", "[2001:db8::2]:10250"),
        ("outside", "192.0.2.7:80"),
        ("outside", "[2001:db8::1]:33434"),
    ]


def test_a_family_that_pods_do_not_have_is_not_tried() -> None:
    one = server(1, pod_addresses=["10.244.1.2"])
    assert not [where for _, where in tried([one]) if "[" in where]


def test_a_server_that_is_not_ready_is_tried_by_address_and_not_by_its_service() -> None:
    found = [what for what, _ in tried([server(1), server(2, is_ready=False)])]
    assert "pod on n2" in found
    assert "service with its backend on n2" not in found


def test_of_a_large_cluster_each_node_tries_the_next_ones_and_every_node_is_tried() -> None:
    many = [server(number) for number in range(1, 41)]
    found = [
        {each.what for each in connectivity_rows.targets(many, number, AROUND) if each.concern == "other pod"}
        for number in range(40)
    ]
    assert {len(each) for each in found} == {connectivity_rows.OTHERS}
    assert set.union(*found) == {f"pod on n{number}" for number in range(1, 41)}


def judged(concern: str, around: Surroundings = AROUND, **answer: object) -> Row:
    target = Target(concern, "x", {"kind": "tcp", "host": "10.0.0.1", "port": 1, "family": 4, "id": 0})
    said = {"id": 0, "passed": True, "said": "answered", "tries": 1, **answer}
    (row,) = connectivity_rows.rows([server(1)], 0, [target], [said], around)
    return row


def test_what_failed_says_where_to_look() -> None:
    row = judged("other pod", passed=False, said="refused")
    assert (row.outcome, row.said) == (Outcome.FAILED, "refused")
    assert "Pods reach each other on one node, not across" in row.look


def test_what_passed_at_the_second_try_only_says_so() -> None:
    assert judged("pod", tries=2).said == "answered, at try 2"


def test_large_packets_that_are_lost_are_another_matter_than_all_packets() -> None:
    row = judged("other pod", passed=False, said="small packets pass and large ones do not: ...")
    assert LARGE[1] in row.look


def test_where_no_service_says_that_it_is_the_dns_a_name_is_no_failure() -> None:
    row = judged("name", Surroundings(has_dns=False), passed=False, said="no answer")
    assert row.outcome is Outcome.UNKNOWN


def test_what_a_pod_says_nothing_of_has_failed() -> None:
    assert judged("pod", id=7).outcome is Outcome.FAILED


def test_every_hint_names_a_section_of_the_document() -> None:
    titles = set(re.findall(r"^## (.*)$", DOCUMENT.read_text(), re.MULTILINE))
    assert {section for _, section in (*LOOK.values(), LARGE)} <= titles


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("192.0.2.1", ("192.0.2.1", 443)),
        ("192.0.2.1:80", ("192.0.2.1", 80)),
        ("2001:db8::1", ("2001:db8::1", 443)),
        ("[2001:db8::1]:80", ("2001:db8::1", 80)),
        ("[2001:db8::1]", ("2001:db8::1", 443)),
    ],
)
def test_an_address_has_a_port_or_the_usual_one(said: str, expected: tuple[str, int]) -> None:
    assert place(said) == expected


@pytest.mark.parametrize("said", ["example.org", "192.0.2.1:", "192.0.2.300", ""])
def test_what_is_no_address_is_refused(said: str) -> None:
    with pytest.raises(ArgumentTypeError):
        place(said)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Where a prober serves on this machine's loopback."""
    number = 20000 + os.getpid() % 10000
    with subprocess.Popen(
        [sys.executable, objects.PROBER, "serve", str(number)],
        env={**os.environ, "NODE": "here"},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "AF_INET is served\n"
        assert process.stdout.readline() == "AF_INET6 is served\n"
        yield number
        process.terminate()
        assert process.wait(10) == 0


def probe(*targets: dict[str, object], addresses: str = "127.0.0.1,::1") -> list[tuple[bool | None, str]]:
    asked = [{"id": number, "family": 4, "host": "127.0.0.1", **each} for number, each in enumerate(targets)]
    done = subprocess.run(
        [sys.executable, objects.PROBER, "probe"],
        env={**os.environ, "TARGETS": json.dumps(asked), "ADDRESSES": addresses},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    answers = sorted(map(json.loads, done.stdout.splitlines()), key=lambda each: int(each["id"]))
    return [(each["passed"], each["said"]) for each in answers]


def test_the_prober_tells_what_came_of_each_target(port: int) -> None:
    here = {"port": port, "node": "here"}
    assert probe(
        {"kind": "tcp", **here},
        {"kind": "udp", **here},
        {"kind": "tcp", **here, "family": 6, "host": "::1"},
        {"kind": "udp", **here, "family": 6, "host": "::1"},
        {"kind": "tcp", "port": port, "node": "there"},
        {"kind": "tcp", **here, "host": "127.0.0.2"},
        {"kind": "tcp", "port": 1, "node": "here"},
        {"kind": "knock", "port": 1},
        {"kind": "knock", "port": port},
        {"kind": "name", "host": "localhost", "addresses": ["127.0.0.1"]},
    ) == [
        (True, "answered"),
        (True, "answered"),
        (True, "answered"),
        (True, "answered"),
        (False, "the server on here answered, not the one on there"),
        (True, "answered"),
        (False, "refused"),
        (True, "it refused, so it answers"),
        (True, "connected"),
        (True, "it is 127.0.0.1"),
    ]


def test_a_server_that_sees_somebody_else_than_the_pod_has_not_passed(port: int) -> None:
    (found,) = probe({"kind": "udp", "port": port, "node": "here"}, addresses="10.244.0.9")
    assert found == (False, "answered, but it saw 127.0.0.1 instead of the pod's own address")


def test_the_prober_needs_nothing_but_the_standard_library() -> None:
    """It is mounted alone, into whatever image."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", objects.PROBER, "probe"],
        env={"TARGETS": "[]", "ADDRESSES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
