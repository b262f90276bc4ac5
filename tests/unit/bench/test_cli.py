from __future__ import annotations

import argparse

import pytest

from meshd.bench.arguments import add_arguments


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(["service-lb", *arguments])


def test_sizes_are_ascending_and_each_is_measured_once() -> None:
    assert parsed("--services", "1000,1,1000").services == (1, 1000)


def test_a_propagation_of_fewer_changes_than_bound_anything_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert parser.parse_args(["propagation", "--services", "20"]).toggles == 200
    with pytest.raises(SystemExit):
        parser.parse_args(["propagation", "--toggles", "5"])
    assert "--toggles: must be at least 6" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--rounds", "5"), "--rounds: must be at least 6"),
        (("--removals", "0"), "--removals: must be at least 6"),
        (("--services", "0,10"), "--services: every number of services must be 1..100000"),
        (("--services", "many"), "--services: invalid"),
        (("-o", "xml"), "invalid choice"),
    ],
)
def test_sizes_that_bound_nothing_are_refused_with_the_option(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parsed(*arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
