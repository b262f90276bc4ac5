"""``meshctl clustermesh etcd``: what runs in the pods of the mesh's etcd. A member, and beside it its keeper.

The keeper lets those read whom the operator has declared (``readers.py``), gives space back (``upkeep.py``), and says how
the etcd is: one line of JSON whenever that changes, and metrics.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from dataclasses import asdict
from typing import Any

import structlog

from clustermesh import etcd_members
from clustermesh.access import access
from clustermesh.channel import TlsFiles
from clustermesh.errors import ClustermeshError, KvError
from clustermesh.etcd_members import CLIENT_PORT, Members
from clustermesh.kv import Kv
from clustermesh.maintenance import Maintenance
from clustermesh.peers import Peer, parse_file
from clustermesh.readers import Readers, put_in_force
from clustermesh.readers import parse as parse_readers
from clustermesh.upkeep import keep_up, look
from meshd.ctl.clustermesh.etcd_metrics import Figures, serve
from meshd.ctl.errors import CtlError

log = structlog.get_logger()

PROGRAM = "/usr/bin/etcd"
STATE = "etcd state"
"""The event of the lines that `meshctl clustermesh status` looks for."""
READERS, MEMBERS, CLIENT = "readers.yaml", "members.yaml", "etcd.yaml"
# Readers are looked for in a file, which costs nothing; etcd is asked now and then.
FILE_S, LOOK_S, AGAIN_S = 1.0, 10.0, 300.0


def run(options: argparse.Namespace) -> int:
    """Becomes a member, or keeps one until it is told to end."""
    try:
        if options.etcd_action == "run":
            become(options)
        return asyncio.run(Keeper(options).run())
    except (ClustermeshError, OSError) as error:
        raise CtlError(str(error)) from error


def become(options: argparse.Namespace) -> None:
    """This process is the member on the node.

    Raises:
        MembershipError: the node is none of the members.
    """
    path = options.config / MEMBERS
    members = etcd_members.parse(path, path.read_bytes())
    command = etcd_members.command(members, options.node, options.certificates, options.data, PROGRAM)
    sys.stdout.flush()
    os.execv(command[0], command)  # noqa: S606 - no shell is wanted


class Keeper:
    """Beside the member on a node."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._figures = Figures()
        self._said: dict[str, Any] = {}  # Any: JSON
        self._said_at = 0.0
        self._generation = 0

    async def run(self) -> int:
        """Until a signal ends it."""
        _log_as_json()
        stopped, loop = asyncio.Event(), asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stopped.set)
        client = self._options.client / CLIENT
        peer = parse_file(str(client), client.name.partition(".")[0], client.read_bytes())
        async with serve(self._figures, self._options.listen):
            tasks = [
                asyncio.create_task(work) for work in (self._admit_for_ever(peer), self._look_for_ever(peer))
            ]
            stopping = asyncio.create_task(stopped.wait())
            done, _ = await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
            for task in (*tasks, stopping):
                task.cancel()
            await asyncio.gather(*tasks, stopping, return_exceptions=True)
            for task in done - {stopping}:
                task.result()
        return 0

    async def _admit_for_ever(self, peer: Peer) -> None:
        """Whoever is declared may read, within a second of the file's arrival."""
        last: tuple[Readers | None, float] = (None, 0.0)
        loop = asyncio.get_running_loop()
        async with (
            Kv(peer.endpoints, tls=peer.tls) as kv,
            access(peer.endpoints, peer.tls or TlsFiles()) as users,
        ):
            while True:
                try:
                    path = self._options.config / READERS
                    wanted = parse_readers(path, path.read_bytes())
                    if wanted != last[0] or loop.time() - last[1] > LOOK_S:
                        self._generation = await put_in_force(kv, users, wanted)
                        self._figures.readers = await users.admitted()
                        last = (wanted, loop.time())
                except (ClustermeshError, OSError) as error:
                    log.warning("readers are not as declared", error=str(error))
                    await asyncio.sleep(FILE_S)
                await asyncio.sleep(FILE_S)
                self._say()

    async def _look_for_ever(self, peer: Peer) -> None:
        maintenance = Maintenance(peer.endpoints, peer.tls)
        try:
            async with Kv(peer.endpoints, tls=peer.tls) as kv:
                while True:
                    await self._look(kv, maintenance)
                    await asyncio.sleep(LOOK_S)
        finally:
            await maintenance.close()

    async def _look(self, kv: Kv, maintenance: Maintenance) -> None:
        try:
            members = self._members()
            self._figures.quota_bytes = members.quota_bytes
            self._figures.seen = seen = await look(maintenance)
            mine = members.addresses.get(self._options.node, "")
            done = await keep_up(kv, maintenance, seen, f"{mine}:{CLIENT_PORT}", members.quota_bytes)
            self._figures.defragmented += done
            if done or seen.alarms:
                self._figures.seen = await look(maintenance)
        except KvError as error:
            self._figures.seen = None
            log.warning("etcd does not answer", error=str(error))
        except (ClustermeshError, OSError) as error:
            log.warning("etcd is not looked after", error=str(error))

    def _members(self) -> Members:
        path = self._options.config / MEMBERS
        return etcd_members.parse(path, path.read_bytes())

    def _say(self) -> None:
        """One line when something is another, or when it was said long ago: logs are cut."""
        seen, now = self._figures.seen, asyncio.get_running_loop().time()
        state: dict[str, Any] = {  # Any: JSON
            "generation": self._generation,
            "readers": list(self._figures.readers),
            "alarms": sorted(seen.alarms) if seen else [],
            "members": {
                name: None if status is None else {"leads": status.leads}
                for name, status in (seen.members if seen else {}).items()
            },
        }
        if state != self._said or now - self._said_at > AGAIN_S:
            self._said, self._said_at = state, now
            sizes = {
                name: asdict(each) if each else None for name, each in (seen.members if seen else {}).items()
            }
            log.info(STATE, **state | {"members": sizes})


def _log_as_json() -> None:
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(sys.stdout),
    )
