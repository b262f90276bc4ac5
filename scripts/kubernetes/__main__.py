"""Sites by hand.

up NAME [--nodes N] [--clusters N] [--proxy nftables|iptables] [--bridge] [--dns]
kubectl NAME[/c2] ...      kubectl as administrator of the first, or the named, cluster
enter NAME/c1-n1 ...       a command on a node; NAME/outside: in the world outside
env NAME[/c2]              settings for this shell: eval "$(python -m scripts.kubernetes env NAME)"
down NAME                  everything of it goes
list
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from meshd.errors import MeshError
from scripts.kubernetes import components, layout
from scripts.kubernetes.addons import install_bridge, install_dns
from scripts.kubernetes.cluster import RunningNode
from scripts.kubernetes.errors import SiteError
from scripts.kubernetes.making import make
from scripts.kubernetes.processes import Started
from scripts.kubernetes.removal import remove
from scripts.kubernetes.site import PROXY_MODES, Wanted, place_of


def main(arguments: list[str]) -> int:
    """Status 0 when it was done, 1 with the reason."""
    # As an exception, so that what was half made is taken away.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options = _parser().parse_args(arguments)
    try:
        options.do(options)
    except (MeshError, components.ComponentsError) as error:
        sys.stderr.write(f"kubernetes: {error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.kubernetes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="make a site")
    up.add_argument("name")
    up.add_argument("--nodes", type=int, default=2, help="nodes of each cluster (2)")
    up.add_argument("--clusters", type=int, default=1, help="clusters on one network (1)")
    up.add_argument("--proxy", choices=PROXY_MODES, help="a kube-proxy on every node; default: none")
    up.add_argument("--bridge", action="store_true", help="Debian's bridge plugin as the network of pods")
    up.add_argument("--dns", action="store_true", help="CoreDNS, which needs a network of pods")
    up.set_defaults(do=_up)
    for name, do, meaning in (
        ("kubectl", _kubectl, "kubectl as administrator"),
        ("enter", _enter, "a command on a node, or outside"),
    ):
        command = commands.add_parser(name, help=meaning)
        command.add_argument("name")
        command.add_argument("words", nargs=argparse.REMAINDER)
        command.set_defaults(do=do)
    env = commands.add_parser("env", help="settings for this shell")
    env.add_argument("name")
    env.set_defaults(do=_env)
    down = commands.add_parser("down", help="take a site away")
    down.add_argument("name")
    down.set_defaults(do=lambda options: remove(place_of(options.name)))
    commands.add_parser("list", help="names of all sites").set_defaults(do=_list)
    return parser


def _up(options: argparse.Namespace) -> None:
    place = place_of(options.name)
    if place.run.exists():
        raise SiteError(f"there is a site {place.name} already, or what is left of one: down {place.name}")
    started = Started()
    wanted = Wanted([options.nodes] * options.clusters, options.proxy)
    try:
        made = make(place, wanted, started, lambda line: print(line, flush=True))
        for cluster in made.clusters:
            if options.bridge:
                install_bridge(cluster)
            if options.dns:
                install_dns(cluster)
    except BaseException:
        remove(place)
        raise
    for cluster in made.clusters:
        print(f"{cluster.name}: export KUBECONFIG={cluster.admin}")


def _kubectl(options: argparse.Namespace) -> NoReturn:
    cluster = _cluster(options.name)
    _become([str(components.program("kubectl")), f"--kubeconfig={cluster.admin}", *options.words])


def _enter(options: argparse.Namespace) -> NoReturn:
    name, _, part = options.name.partition("/")
    place = place_of(name)
    words = options.words or ["sh"]
    if part == "outside":
        _become(["nsenter", f"--net={place.outside}", "--", *words])
    numbers = part.removeprefix("c").split("-n")
    if len(numbers) != 2 or not all(number.isdigit() for number in numbers):
        raise SiteError(f"{options.name}: a node is called {name}/c1-n1")
    node = place.cluster(int(numbers[0])).node(int(numbers[1]))
    _become([*RunningNode(node, Started()).enter, *words])


def _env(options: argparse.Namespace) -> None:
    cluster = _cluster(options.name)
    print(f"export KUBECONFIG={shlex.quote(str(cluster.admin))}")
    print(f"export PATH={shlex.quote(str(components.directory()))}:$PATH")


def _list(_: argparse.Namespace) -> None:
    for path in sorted(layout.RUN_ROOT.glob("*")):
        print(path.name)


def _cluster(name: str) -> layout.Cluster:
    site, _, part = name.partition("/")
    number = (part or "c1").removeprefix("c")
    cluster = place_of(site).cluster(int(number) if number.isdigit() else 0)
    if not cluster.admin.exists():
        raise SiteError(f"there is no cluster {name}; sites: {_sites() or 'none'}")
    return cluster


def _sites() -> str:
    return ", ".join(sorted(path.name for path in layout.RUN_ROOT.glob("*")))


def _become(command: Sequence[str | Path]) -> NoReturn:
    os.execvp(command[0], [str(word) for word in command])  # noqa: S606 - what was asked for


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
