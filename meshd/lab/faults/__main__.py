"""make test-faults: faults in a lab of three clusters, and whether each had its right outcome.

The exit status is 0 only if no request was lost that could have been answered, and nobody was left who could be reached.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterable
from pathlib import Path

from meshd.errors import MeshError
from meshd.lab.cli import INTERRUPTED, new_id, places_of, say, until_signalled
from meshd.lab.faults.ground import CLUSTERS, RATE, spec
from meshd.lab.faults.kinds import EVERY, KINDS, SHORT, TUNNEL_KINDS

OUT = Path("build/faults")


def main(arguments: list[str]) -> int:
    """0: all as it must; 1: not, or it could not be done, and why; 130: interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m meshd.lab.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"kinds: {', '.join(KINDS)}",
    )
    parser.add_argument("--count", type=int, default=30, help="how many faults (30)")
    parser.add_argument("--seed", type=int, help="which ones, in which order (default: drawn, and printed)")
    parser.add_argument(
        "-k", dest="only", metavar="KIND[,KIND]", help="only these kinds, each alone, in turn"
    )
    parser.add_argument(
        "--together",
        type=int,
        metavar="N",
        help="so many at once, one of which is felt (default: some in pairs, whatever they are)",
    )
    parser.add_argument("--short", action="store_true", help=f"once each: {', '.join(SHORT)}")
    parser.add_argument("--loss", type=int, metavar="PERCENT", help="nothing but loss, on all links")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long --loss lasts (20)")
    parser.add_argument(
        "--tunnels",
        action="store_true",
        help=f"pods of other nodes in tunnels; adds {', '.join(TUNNEL_KINDS)}",
    )
    parser.add_argument("--rate", type=float, default=RATE, help=f"requests a second in all ({RATE:g})")
    parser.add_argument(
        "--clusters", type=int, choices=(2, 3), default=len(CLUSTERS), help="of the lab; two do for --loss"
    )
    parser.add_argument("--out", type=Path, default=OUT, help=f"where the report goes (default {OUT})")
    parser.add_argument("--id", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    unknown = sorted({*(options.only or "").split(",")} - {*_kinds(options), ""})
    if unknown:
        parser.error(
            f"there is no kind {', '.join(unknown)} in this lab; there are {', '.join(_kinds(options))}"
        )
    try:
        return until_signalled(_run(options))
    except MeshError as error:
        print(f"test-faults: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED


def _kinds(options: argparse.Namespace) -> list[str]:
    return list(EVERY if options.tunnels else KINDS)


async def _run(options: argparse.Namespace) -> int:
    from meshd.lab.faults import report, session  # noqa: PLC0415 - not needed to print help
    from meshd.lab.preflight import require  # noqa: PLC0415

    require()
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    rng = random.Random(seed)  # noqa: S311 - faults are to be repeated, not to be secret
    draws: Iterable[session.Draw]
    if options.loss is not None:
        draws = [session.only_loss(options.loss, options.seconds)]
    elif options.short:
        draws = session.each_alone(SHORT)
    elif options.only:
        kinds = options.only.split(",")
        draws = session.each_alone([kinds[number % len(kinds)] for number in range(max(options.count, 1))])
    elif options.together:
        draws = session.drawn_together(rng, options.count, _kinds(options), options.together)
    else:
        draws = session.drawn_in_turn(rng, options.count, _kinds(options))
    places = places_of(options.id or new_id())
    lab = spec(options.rate, CLUSTERS[: options.clusters], tunnels=options.tunnels)
    result = await session.go_through(places, lab, draws, rng, seed, options.out, say)
    for line in ("", *report.lines(result), f"report: {options.out / 'faults.json'}"):
        say(line)
    return 0 if result.ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
