"""Every command explains itself."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import pytest

from meshd.ctl.arguments import build
from meshd.ctl.main import main


def commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from commands(each)


def test_options_may_stand_before_a_command_of_many(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--socket", "/nowhere", "clustermesh", "confirm", "cm-2"]) == 1
    assert "/nowhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", list(commands(build(extras=["kube", "lab", "bench"]))), ids=lambda each: each.prog
)
def test_every_command_explains_itself(command: argparse.ArgumentParser) -> None:
    assert command.format_help().startswith(f"usage: {command.prog}")
