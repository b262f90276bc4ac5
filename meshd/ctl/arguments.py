"""The command line of meshctl, from which completions are generated too."""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Collection
from pathlib import Path
from typing import TypeAlias

DEFAULT_SOCKET = Path("/run/meshd/meshd.sock")
FORMATS = ("table", "wide", "json", "yaml")
WATCHED = ("services", "backends", "nodes", "clusters")

# What argparse gives for add_subparsers(), which has no public name.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

# Commands of packages of their own: imported only when they are asked for.
EXTRAS = {
    "kube": ("meshd.ctl.kube.cli", "meshd on a Kubernetes cluster: check, install, upgrade, uninstall"),
    "clustermesh": ("meshd.ctl.clustermesh.cli", "make this cluster part of a mesh: certificates, peers"),
    "lab": (
        "meshd.lab.cli",
        "clusters on this machine: nodes and pods as network namespaces, with real agents",
    ),
    "bench": ("meshd.bench.cli", "measure the dataplane against what it replaces"),
}

SERVICE_FILE = """\
FILE holds one or more documents, YAML or JSON, each a meshd.v1.Service (proto/meshd/v1/service.proto), as
`meshctl service get -o yaml` prints it; source and status are ignored:

    namespace: default
    name: rebel-base
    frontends:
      - {address: 10.96.0.10, port: 80, protocol: TCP, portName: http}
    global: true
    affinity: LOCAL            # NONE, LOCAL, REMOTE; or a ladder, which goes before:
    failover: local, cluster:cm-2 weight 3 + cluster:cm-3 weight 1 capacity 40, any
    minHealthyPercent: 70      # of a rung; below, the next one takes a part
    rampSeconds: 60            # for so long the share of a cluster grows that serves again
    affinityTimeoutSeconds: 0  # more: a client keeps its backend for so long

A document that is wrong is refused alone; the others are applied.
"""

BACKEND_FILE = """\
FILE holds one or more documents, YAML or JSON, each a meshd.v1.Backend (proto/meshd/v1/backend.proto), as
`meshctl backend list -o yaml` prints them:

    namespace: default
    service: rebel-base
    address: 10.1.0.5
    ports:
      - {portName: http, protocol: TCP, port: 8080}
    weight: 100

A document that is wrong is refused alone; the others are applied.
"""


FAILOVER_PLAN = """\
Nothing is changed: what chooses backends is asked twice, as things are and with those backends out of reach.
SHARE is of the service's traffic from this node, EACH how much more of it each backend gets, HEADROOM what the stated
capacity of a target leaves (below 0: it has more).
"""


def build(extras: Collection[str] = ()) -> argparse.ArgumentParser:
    """The parser; of EXTRAS those named in ``extras`` with their own arguments, the others by name only."""
    parser = argparse.ArgumentParser(
        prog="meshctl",
        description="Look at and change what a meshd agent serves.",
        epilog="Exit status: 0 done, 1 failed, 2 wrong usage. MESHD_SOCKET and MESHD_SERVER stand for --socket and "
        "--server.",
    )
    add_connection(parser, defaults=True)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add_readers(commands)
    add_services(commands)
    add_backends(commands)
    add_short_circuit(commands)
    add_failover(commands)
    add_cni(commands)
    add_tools(commands)
    for name, (module, help_text) in EXTRAS.items():
        extra = commands.add_parser(name, help=help_text)
        if name in extras:
            importlib.import_module(module).add_arguments(extra)
        extra.set_defaults(run=f"{module}:run")
    return parser


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


def add_readers(commands: Commands) -> None:
    """Commands that only read."""
    add_command(commands, "status", "status:run", "what the agent is, what it found, and what is wrong")
    nodes = add_group(commands, "node", "machines of the clusters")
    add_command(
        nodes, "list", "lists:nodes", "all nodes that any source names, and how their pods are reached"
    )
    delete = add_command(nodes, "delete", "node:delete", "forget nodes whose records are gone", formats=())
    delete.add_argument("names", nargs="+", metavar="[CLUSTER/]NAME")
    delete.add_argument("--no-wait", action="store_true", help="do not wait for the kernel")
    clusters = add_group(commands, "cluster", "this cluster and the remote ones")
    add_command(clusters, "list", "lists:clusters", "all clusters, with the state of the connection")
    maps = add_group(commands, "map", "kernel maps")
    add_command(maps, "list", "lists:maps", "all maps of the agent, and how full they are")
    dump = add_command(maps, "dump", "maps:dump", "all entries of one map")
    dump.add_argument("name", metavar="MAP")
    metrics = add_group(commands, "metrics", "what the dataplane counts")
    add_command(metrics, "drops", "drops:run", "why packets of pods were dropped")
    watch = add_command(
        commands,
        "watch",
        "watch:run",
        "what is there, then what changes, until Ctrl-C",
    )
    watch.add_argument("what", choices=WATCHED)
    watch.add_argument("--once", action="store_true", help="end when all that is there has been shown")


def add_services(commands: Commands) -> None:
    """The commands of ``service``."""
    actions = add_group(commands, "service", "names that clients dial")
    listed = add_command(actions, "list", "lists:services", "all services of all sources")
    listed.add_argument("-n", "--namespace", default="", help="default: all")
    listed.add_argument("--source", default="", help="default: all")
    get = add_command(actions, "get", "service:get", "one service")
    add_service_name(get)
    get.add_argument("--source", default="", help="default: the one in force")
    apply = add_command(
        actions,
        "apply",
        "service:apply",
        "create or replace services of source api",
        epilog=SERVICE_FILE,
        formats=(),
    )
    add_service_name(apply, nargs="?")
    apply.add_argument("-f", "--file", metavar="FILE", help="documents as below; - is stdin")
    apply.add_argument(
        "--frontend",
        action="append",
        default=[],
        metavar="[NAME=]ADDRESS:PORT[/PROTOCOL]",
        help="what clients dial; may be repeated ([fd00::1]:80/UDP)",
    )
    apply.add_argument(
        "--global", dest="is_global", action="store_true", help="backends of other clusters count"
    )
    apply.add_argument("--affinity", choices=("none", "local", "remote"), default="none")
    apply.add_argument(
        "--failover", default="", metavar="LADDER", help="instead of --affinity: 'local, cluster:cm-2, any'"
    )
    apply.add_argument(
        "--min-healthy-percent", type=count, metavar="PERCENT", help="of a rung, to take all (default: 70)"
    )
    apply.add_argument(
        "--ramp",
        type=count,
        default=0,
        metavar="SECONDS",
        help="a cluster that is back gets its share in so long",
    )
    apply.add_argument("--session-affinity", type=count, default=0, metavar="SECONDS", help="0: none")
    apply.add_argument("--internal-local", action="store_true", help="only backends on the same node serve")
    apply.add_argument("--close-tcp", action="store_true", help="close TCP connections of removed backends")
    add_change(apply)
    delete = add_command(actions, "delete", "service:delete", "delete services of source api", formats=())
    delete.add_argument("names", nargs="+", metavar="[NAMESPACE/]NAME")
    delete.add_argument("-n", "--namespace", default="default", help="default: default")
    delete.add_argument("--no-wait", action="store_true", help="do not wait for the kernel")


def add_backends(commands: Commands) -> None:
    """The commands of ``backend``."""
    actions = add_group(commands, "backend", "addresses and ports that serve")
    listed = add_command(actions, "list", "lists:backends", "all backends of all sources")
    listed.add_argument("service", nargs="?", default="", metavar="[NAMESPACE/]SERVICE", help="default: all")
    listed.add_argument("-n", "--namespace", default="", help="default: all")
    listed.add_argument("--source", default="", help="default: all")
    apply = add_command(
        actions,
        "apply",
        "backend:apply",
        "create or replace backends of source api",
        epilog=BACKEND_FILE,
        formats=(),
    )
    add_service_name(apply, nargs="?")
    apply.add_argument("-f", "--file", metavar="FILE", help="documents as below; - is stdin")
    apply.add_argument("--address")
    apply.add_argument(
        "--port", action="append", default=[], metavar="[NAME=]PORT[/PROTOCOL]", help="may be repeated"
    )
    apply.add_argument("--weight", type=count, help="relative within the service (default: 100)")
    apply.add_argument("--not-ready", action="store_true")
    apply.add_argument("--terminating", action="store_true", help="serves only if no ready one is left")
    apply.add_argument("--node", default="")
    apply.add_argument("--zone", default="")
    apply.add_argument("--cluster", default="", help="default: the agent's")
    add_change(apply)
    delete = add_command(actions, "delete", "backend:delete", "delete backends of source api", formats=())
    add_service_name(delete)
    delete.add_argument("addresses", nargs="+", metavar="ADDRESS")
    delete.add_argument("--no-wait", action="store_true", help="do not wait for the kernel")


def add_short_circuit(commands: Commands) -> None:
    """The commands of ``short-circuit``."""
    actions = add_group(commands, "short-circuit", "connections of a node handed from socket to socket")
    add_command(
        actions,
        "status",
        "short_circuit:status",
        "whether it is on, why not, whom it leaves out, what it did",
    )
    listed = add_command(
        actions, "list", "short_circuit:connections", "all connections that are admitted now"
    )
    listed.add_argument("workload", nargs="?", default="", metavar="[NAMESPACE/]POD", help="default: all")
    listed.add_argument("-n", "--namespace", default="default", help="default: default")
    add_command(
        actions,
        "pairs",
        "short_circuit:pairs",
        "what workloads sent each other, with the connections that are over",
    )
    for word, what in (("on", "messages may be handed over"), ("off", "every message goes on TCP")):
        switch = add_command(actions, word, f"short_circuit:{word}", f"{what}, from the next message on")
        switch.add_argument(
            "--cluster",
            action="store_true",
            help="on all nodes of the cluster; waits for each node's word, as long as --timeout says",
        )


def add_failover(commands: Commands) -> None:
    """The commands of ``failover``."""
    actions = add_group(commands, "failover", "whose backends take over when others cannot serve")
    plan = add_command(
        actions,
        "plan",
        "failover:plan",
        "who would take over if a cluster, or a node or zone of it, could not be reached from this node",
        epilog=FAILOVER_PLAN,
    )
    plan.add_argument("--lose", required=True, metavar="CLUSTER")
    part = plan.add_mutually_exclusive_group()
    part.add_argument("--node", default="", help="only this node of it")
    part.add_argument("--zone", default="", help="only this zone of it")


def add_cni(commands: Commands) -> None:
    """The commands of ``cni``. They work on files and need no agent."""
    actions = add_group(commands, "cni", "make the container runtime of this machine use meshd")
    install = actions.add_parser("install", help="plugin and configuration where the runtime looks")
    install.add_argument(
        "--cni-version",
        choices=("0.3.1", "0.4.0", "1.0.0", "1.1.0"),
        help="default: the newest that the runtime and the other plugins take",
    )
    install.add_argument(
        "--chained",
        action="store_true",
        help="after the plugins in force: they connect pods, meshd translates services",
    )
    uninstall = actions.add_parser("uninstall", help="back to what was in force before")
    uninstall.add_argument(
        "--leave-running", action="store_true", help="although pods of meshd run; their interfaces stay"
    )
    uninstall.add_argument(
        "--drain",
        action="store_true",
        help="wait until the runtime has deleted all pods of meshd, then uninstall",
    )
    uninstall.add_argument(
        "--timeout",
        type=float,
        default=600.0,
        metavar="S",
        help="of --drain, in seconds (default: %(default)g)",
    )
    status = actions.add_parser("status", help="what is installed, and what is in force")
    for name, parser in (("install", install), ("uninstall", uninstall), ("status", status)):
        parser.set_defaults(run=f"meshd.ctl.cni:{name}")
        parser.add_argument(
            "--config",
            type=Path,
            metavar="FILE",
            default=Path("/etc/meshd/config.yaml"),
            help="the agent's configuration (default: %(default)s)",
        )
        parser.add_argument("--conf-dir", type=Path, metavar="DIR", help="default: cni.confDir")
        parser.add_argument("--bin-dir", type=Path, metavar="DIR", help="default: cni.binDir")


def add_tools(commands: Commands) -> None:
    """Everything else."""
    sysdump = add_command(
        commands,
        "sysdump",
        "sysdump:run",
        "all that a bug report needs, as tar.gz; secrets are left out",
        formats=(),
    )
    sysdump.add_argument(
        "-f", "--file", type=Path, metavar="FILE", help="default: meshd-sysdump-NODE-TIME.tar.gz"
    )
    sysdump.add_argument(
        "--log", type=Path, metavar="FILE", help="the agent's log file; its last lines are added"
    )
    sysdump.add_argument("--metrics", metavar="URL", help="default: what the agent's configuration says")
    version = add_command(commands, "version", "version:run", "versions of meshctl and of the agent")
    version.add_argument("--client", action="store_true", help="of meshctl only; asks nobody")
    completion = commands.add_parser(
        "completion", help='completions for a shell: eval "$(meshctl completion bash)"'
    )
    completion.add_argument("shell", choices=("bash", "zsh", "fish"))
    completion.set_defaults(run="meshd.ctl.completion:run")


def add_service_name(parser: argparse.ArgumentParser, nargs: str | None = None) -> None:
    """Which service."""
    if nargs:
        parser.add_argument("name", nargs=nargs, metavar="[NAMESPACE/]NAME")
    else:
        parser.add_argument("name", metavar="[NAMESPACE/]NAME")
    parser.add_argument("-n", "--namespace", default="default", help="default: default")


def add_change(parser: argparse.ArgumentParser) -> None:
    """How a change is made."""
    parser.add_argument("--no-wait", action="store_true", help="do not wait for the kernel")
    parser.add_argument("--dry-run", action="store_true", help="let the agent check it; change nothing")


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


def count(text: str) -> int:
    """A number that protobuf's uint32 can hold; the agent says whether it makes sense.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not (text.isdecimal() and text.isascii() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 999999999")
    return int(text)
