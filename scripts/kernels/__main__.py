"""Runs the tests that every kernel has to pass in a guest of each, all at once, and closes with what came of it."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from scripts.kernels import images, machine
from scripts.kernels.outcome import Outcome, counts_in

# What another kernel could refuse or do otherwise: every program, the kernel layer, sockets' hooks, packets of pods and of
# tunnels in both families, and nodes with agents, pods and an etcd. Few agents: one takes half a minute to start.
TESTS = (
    "tests/netns/dataplane/test_programs.py",
    "tests/netns/kernel",
    "tests/netns/dataplane/test_socket_lb.py",
    "tests/netns/pod_network/test_same_node.py",
    "tests/netns/pod_network/test_tunnel.py::test_a_pod_speaks_in_the_tunnel_under_its_number",
    "tests/netns/pod_network/test_tunnel.py::test_an_answer_goes_back_into_the_tunnel",
    "tests/netns/pod_network_agent/test_without_tcx.py",
    "tests/netns/short_circuit/test_ping_pong.py",
    "tests/netns/short_circuit/test_splice.py",
    "tests/netns/pod_network_nodes/test_small_lab.py",
)
# Of a machine that is some twenty times slower than this one.
SLOWNESS = 20
TEST_PATIENCE_S = 1800
PATIENCE_S = 7200
SCRIPT = """
cd {root}
# The machine's own temporary files are none of the guest's.
mkdir /run/tmp
export HOME=/root TMPDIR=/run/tmp CI=true TERM=dumb MESHD_TEST_SLOWNESS={slowness}
exec .venv/bin/python -m pytest -p no:cacheprovider --color=no --timeout={timeout} {arguments}
"""
# Guests would compile it many times slower, each for itself.
PYTHON = ("meshd", "clustermesh", "tests", "build_backend", "scripts")


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
    kernels = [*dict.fromkeys(options.kernel or images.KERNELS)]
    if len(kernels) > 1:
        return at_once(kernels, given)
    # What cannot be compiled, the tests find out.
    subprocess.run([sys.executable, "-m", "compileall", "-qq", *PYTHON], cwd=images.ROOT, check=False)
    outcome = on(kernels[0], arguments_of(given))
    print(f"== {outcome}")
    return 0 if outcome.passed else 1


def arguments_of(given: Sequence[str]) -> list[str]:
    """What pytest is told: options alone go to the tests that every kernel has to pass."""
    names_some = any((images.ROOT / each.partition("::")[0]).exists() for each in given)
    return [*given] if names_some else [*TESTS, *given]


def at_once(kernels: Sequence[str], arguments: Sequence[str]) -> int:
    """The tests on all of them, each kernel in a process like this one; every line with the kernel that it comes from."""
    ended: dict[str, str] = {}
    processes: dict[str, subprocess.Popen[str]] = {}
    try:
        for kernel in kernels:
            command = [sys.executable, "-m", "scripts.kernels", "--kernel", kernel, *arguments]
            processes[kernel] = subprocess.Popen(
                command, cwd=images.ROOT, stdout=subprocess.PIPE, text=True, errors="replace"
            )
        threads = [
            threading.Thread(target=relay, args=(kernel, process, ended))
            for kernel, process in processes.items()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        for process in processes.values():
            process.terminate()
        statuses = [process.wait() for process in processes.values()]
    print()
    for kernel in kernels:
        print(f"{kernel:5} {ended.get(kernel, 'ended without a word')}")
    return 0 if not any(statuses) else 1


def relay(kernel: str, process: subprocess.Popen[str], ended: dict[str, str]) -> None:
    """Prints what ``process`` says as it comes; its outcome goes into ``ended``."""
    assert process.stdout is not None  # noqa: S101 # for mypy: it was asked for
    with process.stdout:
        for line in process.stdout:
            print(f"{kernel:5} {line.rstrip()}", flush=True)
            if line.startswith("== "):
                ended[kernel] = line.removeprefix("== ").rstrip()


def on(kernel: str, arguments: Sequence[str]) -> Outcome:
    """What came of the tests on ``kernel``; meanwhile every line with the time since the start."""
    image = images.image(kernel)
    started = time.monotonic()
    counts: dict[str, int] = {}

    def say(line: str) -> None:
        print(f"{time.monotonic() - started:5.0f} s  {line}", flush=True)
        counts.update(counts_in(line))

    say(f"Linux {image.release}")
    root = shlex.quote(str(images.ROOT))
    script = SCRIPT.format(
        root=root, timeout=TEST_PATIENCE_S, slowness=SLOWNESS, arguments=shlex.join(arguments)
    )
    try:
        status = machine.run(image, script, PATIENCE_S, say)
    except machine.GuestError as error:
        return Outcome(image.release, None, time.monotonic() - started, reason=str(error))
    return Outcome(image.release, status, time.monotonic() - started, counts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
