"""What commands of meshctl are made of: their options for output, and how they reach the agent."""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection
from pathlib import Path
from typing import TypeAlias

DEFAULT_SOCKET = Path("/run/meshd/meshd.sock")
FORMATS = ("table", "wide", "json", "yaml")

# What argparse gives for add_subparsers(), which has no public name.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_connection(parser: argparse.ArgumentParser, *, defaults: bool) -> None:
    """How to reach the agent. Also accepted behind the command, where an option not given must not undo one given."""

    def default(value: object) -> object:
        return value if defaults else argparse.SUPPRESS

    group = parser.add_argument_group("connection")
    add = group.add_argument
    environment = os.environ.get("MESHD_SOCKET")
    socket = Path(environment) if environment else DEFAULT_SOCKET
    server = os.environ.get("MESHD_SERVER", "")
    add("--socket", type=Path, default=default(socket), help=f"Unix socket of the agent (default: {socket})")
    add(
        "--server",
        metavar="HOST:PORT",
        default=default(server),
        help="over TCP with mTLS instead of the socket",
    )
    add(
        "--tls-ca",
        type=Path,
        metavar="FILE",
        default=default(None),
        help="who signed the agent's certificate",
    )
    add("--tls-cert", type=Path, metavar="FILE", default=default(None), help="our certificate")
    add("--tls-key", type=Path, metavar="FILE", default=default(None), help="its key")
    add(
        "--tls-server-name", metavar="NAME", default=default(None), help="the name in the agent's certificate"
    )
    add("--timeout", type=seconds, default=default(10.0), metavar="SECONDS", help="of one call (default: 10)")


def add_command(
    commands: Commands,
    name: str,
    run: str,
    help_text: str,
    *,
    epilog: str = "",
    formats: Collection[str] = FORMATS,
) -> argparse.ArgumentParser:
    """A command that talks to the agent and is done by ``run`` in meshd.ctl."""
    parser = commands.add_parser(
        name,
        help=help_text,
        description=help_text,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=f"meshd.ctl.{run}")
    if formats:
        parser.add_argument("-o", "--output", choices=formats, default="table", help="default: table")
    add_connection(parser, defaults=False)
    return parser


def add_group(commands: Commands, name: str, help_text: str) -> Commands:
    """A command that has commands of its own."""
    return commands.add_parser(name, help=help_text).add_subparsers(metavar="ACTION", required=True)


def seconds(text: str) -> float:
    """A positive number of seconds.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of seconds")
    return value
