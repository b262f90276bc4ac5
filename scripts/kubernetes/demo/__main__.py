"""make demo-kubernetes: two clusters of Kubernetes on this machine, joined by meshd, and a failover under load.

The exit status is 0 only if every phase showed what it must and no request was lost. Nothing is left behind in any case.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from meshd.errors import MeshError
from meshd.lab.demo.picture import Picture
from scripts.image.run import ImageError
from scripts.kubernetes import components, layout
from scripts.kubernetes.demo import joining
from scripts.kubernetes.demo.mesh import Mesh
from scripts.kubernetes.demo.run import go_through, joined
from scripts.kubernetes.removal import remove
from scripts.kubernetes.site import Wanted, place_of, site

OUT = Path("build/demo-kubernetes")
INTERRUPTED = 130
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Sites of demos are called after their process, so that the next one knows which are of the dead.
PREFIX = "kd"


def main(arguments: list[str]) -> int:
    """0: all went as it must; 1: not, or it could not be done, and why; 130: interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.kubernetes.demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=OUT, help=f"where the report goes (default {OUT})")
    parser.add_argument("--nodes", type=int, default=1, help="of each cluster (1)")
    parser.add_argument("--name", default=f"{PREFIX}{os.getpid():x}", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        with _interruptible():
            return demo(options.name, options.nodes, options.out)
    except (MeshError, components.ComponentsError, ImageError) as error:
        print(f"demo-kubernetes: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read has gone; a flush at exit would fail on it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED


def demo(name: str, nodes: int, out: Path) -> int:
    """Makes a site, joins its clusters, goes through the phases, takes it away; 0 if all went as it must, else 1."""
    picture = Picture(sys.stdout, ["cm-1", "cm-2"])
    begun = time.monotonic()
    _sweep(picture.say)
    images = joining.archives()
    picture.say(f"images: {time.monotonic() - begun:.1f} s; site {name}")
    with site(name, Wanted([nodes, nodes]), picture.say) as made:
        mesh = Mesh(made)

        async def work() -> int:
            await joined(mesh, images, picture.say)
            return await go_through(mesh, out, picture)

        return asyncio.run(work())


def _sweep(say: Callable[[str], None]) -> None:
    """Takes sites of demos away whose process was killed."""
    for path in layout.RUN_ROOT.glob(f"{PREFIX}*"):
        number = re.fullmatch(f"{PREFIX}([0-9a-f]+)", path.name)
        if number is not None and not _is_demo(int(number[1], 16)):
            say(f"site {path.name} was left behind by a process that died; it is removed")
            remove(place_of(path.name))


def _is_demo(pid: int) -> bool:
    try:
        return b"demo" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


@contextmanager
def _interruptible() -> Iterator[None]:
    """The first signal ends the demo as Ctrl-C does; those after it do not disturb what takes everything away."""

    def end(_number: int, _frame: FrameType | None) -> None:
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)
        with suppress(OSError):
            print("taking the clusters away", file=sys.stderr)
        raise KeyboardInterrupt

    before = [(number, signal.signal(number, end)) for number in ENDING]
    yield
    for number, handler in before:
        signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
