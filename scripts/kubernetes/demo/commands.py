"""Commands that end when whoever waits for them is interrupted."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import PIPE
from pathlib import Path

from scripts.kubernetes.errors import SiteError


async def call(*command: str | Path, content: str = "", check: bool = True) -> str:
    """What ``command`` prints; ``content`` is its standard input. Cancelled, it is killed.

    Raises:
        SiteError: it failed, and ``check``; carries what it said.
    """
    # In a session of its own: Ctrl-C is for us, and what becomes of the command is ours to say.
    process = await asyncio.create_subprocess_exec(
        *command, stdin=PIPE, stdout=PIPE, stderr=PIPE, start_new_session=True
    )
    try:
        out, err = await process.communicate(content.encode())
    except BaseException:
        if process.returncode is None:
            process.kill()
        await process.wait()
        raise
    if check and process.returncode != 0:
        words = " ".join(Path(word).name if n == 0 else str(word) for n, word in enumerate(command))
        raise SiteError(
            f"{words} failed ({process.returncode}): {(err or out).decode(errors='replace').strip()}"
        )
    return out.decode(errors="replace")
