"""The prober: it hears a SYN-ACK and an RST alike, counts silence, tells it from its own troubles, and is on time."""

from __future__ import annotations

import errno
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from meshd.kernel.netns import Netns
from meshd.kernel.prober import Health, Prober, Sample, Target
from meshd.model import parse_address
from tests.netns.conftest import NetnsPair

PORT = 4240
EVERY_S = 0.02
SILENCE = "add table ip silent; add chain ip silent in { type filter hook input priority 0; policy drop; }"
SERVER_V4, SERVER_V6, NOBODY = "10.77.0.2", "fd77::2", "10.77.0.9"


@contextmanager
def asking(pair: NetnsPair, *addresses: str, source: str | None = None) -> Iterator[Prober]:
    """A prober in the client's namespace that asks ``addresses``; ids are their places."""
    prober = pair.client.run(Prober)
    try:
        from_there = parse_address(source) if source else None
        targets = [Target(n, parse_address(each), PORT, from_there) for n, each in enumerate(addresses)]
        prober.set(targets, EVERY_S)
        yield prober
    finally:
        prober.close()


def run(netns: Netns, *command: str) -> None:
    netns.run(lambda: subprocess.run(command, check=True))


def read_until(prober: Prober, wanted: Callable[[Sample], object], number: int = 0) -> tuple[Sample, Health]:
    deadline = time.monotonic() + 10
    while True:
        samples, health = prober.read()
        if wanted(samples[number]):
            return samples[number], health
        assert time.monotonic() < deadline, samples[number]
        time.sleep(0.01)


@pytest.mark.parametrize("listens", [True, False], ids=["SYN-ACK", "RST"])
@pytest.mark.parametrize("address", [SERVER_V4, SERVER_V6])
def test_whoever_answers_is_heard_and_measured(netns_pair: NetnsPair, address: str, listens: bool) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with netns_pair.server.socket(family, socket.SOCK_STREAM) as server:
        server.bind((address, PORT))
        if listens:
            server.listen()
        with asking(netns_pair, address) as prober:
            sample, health = read_until(prober, lambda found: found.answered >= 20)
    assert sample.unanswered <= 1
    assert sample.unsent == 0
    assert 0 < sample.rtt_s < 0.5
    assert sample.asked_at - EVERY_S <= sample.answered_at <= health.now


@pytest.mark.needs("command:nft")
def test_silence_is_counted_and_a_late_answer_clears_it(netns_pair: NetnsPair) -> None:
    with asking(netns_pair, SERVER_V4) as prober:
        read_until(prober, lambda found: found.answered >= 3)
        run(netns_pair.server, "nft", SILENCE)
        silent, _ = read_until(prober, lambda found: found.unanswered >= 20)
        run(netns_pair.server, "nft", "delete table ip silent")
        heard, _ = read_until(
            prober, lambda found: found.answered > silent.answered and found.unanswered <= 1
        )
    assert silent.answered_at < silent.asked_at
    assert heard.answered_at > silent.answered_at


def test_what_this_host_cannot_send_is_no_silence_of_others(netns_pair: NetnsPair) -> None:
    with asking(netns_pair, SERVER_V4, "192.0.2.1") as prober:
        sample, _ = read_until(prober, lambda found: found.unsent >= 5, number=1)
        heard, _ = read_until(prober, lambda found: found.answered >= 3)
    assert (sample.unanswered, sample.answered, sample.last_error) == (0, 0, errno.ENETUNREACH)
    assert heard.unsent == 0


def test_targets_change_while_it_runs_and_who_stays_is_remembered(netns_pair: NetnsPair) -> None:
    with asking(netns_pair, SERVER_V4, NOBODY) as prober:
        before, _ = read_until(prober, lambda found: found.answered >= 3)
        prober.set(
            [Target(0, parse_address(SERVER_V4), PORT), Target(7, parse_address(SERVER_V6), PORT)], EVERY_S
        )
        samples, _ = prober.read()
        assert sorted(samples) == [0, 7]
        assert samples[0].answered >= before.answered
        read_until(prober, lambda found: found.answered >= 3, number=7)
        prober.set([], EVERY_S)
        assert prober.read()[0] == {}


def test_it_asks_from_the_address_it_is_told(netns_pair: NetnsPair) -> None:
    run(netns_pair.client, "ip", "addr", "add", "10.77.1.1/32", "dev", "lo")
    with asking(netns_pair, SERVER_V4, source="10.77.1.1") as prober:
        # The server has no way back to there.
        read_until(prober, lambda found: found.unanswered >= 3)
        run(netns_pair.server, "ip", "route", "add", "10.77.1.1/32", "via", "10.77.0.1")
        read_until(prober, lambda found: found.answered >= 3)


def test_it_is_on_time_while_python_is_busy(netns_pair: NetnsPair) -> None:
    with asking(netns_pair, SERVER_V4) as prober:
        first, _ = read_until(prober, lambda found: found.answered >= 3)
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            sum(range(1000))  # holds the lock of the interpreter nearly all the time
        then = prober.read()[0][0]
    # Half of what it would have asked on an idle machine.
    assert then.answered - first.answered >= 0.5 / EVERY_S / 2
