"""The command line of `meshctl bench`. Exit status 0: measured, whatever came out; 1: could not be measured; 2: usage."""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from meshd.bench.arguments import add_arguments
from meshd.errors import MeshError

__all__ = ["add_arguments", "main", "run"]

if TYPE_CHECKING:
    from meshd.bench.places import Places
    from meshd.bench.progress import Progress
    from meshd.bench.report import Report

    Measure = Callable[[Places, contextlib.ExitStack, Progress], Report]


def run(args: argparse.Namespace) -> int:
    """Runs what ``args`` ask for; the report on standard output, progress and errors on standard error."""
    if os.geteuid() != 0:
        print("meshctl bench: needs root for namespaces, cgroups and BPF: run it with sudo", file=sys.stderr)
        return 1
    try:
        with _ended_by_sigterm():
            _measure(args)
    except MeshError as error:
        print(f"meshctl bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("meshctl bench: interrupted; everything it made is removed", file=sys.stderr)
        return 1
    return 0


def _measure(args: argparse.Namespace) -> None:
    # Late: meshctl's other commands need neither gRPC stubs nor the kernel layer of this one.
    from meshd.bench import places  # noqa: PLC0415
    from meshd.bench.agents import errors_of_the_api  # noqa: PLC0415
    from meshd.bench.progress import Progress  # noqa: PLC0415
    from meshd.bench.report import to_json, to_table  # noqa: PLC0415

    # Imported whole before anything is made: an interrupt that comes while Python executes source text (a
    # dataclass) marks the process as interrupted for good, and it would end by that signal, whatever was handled.
    measure = _BENCHES[args.bench](args)
    progress = Progress()
    places.sweep()
    with (
        places.opened(args.name or places.own_name()) as opened,
        contextlib.ExitStack() as stack,
        errors_of_the_api(),
    ):
        finished = measure(opened, stack, progress)
    progress.end()
    print(to_json(finished) if args.output == "json" else to_table(finished))
    if args.bench == "short-circuit" and args.save is not None:
        _save(finished, args.save)


def _service_lb(args: argparse.Namespace) -> Measure:
    from meshd.bench import service_lb  # noqa: PLC0415 - as in _measure

    options = service_lb.Options(
        args.services, args.rounds, args.connections, args.programming_rounds, args.removals
    )
    return functools.partial(service_lb.measure, options)


def _propagation(args: argparse.Namespace) -> Measure:
    from meshd.bench import propagation  # noqa: PLC0415 - as in _measure

    return functools.partial(propagation.measure, propagation.Options(args.services, args.toggles))


def _path(args: argparse.Namespace) -> Measure:
    from meshd.bench import path  # noqa: PLC0415 - as in _measure

    return functools.partial(path.measure, path.Options(args.rounds, args.seconds))


def _short_circuit(args: argparse.Namespace) -> Measure:
    from meshd.bench import short_circuit  # noqa: PLC0415 - as in _measure

    options = short_circuit.Options(args.rounds, args.seconds, None if args.no_envoy else args.envoy)
    return functools.partial(short_circuit.measure, options)


def _clustermesh(args: argparse.Namespace) -> Measure:
    from meshd.bench import clustermesh  # noqa: PLC0415 - as in _measure

    options = clustermesh.Options(args.clusters, args.services, args.backends, args.rate, args.changes)
    return functools.partial(clustermesh.measure, options)


def _cni(args: argparse.Namespace) -> Measure:
    from meshd.bench import cni  # noqa: PLC0415 - as in _measure

    return functools.partial(cni.measure, cni.Options(args.pods, args.crowd))


def _kubernetes(args: argparse.Namespace) -> Measure:
    from meshd.bench import kubernetes  # noqa: PLC0415 - as in _measure

    options = kubernetes.Options(args.kubeconfig.absolute(), args.services, args.rate, args.changes)
    return functools.partial(kubernetes.measure, options)


_BENCHES = {
    "service-lb": _service_lb,
    "propagation": _propagation,
    "path": _path,
    "short-circuit": _short_circuit,
    "clustermesh": _clustermesh,
    "cni": _cni,
    "kubernetes": _kubernetes,
}


def _save(finished: Report, to: Path) -> None:
    """The report as ``to`` (JSON), and its picture beside it (SVG)."""
    from meshd.bench.report import to_json  # noqa: PLC0415 - as in _measure
    from meshd.bench.short_circuit_picture import drawn  # noqa: PLC0415 - as in _measure

    to.write_text(to_json(finished) + "\n")
    to.with_suffix(".svg").write_text(drawn(finished))


def main(arguments: list[str] | None = None) -> int:
    """`python -m meshd.bench.cli`, the same without meshctl."""
    parser = argparse.ArgumentParser(prog="meshctl bench")
    add_arguments(parser)
    return run(parser.parse_args(arguments))


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that it tidies up."""

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
