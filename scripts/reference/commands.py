"""Every command of meshctl with its arguments, from its parser."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from meshd.ctl import arguments

HEAD = """\
# meshctl

Every command also takes `-h`. How the agent is reached: `--socket`, or `--server` with `--tls-ca`, `--tls-cert`,
`--tls-key` and `--tls-server-name`; `--timeout` is of one call, in seconds.
"""
# In HEAD, instead of in each command.
EVERYWHERE = ("help", "socket", "server", "tls_ca", "tls_cert", "tls_key", "tls_server_name", "timeout")


def page() -> str:
    """One entry for each command that does something itself."""
    return HEAD + "\n" + "\n".join(_entries(arguments.build(arguments.EXTRAS)))


def _entries(parser: argparse.ArgumentParser) -> Iterator[str]:
    groups = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
    for group in groups:
        told = {each.dest: each.help or "" for each in group._choices_actions}
        for name, command in group.choices.items():
            if command.prog.split()[-1] != name:
                continue  # another name of the same command
            if command._defaults:
                yield _entry(command, told.get(name, ""))
            yield from _entries(command)


def _entry(command: argparse.ArgumentParser, told: str) -> str:
    lines = [f"## `{command.prog}`", "", (told or command.description or "").replace("%%", "%") + ".", ""]
    for action in command._actions:
        if action.dest in EVERYWHERE or isinstance(action, argparse._SubParsersAction):
            continue
        lines.append(f"* {_named(action)}{': ' + _said(action) if action.help else ''}")
    return "\n".join([*lines, ""])


def _named(action: argparse.Action) -> str:
    value = str(action.metavar or action.dest.upper())
    if action.choices:
        value = "|".join(map(str, action.choices))
    if not action.option_strings:
        return f"`{value}`"
    return (
        f"`{', '.join(action.option_strings)}`"
        if action.nargs == 0
        else f"`{', '.join(action.option_strings)} {value}`"
    )


def _said(action: argparse.Action) -> str:
    text = (action.help or "").replace("%%", "%")
    default = action.default
    if isinstance(default, Path | int | float | str) and not isinstance(default, bool):
        text = text.replace("%(default)s", str(default)).replace("%(default)g", str(default))
    return text
