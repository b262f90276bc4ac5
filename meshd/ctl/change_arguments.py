"""The commands of meshctl that change services and backends, and those that show them."""

from __future__ import annotations

import argparse

from meshd.ctl.command_line import Commands, add_command, add_group

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
    onStale: DEPRIORITISE      # KEEP, DEPRIORITISE, DROP
    closeOnFailover: true      # connections to a backend whose node is confirmed to be down are closed
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
    apply.add_argument(
        "--on-stale",
        choices=("keep", "deprioritise", "drop"),
        help="what becomes of stale backends of other clusters (default: the agent's configuration)",
    )
    apply.add_argument("--session-affinity", type=count, default=0, metavar="SECONDS", help="0: none")
    apply.add_argument("--internal-local", action="store_true", help="only backends on the same node serve")
    apply.add_argument("--close-tcp", action="store_true", help="close TCP connections of removed backends")
    apply.add_argument(
        "--close-on-failover",
        action="store_true",
        help="close connections to backends whose nodes are confirmed to be down",
    )
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


def count(text: str) -> int:
    """A number that protobuf's uint32 can hold; the agent says whether it makes sense.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not (text.isdecimal() and text.isascii() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 999999999")
    return int(text)
