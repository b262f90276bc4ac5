"""The command line of ``meshctl kube``."""

from __future__ import annotations

import argparse
import importlib
import re
from ipaddress import ip_address
from pathlib import Path

NAMESPACE = "meshd-system"
OUTSIDE_PORT = 443
CHECKED = """\
Whatever stands in the way is named before anything is changed. What meshd cannot do yet is refused unless it is
accepted by name: policies that nobody would enforce any more, ports that nobody would serve to the outside without
kube-proxy, and pods of another network plugin, which keep their interfaces until they are recreated.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Everything behind ``meshctl kube``."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    check = _action(
        actions, "check", "what of this cluster and its nodes stands in meshd's way; changes nothing"
    )
    install = _action(actions, "install", "put meshd on every node, and wait for it")
    upgrade = _action(
        actions, "upgrade", "another image or configuration, one node after the other; or an older one"
    )
    uninstall = _action(actions, "uninstall", "give every node back as it was, and remove meshd")
    _action(actions, "status", "the agents, and which of them are not well")
    for each in (check, install, upgrade):
        for name, meaning in (
            ("--without-kube-proxy", "nobody else answers service addresses"),
            ("--accept-unenforced-policies", "policies are there, and meshd does not enforce them"),
            ("--accept-unserved-ports", "of services and pods, to the outside"),
            ("--accept-other-cni", "another network plugin runs"),
        ):
            each.add_argument(name, action="store_true", help=meaning)
        each.add_argument(
            "--no-node-look",
            action="store_true",
            help="no pods that look at nodes from inside (kernel features, cgroups, MTU, routes)",
        )
        each.epilog = CHECKED
        each.formatter_class = argparse.RawDescriptionHelpFormatter
    check.add_argument(
        "--connectivity",
        action="store_true",
        help="instead: whether pods reach what they have to, tried by pods of a namespace that goes again",
    )
    check.add_argument(
        "--image",
        metavar="REFERENCE",
        help="of pods that look at nodes, or test connectivity; default: the agents'; without either nobody looks",
    )
    check.add_argument(
        "--timeout",
        type=float,
        default=120.0,
        metavar="S",
        help="how long a pod may take to be ready (default: %(default)g)",
    )
    for each in (check, install, upgrade):
        each.add_argument(
            "--node",
            action="append",
            default=[],
            metavar="NAME",
            help="whose connectivity is tested, may be repeated; default: all, or 32 of a large cluster's",
        )
        each.add_argument(
            "--outside",
            action="append",
            default=[],
            type=place,
            metavar="ADDRESS[:PORT]",
            help="what pods have to reach outside, may be repeated (default port: 443)",
        )
    for each in (install, upgrade):
        each.add_argument(
            "--no-connectivity-test",
            action="store_true",
            help="do not test afterwards whether pods reach what they have to",
        )
        each.add_argument("--image", metavar="REFERENCE", help="default: meshd:VERSION of this meshctl")
        each.add_argument(
            "--config",
            type=Path,
            metavar="FILE",
            help="options of agents (meshd.yaml) that differ from the defaults; for upgrade: default: as it is",
        )
        each.add_argument(
            "--api-server",
            action="append",
            default=[],
            metavar="HOST:PORT",
            help="as nodes reach it, may be repeated; default: what the cluster says of itself",
        )
        each.add_argument(
            "--dry-run", action="store_true", help="let the API server check it; change nothing"
        )
        each.add_argument(
            "--show", action="store_true", help="print what would be applied, and ask nobody to"
        )
    for each in (install, upgrade, uninstall):
        each.add_argument("--no-wait", action="store_true", help="do not wait for the nodes")
        each.add_argument(
            "--timeout",
            type=float,
            default=600.0,
            metavar="S",
            help="how long to wait (default: %(default)g)",
        )
    uninstall.add_argument(
        "--drop-translated",
        action="store_true",
        help="although flows that only meshd's programs carry end with them",
    )
    uninstall.add_argument(
        "--image", metavar="REFERENCE", help="with which nodes are cleaned; default: the agents'"
    )


def _action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser], name: str, help_text: str
) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=help_text, description=help_text)
    parser.set_defaults(action=name)
    parser.add_argument("--kubeconfig", type=Path, metavar="FILE", help="default: as kubectl")
    parser.add_argument("--context", default="", metavar="NAME", help="default: the current one")
    parser.add_argument("-n", "--namespace", default=NAMESPACE, help="default: %(default)s")
    return parser


def place(said: str) -> tuple[str, int]:
    """Address and port of ``192.0.2.1``, ``192.0.2.1:80``, ``2001:db8::1``, ``[2001:db8::1]:80``."""
    found = re.fullmatch(r"\[(?P<v6>[^]]+)\](?::(?P<v6_port>\d+))?|(?P<v4>[^:]+):(?P<v4_port>\d+)", said)
    address, port = said, OUTSIDE_PORT
    if found:
        address = found["v6"] or found["v4"]
        port = int(found["v6_port"] or found["v4_port"] or OUTSIDE_PORT)
    try:
        return str(ip_address(address)), port
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{said!r} is no ADDRESS[:PORT]") from error


def run(options: argparse.Namespace) -> int:
    """The exit status of the action in ``options``."""
    status: int = importlib.import_module("meshd.ctl.kube.actions").run(options)
    return status
