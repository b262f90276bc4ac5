"""``meshctl failover drill`` as a user runs it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from meshd.errors import DrillGoesOn
from meshd.model.drill import DrillReport, DrillWord
from tests.fakes.agent import FakeAgent, serving
from tests.unit.ctl.running import meshctl

DRILL = ("failover", "drill", "--service", "web", "--lose", "cm-2", "--for")


def report(*words: DrillWord, missing: tuple[str, ...] = ()) -> DrillReport:
    return DrillReport("a1", time.time(), words, missing)


def fill(agent: FakeAgent, missing: tuple[str, ...] = ()) -> None:
    half = {"cm-1": 0.5, "cm-3": 0.5}
    drills = agent.dataplane.drills
    drills.begun = report(DrillWord("n1", planned=half), DrillWord("n2", planned=half), missing=missing)
    drills.over = report(
        DrillWord("n1", planned=half, over=True, given={"cm-1": 31, "cm-3": 29}),
        DrillWord("n2", planned=half, over=True),
        missing=missing,
    )


async def test_a_drill_ends_with_what_was_planned_beside_what_was_observed(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        fill(agent)
        done = await meshctl(agent, *DRILL, "1m")
        assert (done.status, done.err) == (0, "")
        assert done.out == (
            "default/web is served without cm-2 on 2 nodes, for 60 s; Ctrl-C ends it\n"
            "the drill is over\n"
            "NODE  PLANNED            OBSERVED           CONNECTIONS  REASON\n"
            "n1    cm-1=50%,cm-3=50%  cm-1=52%,cm-3=48%  60           -\n"
            "n2    cm-1=50%,cm-3=50%  -                  0            -\n"
            "\n"
            "60 connections: cm-1=52%,cm-3=48%\n"
        )
        assert agent.dataplane.drills.asked == [("start", "default/web", "cm-2", 60.0), ("stop", "a1")]


async def test_who_does_not_take_part_is_named_and_makes_it_fail(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        fill(agent, missing=("n3",))
        done = await meshctl(agent, *DRILL, "5")
        assert done.status == 1
        assert "! n3 has not given its word; it may serve as before\n" in done.out
        agent.dataplane.drills.begun = report(DrillWord("n1", "service default/web does not exist"))
        agent.dataplane.drills.over = report(DrillWord("n1", "service default/web does not exist", over=True))
        done = await meshctl(agent, *DRILL, "5")
        assert done.status == 1
        assert "! n1 does not take part: service default/web does not exist\n" in done.out


async def test_that_nobody_else_serves_is_said(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        agent.dataplane.drills.begun = report(DrillWord("n1", planned={"cm-2": 1.0}))
        done = await meshctl(agent, *DRILL, "5")
        assert "! n1: nobody else serves, so cm-2 goes on\n" in done.out


async def test_programs_are_given_both_reports(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        fill(agent)
        done = await meshctl(agent, *DRILL, "90s", "-o", "json")
        said = json.loads(done.out)
        assert said["over"]["nodes"][0]["given"] == {"cm-1": "31", "cm-3": "29"}
        assert said["begun"]["nodes"][1]["planned"] == {"cm-1": 0.5, "cm-3": 0.5}


async def test_a_refusal_is_one_error(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        agent.dataplane.drills.refusal = DrillGoesOn("default/db", "cm-3", 12.3)
        done = await meshctl(agent, *DRILL, "60s")
        assert done.status == 1
        assert (
            "another drill goes on: service default/db without cm-3, for 12 s more; nothing was changed"
            in done.err
        )


@pytest.mark.parametrize("text", ["", "-5", "1.5h", "5d", "forever"])
async def test_what_is_no_duration_is_wrong_usage(tmp_path: Path, text: str) -> None:
    async with serving(tmp_path) as agent:
        done = await meshctl(agent, *DRILL, text)
        assert done.status == 2
        assert agent.dataplane.drills.asked == []
