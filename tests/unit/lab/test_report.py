"""The report and the picture of a demo, from phases and requests written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

from meshd.lab.demo import checks, report, timeline
from meshd.lab.demo.checks import PodCounts
from meshd.lab.demo.report import Happened, Report
from meshd.lab.demo.requests import Request
from meshd.lab.demo.stage import Phase, Stage
from meshd.lab.workloads import x_wing

S = 10**9
CLIENT = "cm-1/x-wing-1"
CLUSTERS = ("cm-1", "cm-2")


async def _nothing(_stage: Stage[None]) -> None:
    return


def _phase(name: str, *, may_lose: bool = False) -> Phase[None]:
    return Phase(name, _nothing, lambda _seen: [], checks.no_switch, may_lose)


def _answer(at_s: float, cluster: str) -> Request:
    return Request(CLIENT, int(at_s * S), 500, 4, cluster, "rebel-base-1")


def _loss(at_s: float) -> Request:
    return Request(CLIENT, int(at_s * S), 500, 4, lost="EHOSTUNREACH")


def _happened() -> list[Happened]:
    return [Happened(_phase("one"), 0, 2 * S, {}), Happened(_phase("two", may_lose=True), 2 * S, 4 * S, {})]


def _report(*requests: Request) -> Report:
    got = {c: sum(r.cluster == c for r in requests) for c in CLUSTERS}
    counted = {f"{c}/rebel-base-1": PodCounts(n, n) for c, n in got.items()}
    return report.make(_happened(), requests, [CLIENT], CLUSTERS, counted)


def test_a_loss_counts_only_where_nothing_may_be_lost() -> None:
    good = _report(_answer(1, "cm-1"), _answer(3, "cm-2"), _loss(3.5))
    assert (good.ok, good.requests, good.lost, [p.lost for p in good.phases]) == (True, 3, 0, [0, 1])
    bad = _report(_answer(1, "cm-1"), _loss(1.5))
    assert (bad.ok, bad.lost) == (False, 1)
    assert bad.phases[0].problems == [
        "1 requests were lost, first one of cm-1/x-wing-1 over IPv4: EHOSTUNREACH"
    ]


def test_a_phase_that_did_not_show_what_it_must_fails_the_demo_without_a_loss() -> None:
    silent = Phase("silent", _nothing, checks.both_serve, checks.no_switch)
    made = report.make([Happened(silent, 0, 2 * S, {})], [], [CLIENT], CLUSTERS, {})
    assert (made.ok, made.lost) == (False, 0)
    assert made.phases[0].problems


def test_a_remark_of_what_went_wrong_in_doing_fails_the_demo() -> None:
    made = report.make([Happened(_phase("one"), 0, S, {}, ("exited with 1",))], [], [CLIENT], CLUSTERS, {})
    assert (made.ok, made.phases[0].problems) == (False, ["exited with 1"])


def test_the_file_has_the_promised_fields(tmp_path: Path) -> None:
    report.write(_report(_answer(1, "cm-1")), tmp_path / "build" / "report.json")
    read = json.loads((tmp_path / "build" / "report.json").read_text())
    assert list(read) == ["ok", "requests", "lost", "phases", "kernel", "commit"]
    assert list(read["phases"][0]) == ["name", "seconds", "requests", "lost", "answers", "switch_ms"]
    assert read["phases"][0]["answers"] == {"cm-1": 1, "cm-2": 0}


def test_the_file_says_what_was_wrong_where_something_was(tmp_path: Path) -> None:
    report.write(_report(_answer(1, "cm-1"), _loss(1.5)), tmp_path / "report.json")
    read = json.loads((tmp_path / "report.json").read_text())
    assert "problems" in read["phases"][0]
    assert "problems" not in read["phases"][1]


def test_a_request_that_a_phase_resets_belongs_to_that_phase_though_it_began_in_the_one_before() -> None:
    reset = Request(CLIENT, int(1.999 * S), 5000, 4, lost="ECONNRESET")
    made = _report(_answer(1, "cm-1"), reset)
    assert ([p.lost for p in made.phases], made.lost, made.ok) == ([0, 1], 0, True)


def test_a_silence_until_the_deadline_belongs_to_the_phase_in_which_it_began() -> None:
    silence = Request(CLIENT, int(1.5 * S), 2_000_000, 4, lost=x_wing.DEADLINE)
    made = _report(_answer(1, "cm-1"), silence)
    assert ([p.lost for p in made.phases], made.lost, made.ok) == ([1, 0], 1, False)


def test_every_request_belongs_to_one_phase() -> None:
    made = _report(*(_answer(at / 10, "cm-1") for at in range(38)))
    assert sum(phase.requests for phase in made.phases) == made.requests == 38


def test_the_table_names_what_was_wrong() -> None:
    text = "\n".join(report.lines(_report(_answer(1, "cm-1"), _loss(1.5)), CLUSTERS))
    assert "2 requests, 1 lost: not as it must be" in text
    assert "phase 1: 1 requests were lost" in text


def test_the_timeline_counts_answers_and_losses_in_the_step_in_which_they_ended() -> None:
    steps = timeline.per_step([_answer(0.1, "cm-1"), _answer(0.6, "cm-2"), _loss(0.7)], 0, 1.0)
    assert steps == [{"cm-1": 1}, {"cm-2": 1, "": 1}]


def test_no_loss_is_drawn_before_the_phase_in_which_it_happened() -> None:
    picture = timeline.draw(_happened(), [_answer(3.9, "cm-1"), _loss(2.3), _loss(2.4)], CLUSTERS)
    root = ElementTree.fromstring(picture)  # noqa: S314 - our own text
    (bar,) = [each for each in root.iter() if each.get("class") == "lost" and each.get("height") != "10"]
    lines = [each for each in root.iter() if each.get("stroke-dasharray")]
    assert float(bar.attrib["x"]) > float(lines[1].attrib["x1"])


def test_the_timeline_is_a_picture_with_phases_clusters_and_losses() -> None:
    picture = timeline.draw(_happened(), [_answer(1, "cm-1"), _answer(3, "cm-2"), _loss(1.5)], CLUSTERS)
    root = ElementTree.fromstring(picture)  # noqa: S314 - our own text
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    titles = [element.text for element in root.iter() if element.tag.endswith("title")]
    assert {"1 one", "2 two", "cm-1", "cm-2", "lost"} <= set(texts)
    assert titles == ["answers of cm-1", "answers of cm-2", "1 lost"]


def test_every_lost_request_is_listed_with_its_phase_and_when_it_began() -> None:
    requests = [_answer(1, "cm-1"), _loss(1.5), _loss(3.5)]
    listed = [line.split() for line in report.lost_lines(_happened(), requests)[1:]]
    assert listed == [
        ["1.500", "1", CLIENT, "IPv4", "0.5", "ms", "EHOSTUNREACH"],
        ["3.500", "2", CLIENT, "IPv4", "0.5", "ms", "EHOSTUNREACH"],
    ]
