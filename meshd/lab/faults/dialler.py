"""Dials the pod addresses of backends, again and again, and writes down which accept: the judge of what can be reached.

It knows nothing of meshd, services or faults. It runs in a pod's network namespace but in a cgroup without socket hooks, so
nobody chooses for it. Standard library only. One line per attempt:

    begun_ns latency_us NAME open|refused|silent

``begun_ns`` is the monotonic clock, which all pods of a machine share. Silent: nobody answered within the deadline.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import struct
import time
from pathlib import Path
from typing import TextIO

# An RST instead of the four packets of a farewell: what is asked is whether somebody accepts.
ABORT = struct.pack("ii", 1, 0)
FLUSH_S = 0.05


async def attempt(name: str, address: str, port: int, deadline_s: float, log: TextIO) -> None:
    """One connection to ``address``, which is aborted as soon as it stands."""
    begun = time.monotonic_ns()
    outcome = await outcome_of(address, port, deadline_s)
    log.write(f"{begun} {(time.monotonic_ns() - begun) // 1000} {name} {outcome}\n")


async def outcome_of(address: str, port: int, deadline_s: float) -> str:
    """open, refused or silent."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as dialling:
        dialling.setblocking(False)
        dialling.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        try:
            async with asyncio.timeout(deadline_s):
                await asyncio.get_running_loop().sock_connect(dialling, (address, port))
        except ConnectionRefusedError:
            return "refused"
        except (TimeoutError, OSError):
            return "silent"
        return "open"


async def dial(targets: dict[str, str], port: int, interval_s: float, deadline_s: float, log: TextIO) -> None:
    """Dials each of ``targets`` (name: address) every ``interval_s`` until SIGTERM; attempts overlap."""
    loop = asyncio.get_running_loop()
    terminated = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, terminated.set)
    under_way: set[asyncio.Task[None]] = set()
    started, number = loop.time(), 0
    step_s = interval_s / len(targets)
    names = list(targets)
    flushed = started
    while not terminated.is_set():
        name = names[number % len(names)]
        task = asyncio.create_task(attempt(name, targets[name], port, deadline_s, log))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
        number += 1
        if loop.time() - flushed > FLUSH_S:
            flushed = loop.time()
            log.flush()
        try:
            await asyncio.wait_for(terminated.wait(), max(0.0, started + number * step_s - loop.time()))
        except TimeoutError:
            continue
    if under_way:
        await asyncio.wait(under_way)
    log.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--interval", type=float, required=True, metavar="SECONDS")
    parser.add_argument("--deadline", type=float, required=True, metavar="SECONDS")
    parser.add_argument("targets", nargs="+", metavar="NAME=ADDRESS")
    arguments = parser.parse_args()
    targets = dict(each.split("=", 1) for each in arguments.targets)
    with (Path(os.environ["DIALLER_DIR"]) / "attempts.log").open("w") as log:
        asyncio.run(dial(targets, arguments.port, arguments.interval, arguments.deadline, log))


if __name__ == "__main__":
    main()
