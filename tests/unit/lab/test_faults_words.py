"""What diallers and agents write is read line by line, and times are those of one clock."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path

from meshd.lab.faults.words import Attempt, attempt, event, fall
from meshd.lab.tail import Tail


def test_an_attempt_is_read_with_its_dialler() -> None:
    assert attempt("cm-1-n1", "17 250 cm-2/rebel-base-1 silent") == Attempt(
        "cm-1-n1", 17, 250, "cm-2/rebel-base-1", "silent"
    )


def test_a_fall_is_read_from_an_agents_event_with_its_monotonic_time() -> None:
    said = {
        "event": "node does not answer",
        "node": "cm-2/cm-2-n1",
        "silent_ms": 512,
        "timestamp": datetime.now(UTC).isoformat(),
    }
    found = fall("cm-1-n1", event(json.dumps(said)))
    assert found is not None
    assert (found.observer, found.node, found.silent_ms) == ("cm-1-n1", "cm-2-n1", 512)
    assert abs(found.at_ns - time.monotonic_ns()) < 60 * 10**9


def test_other_events_and_what_is_no_event_are_no_fall() -> None:
    for line in (
        '{"event": "node answers", "node": "cm-2/cm-2-n1"}',
        "Traceback (most recent call last):",
        "7",
    ):
        assert fall("cm-1-n1", event(line)) is None


def test_only_whole_lines_are_read_and_each_once(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "log")
    assert tail.new() == []
    (tmp_path / "log").write_text("one\ntw")
    assert tail.new() == ["one"]
    with (tmp_path / "log").open("a") as file:
        file.write("o\n")
    assert tail.new() == ["two"]
