"""The options of `meshctl bench`, a subcommand for each bench."""

from __future__ import annotations

import argparse
from pathlib import Path

DESCRIPTION = """Measure a real agent beside what people run today. Needs root; what is made on this machine is
removed at the end. A target that is missed is shown as MISSED and is no failure of the command."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `meshctl bench`; `run` takes what they parse to."""
    parser.description = DESCRIPTION
    benches = parser.add_subparsers(dest="bench", metavar="BENCH", required=True)
    _add_propagation(benches)
    _add_path(benches)
    _add_short_circuit(benches)
    _add_cni(benches)
    _add_kubernetes(benches)
    _add_clustermesh(benches)
    one = benches.add_parser(
        "service-lb",
        help="what a service address costs at connect(), and how quickly changes are in the kernel",
        description="connect() through meshd beside no service and kube-proxy's nftables and iptables rules, "
        "round-robin; the time to program services and to remove a backend; the agent's memory. About three minutes.",
    )
    _add_shared(one)
    one.add_argument(
        "--services",
        type=_counts,
        default=(1, 1_000, 10_000),
        metavar="N[,N...]",
        help="numbers of services to measure with (default: 1,1000,10000)",
    )
    # Six is what it takes for an interval of 95 % (statistics.py).
    _add_counts(
        one,
        ("rounds", 30, 6, "rounds of the connect() measurement"),
        ("connections", 500, 100, "connections of a path in each round"),
        ("programming-rounds", 6, 6, "times that all services are programmed"),
        ("removals", 200, 6, "backends that are removed at each size"),
    )


def _add_propagation(benches: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    one = benches.add_parser(
        "propagation",
        help="how quickly a backend of one cluster is in the kernel of another's node",
        description="Two clusters with an etcd and an agent each. Backends of one become ready and not ready; the times "
        "until the kernels of both nodes have it. Half a minute.",
    )
    _add_shared(one)
    _add_counts(
        one,
        ("services", 500, 1, "global services, five backends each"),
        ("toggles", 200, 6, "backends that become not ready and ready again"),
    )


def _add_path(benches: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    one = benches.add_parser(
        "path",
        help="what a packet's way between two pods costs, on one node and between two",
        description="Messages, connections and bulk between pods of meshd, beside plain routing, a bridge with kube-proxy's "
        "rules, a VXLAN device and loopback, on one CPU, on two, and left to the scheduler. Less than four minutes.",
    )
    _add_shared(one)
    _add_rounds(one)


def _add_rounds(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "--rounds",
        type=_at_least(6),
        default=12,
        metavar="N",
        help="rounds of all paths, at least 6 (default: %(default)s)",
    )
    one.add_argument(
        "--seconds",
        type=float,
        default=0.1,
        metavar="S",
        help="length of each measurement (default: %(default)s)",
    )


def _add_short_circuit(benches: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    one = benches.add_parser(
        "short-circuit",
        help="what two pods of one node take to talk when their bytes go from socket to socket",
        description="Messages, connections and streams between selected pods, beside plain routing, pods that are not "
        "selected, loopback, a Unix socket and Envoy, on one CPU, on two, and left to the scheduler. Some eight minutes.",
    )
    _add_shared(one)
    _add_rounds(one)
    one.add_argument(
        "--envoy", default="envoy", metavar="PROGRAM", help="the proxy to compare with (default: %(default)s)"
    )
    one.add_argument(
        "--no-envoy", action="store_true", help="without proxies: nothing is said of sidecars then"
    )
    one.add_argument(
        "--save",
        type=Path,
        metavar="FILE",
        help="also write the report as JSON to FILE, and a picture of it beside it, ending in .svg",
    )


def _add_cni(benches: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    one = benches.add_parser(
        "cni",
        help="how long a container waits for its network, and what many pods cost the agent",
        description="Pods are added and deleted through meshd's plugin and through the usual ones, bridge with host-local, "
        "as a container runtime does it. Half a minute.",
    )
    _add_shared(one)
    _add_counts(
        one,
        ("pods", 200, 6, "pods that are added to each"),
        ("crowd", 250, 1, "pods of meshd when its memory is read"),
    )


def _add_kubernetes(benches: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    one = benches.add_parser(
        "kubernetes",
        help="how quickly an agent reads an API server, and what a change there takes to the kernel",
        description="Services are made in a namespace of their own of the API server that a kubeconfig names, and removed "
        "at the end. An agent reads them all; then backends change, many a second. Some minutes.",
    )
    _add_shared(one)
    one.add_argument(
        "--kubeconfig", type=Path, required=True, metavar="FILE", help="who asks which API server"
    )
    _add_counts(
        one,
        ("services", 10_000, 1, "services, five backends each"),
        ("rate", 100, 0, "changes a second that go on meanwhile"),
        ("changes", 500, 6, "changes that are timed"),
    )


def _add_clustermesh(benches: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    one = benches.add_parser(
        "clustermesh",
        help="how long an agent takes to read many clusters, and to follow their changes",
        description="Clusters with an etcd each share the same services; an agent reads all of them, and follows "
        "their changes. Half a minute.",
    )
    _add_shared(one)
    _add_counts(
        one,
        ("clusters", 8, 1, "clusters with an etcd each"),
        ("services", 500, 2, "services that each of them shares"),
        ("backends", 10, 2, "backends of a service in each cluster"),
        ("rate", 100, 0, "changes a second that go on meanwhile"),
        ("changes", 400, 6, "changes that are timed"),
    )


def _add_counts(one: argparse.ArgumentParser, *counts: tuple[str, int, int, str]) -> None:
    """Options that are numbers: name, default, least, what they count."""
    for name, default, least, what in counts:
        one.add_argument(
            f"--{name}",
            type=_at_least(least),
            default=default,
            metavar="N",
            help=f"{what}, at least {least} (default: %(default)s)",
        )


def _add_shared(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "-o", "--output", choices=("table", "json"), default="table", help="default: %(default)s"
    )
    one.add_argument(
        "--name",
        metavar="NAME",
        help="how everything made in the kernel is called (default: from the process id)",
    )


def _counts(text: str) -> tuple[int, ...]:
    counts = tuple(sorted({int(part) for part in text.split(",")}))
    if not 1 <= counts[0] <= counts[-1] <= 100_000:
        raise argparse.ArgumentTypeError("every number of services must be 1..100000")
    return counts


def _at_least(least: int) -> type:
    def parse(text: str) -> int:
        if (value := int(text)) < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}")
        return value

    parse.__name__ = "number"
    return parse  # type: ignore[return-value]
