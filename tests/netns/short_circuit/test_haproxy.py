"""A proxy that splices: seen doing it while it is watched, it stays on TCP, and what goes through it is whole."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshd.dataplane.short_circuit import rows
from meshd.dataplane.short_circuit.splices import Splices, take_off_all
from tests.netns.short_circuit.machine import Machine, machine
from tests.netns.short_circuit.programs import running, said, written
from tests.netns.short_circuit.site import FETCH, site

pytestmark = pytest.mark.long

HAPROXY = """
    global
        maxconn 1000
    defaults
        mode tcp
        timeout connect 10s
        timeout client 30s
        timeout server 30s
        {splice}
    listen site
        bind 0.0.0.0:8080
        server one {server}:80
"""


@contextmanager
def watched(machine: Machine, links: Path) -> Iterator[None]:
    """Somebody looks for who splices."""
    watching = Splices(machine.node.loaded.programs, links, machine.selected)
    watching.look()
    try:
        yield
    finally:
        take_off_all(links)


@pytest.mark.needs("command:haproxy", "command:nginx")
@pytest.mark.parametrize("selected", [True, False], ids=["short", "tcp"])
@pytest.mark.parametrize("splices", [True, False], ids=["splices", "copies"])
def test_what_goes_through_haproxy_is_whole(
    unique_name: str, bpffs: Path, tmp_path: Path, splices: bool, selected: bool
) -> None:
    conf, large = site(tmp_path)
    fetch = written(tmp_path / "fetch.py", FETCH)
    with machine(unique_name, short_circuit_watch_ns=1_000_000_000 if splices else 0) as node:
        client, proxy, server = (node.add_pod(number, selected=selected) for number in (7, 8, 9))
        options = "option splice-request\n        option splice-response" if splices else ""
        made = written(tmp_path / "haproxy.cfg", HAPROXY.format(server=server.ip[4], splice=options))
        with (
            watched(node, bpffs / "links"),
            running(server, 80, tmp_path / "nginx.log", "nginx", "-c", conf),
            running(proxy, 8080, tmp_path / "haproxy.log", "haproxy", "-f", made, "-db"),
        ):
            for name, count in ((large, "10"), (large.with_name("small"), "500"), (large, "10")):
                said(client, sys.executable, fetch, proxy.ip[4], "8080", str(name), count)
        assert excluded(node) == ({proxy.link.netns_cookie} if selected and splices else set())
        taken = sum(sent.bytes for total in node.totals().values() for sent in total.sent)
        assert bool(taken + node.handed_over()[0]) is (selected and not splices)


def excluded(machine: Machine) -> set[int]:
    """Cookies of the namespaces of those who are kept on TCP."""
    return {
        machine.made.u64.decode(key)
        for key, value in machine.maps[rows.WATCHES].items()
        if machine.made.watch.decode(value).exclusion
    }
