"""``meshctl completion``: words for bash, zsh and fish, taken from the parser itself."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from meshd.ctl.arguments import EXTRAS, build
from meshd.ctl.errors import CtlError

# $1: the words so far that are no options, joined by spaces; the rest are the words that may follow.
BASH = """\
_meshctl() {{
    local path="" word i
    for ((i = 1; i < COMP_CWORD; i++)); do
        word="${{COMP_WORDS[i]}}"
        [[ $word == -* ]] || path="$path $word"
    done
    local words
    while :; do
        case "${{path# }}" in
{cases}
            *) path="${{path% *}}"; continue ;;
        esac
        break
    done
    COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -F _meshctl meshctl
"""

ZSH = "#compdef meshctl\nautoload -U +X bashcompinit && bashcompinit\n" + BASH


def run(options: argparse.Namespace) -> int:
    """Print the completions for one shell."""
    parser = build(extras=installed())
    if options.shell == "fish":
        print("\n".join(fish(parser)))
        return 0
    cases = "\n".join(
        f'            "{" ".join(path)}") words="{" ".join(words(command))}" ;;'
        for path, command in walk(parser)
    )
    print((BASH if options.shell == "bash" else ZSH).format(cases=cases), end="")
    return 0


def installed() -> tuple[str, ...]:
    """Packages with commands of their own that can be imported here."""
    from importlib.util import find_spec  # noqa: PLC0415 - late: only completion asks

    found = tuple(
        name
        for name, (module, _) in EXTRAS.items()
        if find_spec(module.rpartition(".")[0]) and find_spec(module)
    )
    try:
        build(extras=found)
    except ImportError as error:
        raise CtlError(f"completions need every command of this installation: {error}") from error
    return found


def walk(
    parser: argparse.ArgumentParser, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """Every command with the words that lead to it, the whole first."""
    yield path, parser
    for name, command in commands(parser).items():
        yield from walk(command, (*path, name))


def commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The commands right below ``parser``."""
    # argparse has no public way to ask for them.
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def words(parser: argparse.ArgumentParser) -> list[str]:
    """What may follow: commands, choices and options."""
    found = [*commands(parser)]
    for action in parser._actions:
        found += action.option_strings
        if action.choices and not isinstance(action, argparse._SubParsersAction):
            found += map(str, action.choices)
    return found


def fish(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The same for fish, which has a line for each word."""
    yield "complete -c meshctl -f"
    for path, command in walk(parser):
        seen = (
            "; and ".join(f"__fish_seen_subcommand_from {name}" for name in path) or "__fish_use_subcommand"
        )
        below = commands(command)
        nothing_yet = f"; and not __fish_seen_subcommand_from {' '.join(below)}" if below and path else ""
        for word in words(command):
            if word.startswith("--"):
                yield f"complete -c meshctl -n '{seen}' -l {word[2:]}"
            elif word.startswith("-"):
                yield f"complete -c meshctl -n '{seen}' -s {word[1:]}"
            else:
                yield f"complete -c meshctl -n '{seen}{nothing_yet}' -a {word}"
