"""The history of failovers on disk."""

from __future__ import annotations

from pathlib import Path

from meshd.dataplane.failover_record import FILE, load, save
from meshd.model import ServiceName
from meshd.model.failover_history import Cause, Failover, Move

WEB = ServiceName("default", "web")
FAILOVERS = [
    Failover("cm-1", Cause.WITHDRAWN, 1.5, waiting=(WEB,)),
    Failover(
        "cm-2",
        Cause.SILENT,
        2.5,
        ("n1", "n2"),
        0.7,
        0.01,
        (Move(WEB, 0.01, {"cm-1": 0.5, "cm-2": 0.5}, {"cm-1": 1.0}),),
        1,
        3,
        9.0,
        (),
        2.9,
        12,
    ),
]


def test_what_was_written_is_read(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    assert load(directory) == []
    save(directory, FAILOVERS)
    assert load(directory) == FAILOVERS
    save(directory, FAILOVERS[:1])
    assert load(directory) == FAILOVERS[:1]


def test_a_file_that_cannot_be_read_is_history_begun_anew(tmp_path: Path) -> None:
    for content in (b"", b"[{", b'[{"cluster": "cm-1", "cause": "weather", "found_s": 1}]'):
        (tmp_path / FILE).write_bytes(content)
        assert load(tmp_path) == []
