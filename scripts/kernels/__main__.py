"""Runs the tests that every kernel has to pass in a guest of each, and closes with what came of it."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import time

from scripts.kernels import images, machine

# All of the kernel's side: decisions and packets in programs, the kernel layer, hooks under real sockets, pods' traffic.
TESTS = (
    "tests/bpf",
    "tests/netns/kernel",
    "tests/netns/dataplane/test_programs.py",
    "tests/netns/dataplane/test_socket_lb.py",
)
# Of a machine that is some ten times slower than this one.
TEST_PATIENCE_S = 900
PATIENCE_S = 7200
SCRIPT = """
cd {root}
# The machine's own temporary files are none of the guest's.
mkdir /run/tmp
export HOME=/root TMPDIR=/run/tmp CI=true TERM=dumb
exec .venv/bin/python -m pytest -p no:cacheprovider --color=no --timeout={timeout} {arguments}
"""


def main(arguments: list[str]) -> int:
    """Status 0 if the tests passed on every kernel."""
    parser = argparse.ArgumentParser(prog="python -m scripts.kernels", description=__doc__)
    parser.add_argument(
        "--kernel", action="append", choices=[*images.KERNELS], help="only this one; may be repeated"
    )
    options, given = parser.parse_known_args(arguments)
    if os.geteuid() != 0:
        print("not root, so this machine's files cannot be lent to a guest: run it as root", file=sys.stderr)
        return 2
    # As an exception, so that no guest outlives us.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    tests = given or [*TESTS]
    outcomes = {kernel: on(kernel, tests) for kernel in options.kernel or images.KERNELS}
    print()
    for kernel, (outcome, _) in outcomes.items():
        print(f"{kernel:5} {outcome}")
    return 0 if all(passed for _, passed in outcomes.values()) else 1


def on(kernel: str, arguments: list[str]) -> tuple[str, bool]:
    """What came of the tests on ``kernel``, as a phrase and as whether they passed."""
    image = images.image(kernel)
    print(f"== Linux {image.release}", flush=True)
    started = time.monotonic()
    root = shlex.quote(str(images.ROOT))
    script = SCRIPT.format(root=root, timeout=TEST_PATIENCE_S, arguments=shlex.join(arguments))
    try:
        status = machine.run(image, script, PATIENCE_S)
    except machine.GuestError as error:
        return f"{image.release}: {error}", False
    took = f"{time.monotonic() - started:.0f} s"
    return (
        f"{image.release}: {'passed' if status == 0 else f'failed (pytest: {status})'}, {took}",
        status == 0,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
