"""Traces of what a runtime asks: continued from the runtime's own, and of no weight to the runtime."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.netns.cni.collector import collecting
from tests.netns.cni.node import CniNode

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = {"TRACEPARENT": f"00-{TRACE}-{PARENT}-01"}
NOT_SAMPLED = {"TRACEPARENT": f"00-{TRACE}-{PARENT}-00"}


def restarted(node: CniNode, collector: Path) -> None:
    """The agent tells ``collector`` from now on."""
    node.agent.options["tracing"] = {"otlp": f"unix://{collector}"}
    node.agent.kill(signal.SIGTERM)
    node.start()


def test_an_add_continues_the_runtimes_trace_and_says_what_it_did(node: CniNode, tmp_path: Path) -> None:
    with collecting(tmp_path / "otlp.sock") as collector:
        restarted(node, tmp_path / "otlp.sock")
        assert node.ask("ADD", "one", node.pod("one"), variables=SAMPLED).status == 0
        node.agent.wait(lambda: len([each for each in collector.spans if each.trace == TRACE]) == 4)
        found = {each.name: each for each in collector.spans if each.trace == TRACE}
        add = found.pop("CNI ADD")
        assert (add.parent, add.attributes) == (PARENT, {"pod": "default/one", "container": "one"})
        assert {(each.name, each.parent) for each in found.values()} == {
            ("journal", add.id),
            ("link", add.id),
            ("rows", add.id),
        }
        assert collector.services == {"meshd"}


def test_a_refused_command_is_a_span_with_an_error_and_a_trace_that_is_not_sampled_is_none(
    node: CniNode, tmp_path: Path
) -> None:
    with collecting(tmp_path / "otlp.sock") as collector:
        restarted(node, tmp_path / "otlp.sock")
        assert node.ask("ADD", "one", node.pod("one"), variables=NOT_SAMPLED).status == 0
        assert node.ask("CHECK", "two", node.pod("two"), variables=SAMPLED).status == 1
        node.agent.wait(lambda: any(each.trace == TRACE for each in collector.spans))
        assert [(each.name, each.failed) for each in collector.spans if each.trace == TRACE] == [
            ("CNI CHECK", True)
        ]


def test_a_collector_that_is_away_holds_nobody_up(node: CniNode, tmp_path: Path) -> None:
    restarted(node, tmp_path / "nobody.sock")
    for number in range(5):
        assert node.ask("ADD", f"p{number}", node.pod(f"p{number}"), variables=SAMPLED).status == 0
    # And not the agent's end.
    node.agent.kill(signal.SIGTERM)
