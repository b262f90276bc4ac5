"""Runs the tests that every kernel has to pass in a guest of each, and closes with what came of it."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import time

from scripts.kernels import images, machine

# What another kernel could refuse or do otherwise: every program, the kernel layer, sockets' hooks, pods under real packets
# and under an agent that attaches what this kernel has (filters, or links), and nodes with pods and an etcd.
TESTS = (
    "tests/netns/dataplane/test_programs.py",
    "tests/netns/kernel",
    "tests/netns/dataplane/test_socket_lb.py",
    "tests/netns/pod_network/test_same_node.py",
    "tests/netns/pod_network_agent/test_attachment.py::test_a_pod_has_programs_and_rows_when_its_add_is_answered",
    "tests/netns/pod_network_agent/test_world.py::test_a_pod_reaches_the_world_under_the_nodes_address_in_both_families",
    "tests/netns/pod_network_nodes/test_native.py::test_pods_of_two_nodes_of_a_cluster_reach_each_other",
)
# Of a machine that is some ten times slower than this one.
TEST_PATIENCE_S = 900
PATIENCE_S = 7200
SCRIPT = """
cd {root}
# The machine's own temporary files are none of the guest's.
mkdir /run/tmp
export HOME=/root TMPDIR=/run/tmp CI=true TERM=dumb MESHD_TEST_SLOWNESS=20
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
