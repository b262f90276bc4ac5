"""The socket at which the shim asks. Root only: who may ask decides over every pod's network."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import structlog

from meshd.errors import ConfigError, MeshError
from meshd.servers.cni.errors import IO_FAILURE, CniError, encoded, told
from meshd.servers.cni.frames import answer, read_question
from meshd.servers.cni.plugin import Plugin
from meshd.servers.cni.question import VERSIONS, question, version_of

log = structlog.get_logger(__name__)

UMASK = 0o177
# For the question to arrive; the shim sends it at once.
QUESTION_S = 10.0


class CniServer:
    """Answers at ``path``. Use: ``await server.run()``; ``listening`` is set once questions are answered."""

    def __init__(self, path: Path, plugin: Plugin) -> None:
        self._path = path
        self._plugin = plugin
        self.listening = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled.

        Raises:
            ConfigError: the socket cannot be bound. JournalError: addresses of earlier pods cannot be read.
        """
        await self._plugin.start()
        try:
            server = await self._bound()
        except OSError as error:
            raise ConfigError(f"CNI socket {self._path} cannot be bound: {error.strerror}") from error
        try:
            async with server:
                self.listening.set()
                log.info("CNI plugin listens", socket=str(self._path))
                await server.serve_forever()
        finally:
            self._path.unlink(missing_ok=True)

    async def _bound(self) -> asyncio.Server:
        self._path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        # The run directory's lock is ours, so whoever listened here is gone.
        self._path.unlink(missing_ok=True)
        # The mode must be right from the first instant.
        before = os.umask(UMASK)
        try:
            return await asyncio.start_unix_server(self._serve, self._path)
        finally:
            os.umask(before)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(await self._answer(reader))
            await writer.drain()
        except (OSError, EOFError, TimeoutError):
            # The runtime gave up waiting, or sent nothing; it asks again, and every command may be repeated.
            return
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        version, command = VERSIONS[-1], ""
        try:
            async with asyncio.timeout(QUESTION_S):
                variables, config = await read_question(reader)
            version, command = version_of(config), variables.get("CNI_COMMAND", "")
            return answer(await self._plugin.answer(question(variables, config)), 0)
        except MeshError as error:
            refused = told(error)
        except (OSError, EOFError, TimeoutError):
            raise
        except Exception as error:  # a runtime must hear of our mistakes too
            log.exception("CNI command failed", command=command)
            refused = CniError(IO_FAILURE, "meshd failed, its log says more", type(error).__name__)
        log.warning("CNI command refused", command=command, code=refused.code, reason=str(refused))
        return answer(encoded(refused, version), 1)
