"""meshctl as a user runs it: a process of its own."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass

from meshd.model import (
    ServiceName,
)
from tests.fakes.agent import FakeAgent

WEB = ServiceName("default", "web")


@dataclass(frozen=True, slots=True)
class Done:
    """How a run ended."""

    status: int
    out: str
    err: str


async def meshctl(
    agent: FakeAgent | None, *arguments: str, stdin: str = "", env: dict[str, str] | None = None
) -> Done:
    """Run meshctl to its end."""
    process = await start(agent, *arguments, env=env)
    out, err = await process.communicate(stdin.encode())
    return Done(process.returncode or 0, out.decode(), err.decode())


async def start(
    agent: FakeAgent | None,
    *arguments: str,
    env: dict[str, str] | None = None,
    stdout: int = asyncio.subprocess.PIPE,
) -> asyncio.subprocess.Process:
    """Start meshctl for ``agent``."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MESHD_")}
    if agent is not None:
        environment["MESHD_SOCKET"] = str(agent.config.socket)
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "meshd.ctl.main",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=stdout,
        stderr=asyncio.subprocess.PIPE,
        env=environment | (env or {}),
    )


FLAGS = ("service", "apply", "web", "--frontend", "http=10.96.0.1:80")
