"""`meshctl lab`: up, down, status, exec, logs and demo. Only argument parsing and choosing a lab happen here."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from meshd.errors import ConfigError, MeshError
from meshd.lab import spec as lab_spec
from meshd.lab.layout import RUN_ROOT, STATE_ROOT, Places

DEMO_OUT = Path("build/demo")
INTERRUPTED = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommands of `meshctl lab` to ``parser``."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    up = actions.add_parser("up", help="make a lab; it stays until `down`")
    up.add_argument("-f", "--file", type=Path, help="lab.yaml (default: two clusters, one global service)")
    up.add_argument("--id", help="its name on this machine (default: a new one)")
    down = actions.add_parser("down", help="remove a lab, also one that was never finished")
    down.add_argument("--all", action="store_true", help="all labs of this machine that nobody is working on")
    status = actions.add_parser("status", help="what runs, and which nodes are settled")
    execute = actions.add_parser("exec", help="run a command in a pod")
    logs = actions.add_parser("logs", help="what a pod, meshd or etcd printed")
    for action in (down, status, execute, logs):
        action.add_argument("--id", help="which lab (default: the only one)")
    execute.add_argument("pod", metavar="POD", help="CLUSTER/NAME, or NAME where there is only one")
    execute.add_argument("command", nargs=argparse.REMAINDER, metavar="-- CMD")
    logs.add_argument("name", metavar="NAME", help="a pod, meshd/NODE or etcd/CLUSTER")
    logs.add_argument("-f", "--follow", action="store_true", help="go on until interrupted")
    demo = actions.add_parser("demo", help="two clusters, one global service, a failover to watch")
    demo.add_argument(
        "--out", type=Path, default=DEMO_OUT, help=f"where the report goes (default {DEMO_OUT})"
    )
    demo.add_argument("--id", help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    """Does what ``arguments`` ask for; the exit status. Errors are one sentence on stderr."""
    action = {"up": _up, "down": _down, "status": _status, "exec": _exec, "logs": _logs, "demo": _demo}
    try:
        return action[arguments.action](arguments)
    except MeshError as error:
        print(f"meshctl lab: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read has gone; a flush at exit would fail on it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED


def places_of(lab_id: str) -> Places:
    """Where lab ``lab_id`` is on this machine.

    Raises:
        ConfigError: the id is no name, or there is no cgroup v2.
    """
    from meshd.kernel import cgroup  # noqa: PLC0415 - not needed to print help

    # Interface of the id with the file system: it becomes a directory, a cgroup and part of Unix socket paths.
    if not lab_spec.NAME.fullmatch(lab_id) or len(lab_id) > 20:
        raise ConfigError(f"lab id {lab_id!r}: must be lower-case letters, digits and '-', at most 20")
    return Places(lab_id, cgroup.find_mount())


def choose(wanted: str | None) -> Places:
    """The lab called ``wanted``, or the only one.

    Raises:
        LabError: there is none, or several to choose from.
    """
    from meshd.lab.record import LabError, existing  # noqa: PLC0415

    labs = existing(RUN_ROOT, STATE_ROOT)
    if wanted is None and len(labs) > 1:
        raise LabError(f"there are {len(labs)} labs: {', '.join(labs)}; choose one with --id")
    if wanted is not None and wanted not in labs:
        raise LabError(f"there is no lab {wanted}" + (f", only {', '.join(labs)}" if labs else ""))
    if not labs:
        raise LabError("there is no lab; `meshctl lab up` makes one")
    return places_of(wanted or labs[0])


def until_signalled(work: Coroutine[Any, Any, int]) -> int:
    """What ``work`` returns; SIGTERM and SIGHUP cancel it as SIGINT does, and come out as KeyboardInterrupt."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: os.kill(os.getpid(), signal.SIGINT))
    return asyncio.run(work)


def say(line: str) -> None:
    print(line, flush=True)


def _up(arguments: argparse.Namespace) -> int:
    from meshd.lab.preflight import require  # noqa: PLC0415
    from meshd.lab.session import bring_up  # noqa: PLC0415

    require()
    spec = lab_spec.load(arguments.file) if arguments.file else lab_spec.DEFAULT
    return until_signalled(bring_up(places_of(arguments.id or new_id()), spec, say))


def new_id() -> str:
    """A lab id that no living process has: this one's number."""
    return f"ml{os.getpid():x}"


def _down(arguments: argparse.Namespace) -> int:
    from meshd.lab.down import take_down  # noqa: PLC0415
    from meshd.lab.record import existing  # noqa: PLC0415

    chosen = (
        [places_of(name) for name in existing(RUN_ROOT, STATE_ROOT)]
        if arguments.all
        else [choose(arguments.id)]
    )
    for places in chosen:
        take_down(places)
        say(f"lab {places.id} is gone")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from meshd.lab.status import show  # noqa: PLC0415

    return asyncio.run(show(choose(arguments.id), say))


def _exec(arguments: argparse.Namespace) -> int:
    from meshd.lab.inspection import execute  # noqa: PLC0415

    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    return execute(choose(arguments.id), arguments.pod, command)


def _logs(arguments: argparse.Namespace) -> int:
    from meshd.lab.inspection import show_log  # noqa: PLC0415

    return show_log(choose(arguments.id), arguments.name, follow=arguments.follow)


def _demo(arguments: argparse.Namespace) -> int:
    from meshd.lab.demo.run import demo  # noqa: PLC0415
    from meshd.lab.preflight import require  # noqa: PLC0415

    require()
    return until_signalled(demo(places_of(arguments.id or new_id()), arguments.out))


def main() -> int:
    parser = argparse.ArgumentParser(prog="meshctl lab")
    add_arguments(parser)
    return run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
