"""Every command explains itself."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import pytest

from meshd.ctl.arguments import build


def commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from commands(each)


@pytest.mark.parametrize(
    "command", list(commands(build(extras=["kube", "lab", "bench"]))), ids=lambda each: each.prog
)
def test_every_command_explains_itself(command: argparse.ArgumentParser) -> None:
    assert command.format_help().startswith(f"usage: {command.prog}")
