"""`meshd`, `meshd cleanup`, `meshd node look|release`: arguments in, exit status out (0 ok, 1 failed, 2 usage)."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from meshd import __version__, config
from meshd.config import Config
from meshd.errors import ConfigError, MeshError


def main(arguments: list[str] | None = None) -> int:
    """Run the agent until SIGTERM or SIGINT, or clean up. Hooks and maps stay when the agent ends."""
    parsed = parser().parse_args(arguments)
    try:
        if parsed.command == "node" and parsed.action == "look":
            return look()
        options = config.load(parsed.config)
        if parsed.command == "cleanup":
            return clean_up(options, parsed.features, drop_translated=parsed.drop_translated)
        if parsed.command == "node":
            return release_node(options)
        return serve(options)
    except MeshError as error:
        print(f"meshd: {error}", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="meshd", description="The node agent of a sidecarless service mesh.")
    made.add_argument("--version", action="version", version=f"meshd {__version__}")
    meaning = f"configuration file (default: {config.DEFAULT_PATH})"
    made.add_argument("--config", type=Path, default=config.DEFAULT_PATH, help=meaning)
    commands = made.add_subparsers(dest="command", metavar="COMMAND")
    cleanup = commands.add_parser(
        "cleanup",
        help="take the hooks off and remove all maps, without an agent; connections that exist go on",
    )
    cleanup.add_argument(
        "features", nargs="*", metavar="FEATURE", help="socket_lb, pod_network; default: all"
    )
    cleanup.add_argument(
        "--drop-translated",
        action="store_true",
        help="although flows that only the programs carry (masqueraded, to services, in the tunnel) end with them",
    )
    node = commands.add_parser("node", help="what this machine offers, and what Kubernetes is told of it")
    actions = node.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser(
        "look", help="what of kernel, cgroups and network matters to meshd, as JSON; changes nothing"
    )
    release = actions.add_parser(
        "release",
        help="take the agent's taint and condition off the Node, without an agent; the next network says what it is",
    )
    # Also behind the command; not given there, it must not undo what was given before.
    for each in (cleanup, release):
        each.add_argument("--config", type=Path, default=argparse.SUPPRESS, help=meaning)
    return made


def serve(options: Config) -> int:
    """The agent, from the first look at the kernel to a signal."""
    from meshd.agent import logs  # noqa: PLC0415 - not for --help and cleanup
    from meshd.agent.composition import Agent  # noqa: PLC0415

    logs.configure(options.log_level, options.log_format)
    asyncio.run(until_signal(Agent(options)))
    return 0


async def until_signal(agent: object) -> None:
    """Run ``agent`` until it ends, SIGTERM or SIGINT; an orderly end leaves hooks and maps as they are."""
    task = asyncio.ensure_future(agent.run())  # type: ignore[attr-defined]
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        return


def clean_up(options: Config, wanted: Sequence[str], *, drop_translated: bool) -> int:
    """Remove everything of this agent from the kernel, and say what it was."""
    from meshd.agent import run_lock  # noqa: PLC0415
    from meshd.dataplane.cleanup import WORDS  # noqa: PLC0415
    from meshd.dataplane.cleanup import clean_up as remove  # noqa: PLC0415
    from meshd.kernel import features  # noqa: PLC0415

    unknown = [word for word in wanted if word not in WORDS]
    if unknown:
        raise ConfigError(f"cleanup: {unknown[0]} is no feature: {', '.join(WORDS)}")
    features.require_privileges()
    with run_lock.held(options, create=False):
        removed = remove(options, wanted or WORDS, drop_translated=drop_translated)
    programs = f", programs on {len(removed.devices)} devices" if removed.devices else ""
    print(
        f"meshd: removed {len(removed.hooks)} hooks{programs} and {len(removed.maps)} maps below {options.bpffs}"
    )
    return 0


def look() -> int:
    """Prints what this machine offers; no configuration is needed."""
    from meshd.agent import machine  # noqa: PLC0415 - as above

    print(json.dumps(machine.look(Config(node_name="").bpffs)))
    return 0


def release_node(options: Config) -> int:
    """Nothing on the Node is ours any more, and who it was is forgotten; says what was changed."""
    from meshd.agent import run_lock  # noqa: PLC0415 - as above
    from meshd.kubenode import identity  # noqa: PLC0415
    from meshd.kubenode.own_node import release  # noqa: PLC0415
    from meshd.sources.kubernetes.source import access  # noqa: PLC0415

    if not options.kubernetes.is_used:
        raise ConfigError("kubernetes is not configured: there is no Node")
    with run_lock.held(options, create=False):
        changed = asyncio.run(release(lambda: access(options.kubernetes), options.node_name))
        identity.forget(options.state_dir)
    parts = [name for name, change in (("taint", changed.taints), ("condition", changed.status)) if change]
    print(f"meshd: Node {options.node_name}: removed {' and '.join(parts) or 'nothing'}")
    return 0
