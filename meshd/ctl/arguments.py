"""The command line of meshctl, from which completions are generated too."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Collection
from pathlib import Path

from meshd.ctl.change_arguments import add_backends, add_services
from meshd.ctl.command_line import Commands, add_command, add_connection, add_group

WATCHED = ("services", "backends", "nodes", "clusters")

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


FAILOVER_PLAN = """\
Nothing is changed: what chooses backends is asked twice, as things are and with those backends out of reach.
SHARE is of the service's traffic from this node, EACH how much more of it each backend gets, HEADROOM what the stated
capacity of a target leaves (below 0: it has more).
"""


FAILOVER_DRILL = """\
Done for real on all nodes of this cluster: new connections go as if no backend of the lost cluster could be reached, if
others serve; established ones stay. The kernel itself goes back when the time is over, whoever is there then to say so.
Ctrl-C ends it at once. PLANNED is the choice, OBSERVED what the kernel counted. Exit status 1: a node did not take part.
"""

FAILOVER_HISTORY = """\
DETECTION is the time from a node's last answer to the finding that it is silent, SWITCH from the finding until the kernel
held the change (the longest of all services), LEFT OPEN how many sockets were then still open to pods of the silent nodes,
LAST CONNECTION when the last one to them began, UNANSWERED how many nobody accepted.
"""

MESH_DOCTOR = """\
What the agent knows of clusters, nodes and probes, and what its client files and every etcd that they name say now. Nothing
is changed. Exit status: 0 nothing is wrong, 1 something is. docs/join-clusters.md has what is looked at.
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
    add_mesh(commands)
    add_cni(commands)
    add_tools(commands)
    for name, (module, help_text) in EXTRAS.items():
        extra = commands.add_parser(name, help=help_text)
        if name in extras:
            importlib.import_module(module).add_arguments(extra)
        extra.set_defaults(run=f"{module}:run")
    return parser


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
    drill = add_command(
        actions,
        "drill",
        "drill:drill",
        "serve a service for a while as if a cluster could not be reached",
        epilog=FAILOVER_DRILL,
        formats=("table", "json", "yaml"),
    )
    drill.add_argument("--service", required=True, metavar="[NAMESPACE/]NAME")
    drill.add_argument("-n", "--namespace", default="default", help="default: default")
    drill.add_argument("--lose", required=True, metavar="CLUSTER")
    drill.add_argument(
        "--for",
        dest="for_s",
        type=duration,
        default=60.0,
        metavar="DURATION",
        help="90, 90s, 5m, at most 1h (default: 60s)",
    )
    add_command(
        actions,
        "history",
        "failover:history",
        "which failovers this node remembers, the newest first",
        epilog=FAILOVER_HISTORY,
    )


def add_mesh(commands: Commands) -> None:
    """The commands of ``mesh``."""
    actions = add_group(commands, "mesh", "all clusters that this one is joined with")
    doctor = add_command(
        actions,
        "doctor",
        "mesh:doctor",
        "what is wrong with the mesh, where, and what to do",
        epilog=MESH_DOCTOR,
        formats=("table", "json"),
    )
    doctor.add_argument(
        "--no-files",
        action="store_true",
        help="only what the agent knows; on another machine it is so anyway",
    )


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


def duration(text: str) -> float:
    """``90``, ``90s``, ``5m`` or ``1h``; the agent says whether it makes sense.

    Raises:
        argparse.ArgumentTypeError: it is something else.
    """
    units = {"s": 1, "m": 60, "h": 3600}
    number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "s")
    if not (number.isdecimal() and number.isascii() and len(number) < 10):
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration such as 90s, 5m or 1h")
    return float(int(number) * units[unit])
