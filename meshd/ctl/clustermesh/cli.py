"""The command line of ``meshctl clustermesh``: that of the package ``clustermesh``, and what Kubernetes adds."""

from __future__ import annotations

import argparse
import importlib
import os
from pathlib import Path

from clustermesh import membership_cli
from meshd.ctl.command_line import add_connection

NAMESPACE = "meshd-system"
LISTEN = "127.0.0.1:23793"
ON_KUBERNETES = """\
With --kubernetes (or --kubeconfig, or --context) all of it is in Secrets of the cluster, and --directory is not used.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Everything behind ``meshctl clustermesh``."""
    commands = parser.add_subparsers(required=True, metavar="ACTION", dest="action")
    membership_cli.add_commands(commands)
    for name, command in commands.choices.items():
        command.epilog = ON_KUBERNETES
        group = command.add_argument_group("on Kubernetes")
        add = group.add_argument
        add("--kubernetes", action="store_true", help="the cluster that kubectl speaks to")
        add("--kubeconfig", type=Path, metavar="FILE", help="default: as kubectl")
        add("--context", default="", metavar="NAME", help="default: the current one")
        add("-n", "--namespace", default=NAMESPACE, help="default: %(default)s")
        if name in {"init", "invite", "leave", "rotate"}:
            add(
                "--timeout",
                type=float,
                default=300.0,
                metavar="S",
                help="how long to wait for etcd (default: %(default)g)",
            )
        if name == "init":
            add(
                "--etcd-node",
                action="append",
                default=[],
                metavar="NODE",
                help="a member of the mesh's etcd runs on it; once, or three times; without --endpoint",
            )
            add("--etcd-image", metavar="REFERENCE", help="default: meshd-etcd:VERSION of this meshctl")
            add(
                "--no-apply",
                action="store_true",
                help="Helm or kustomize makes the StatefulSet of etcd; write only what it needs",
            )
    confirm = commands.add_parser(
        "confirm",
        help="let go on this node what a peer's etcd lost",
        description="Let go, on the node of the agent, what a peer's etcd does not name any more and still stands there.",
    )
    pin = commands.add_parser(
        "pin",
        help="state in a peer's file what was learned of it",
        description="State in a peer's file, where no pin is stated, which id and networks the agent learned of it.",
    )
    pin.add_argument("--print", action="store_true", help="print the lines; change nothing")
    relearn = commands.add_parser(
        "relearn",
        help="let a peer that nobody pinned name other networks",
        description="Forget on the node of the agent what a peer named first: its next list with nodes is its pin.",
    )
    for each in (confirm, pin, relearn):
        # What says of a command that it does something itself.
        each.set_defaults(do=None)
        each.add_argument("cluster", metavar="CLUSTER")
        add_connection(each, defaults=False)
    _add_etcd(commands.add_parser("etcd", help="what runs in the pods of the mesh's etcd"))


def _add_etcd(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(required=True, metavar="ACTION", dest="etcd_action")
    run_member = actions.add_parser("run", help="become the member on this node")
    keep = actions.add_parser("keep", help="let declared readers in, give space back, tell of alarms")

    def directory(command: argparse.ArgumentParser, name: str, default: str, meaning: str) -> None:
        command.add_argument(
            name, type=Path, default=Path(default), metavar="DIR", help=f"{meaning} (default: {default})"
        )

    for each in (run_member, keep):
        each.set_defaults(do=None)
        node = os.environ.get("NODE_NAME", "")
        each.add_argument(
            "--node", default=node, metavar="NAME", help="default: NODE_NAME of the environment"
        )
        directory(each, "--config", "/etc/meshd-etcd", "members.yaml and readers.yaml")
    directory(run_member, "--certificates", "/etc/clustermesh/etcd", "of the servers")
    directory(run_member, "--data", "/var/lib/meshd-etcd", "where the store is")
    directory(keep, "--client", "/etc/clustermesh/client", "etcd.yaml of this cluster's nodes")
    keep.add_argument(
        "--listen", default=LISTEN, metavar="HOST:PORT", help=f"of /metrics and /healthz (default: {LISTEN})"
    )


def run(options: argparse.Namespace) -> int:
    """The exit status of what ``options`` ask for."""
    membership_cli.quiet_grpc()
    if options.action == "confirm":
        status: int = importlib.import_module("meshd.ctl.clustermesh.confirm").run(options)
    elif options.action in {"pin", "relearn"}:
        module = importlib.import_module("meshd.ctl.clustermesh.pin")
        status = (module.pin if options.action == "pin" else module.relearn)(options)
    elif options.action == "etcd":
        status = importlib.import_module("meshd.ctl.clustermesh.keeper").run(options)
    elif options.kubernetes or options.kubeconfig or options.context:
        status = importlib.import_module("meshd.ctl.clustermesh.actions").run(options)
    else:
        status = membership_cli.run(options)
    return status
