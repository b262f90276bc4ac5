"""The durable record of a lab, and who has it in hands."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshd.lab import record
from meshd.lab.down import abandoned
from meshd.lab.layout import Places
from meshd.lab.record import LabError, Pod, Record
from meshd.lab.spec import DEFAULT


def _places(tmp_path: Path, name: str = "ml1") -> Places:
    return Places(name, tmp_path / "cg", tmp_path / "run", tmp_path / "state")


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    places = _places(tmp_path)
    pod = Pod("cm-1", "cm-1-n1", "default", "x-wing-1", 10, {"app": "x-wing"}, ("x-wing",))
    written = Record("ml1", "up", DEFAULT, {pod.id: pod}, {pod.id})
    with record.held(places):
        record.write(places, written)
    assert record.read(places) == written


def test_a_lab_is_in_one_hand_at_a_time(tmp_path: Path) -> None:
    places = _places(tmp_path)
    with record.held(places):
        assert record.is_held(places)
        with pytest.raises(LabError, match="in the hands of another process"), record.held(places):
            pass
    assert not record.is_held(places)


def test_looking_whether_a_lab_is_held_makes_nothing(tmp_path: Path) -> None:
    assert not record.is_held(_places(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{", b'{"id": 1}'])
def test_a_record_that_was_never_finished_says_how_to_go_on(tmp_path: Path, content: bytes) -> None:
    places = _places(tmp_path)
    places.run.mkdir(parents=True)
    places.record.write_bytes(content)
    with pytest.raises(LabError, match="`meshctl lab down` removes the lab"):
        record.read(places)


def test_only_labs_that_nobody_holds_and_nobody_finished_are_abandoned(tmp_path: Path) -> None:
    half_made, finished, working = (_places(tmp_path, name) for name in ("ml1", "ml2", "ml3"))
    for places, keeper in ((half_made, "starting"), (finished, "up"), (working, "demo")):
        with record.held(places):
            record.write(places, Record(places.id, keeper, DEFAULT))
    with record.held(working):
        assert abandoned([half_made, finished, working]) == [half_made]
