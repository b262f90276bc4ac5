"""What clients write down, read while they write."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshd.lab.demo.requests import Log, Request, parse, percentile


def test_a_line_is_an_answer_or_a_loss() -> None:
    assert parse("c", "1000 250 6 ok cm-2 rebel-base-1") == Request("c", 1000, 250, 6, "cm-2", "rebel-base-1")
    assert parse("c", "1000 250 4 lost ECONNREFUSED") == Request("c", 1000, 250, 4, lost="ECONNREFUSED")


@pytest.mark.parametrize("line", ["", "1 2 4", "1 2 4 ok cm-1", "x 2 4 lost deadline", "1 2 4 lost"])
def test_a_line_that_is_neither_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"not enough|too many|invalid literal|unpack"):
        parse("c", line)


def test_only_whole_lines_are_read_and_each_once(tmp_path: Path) -> None:
    path = tmp_path / "requests.log"
    log = Log("c", path)
    assert log.new() == []
    path.write_text("1 2 4 lost deadline\n3 4 6 ok cm")
    assert [request.begun_ns for request in log.new()] == [1]
    with path.open("a") as file:
        file.write("-1 a\n")
    assert log.new() == [Request("c", 3, 4, 6, "cm-1", "a")]
    assert log.new() == []


def test_a_percentile_is_a_value_that_was_measured() -> None:
    assert percentile([], 0.99) is None
    assert percentile([3.0, 1.0, 2.0], 0.99) == 3.0
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile(list(range(1, 101)), 0.99) == 99
