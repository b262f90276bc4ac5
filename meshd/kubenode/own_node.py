"""Our Node in the API server: who we are according to it, and what we say on it.

The agent works without it: whoever is out of reach is asked again, and what the Node says meanwhile stands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from pathlib import Path

import structlog

from meshd.errors import ApiServerError, ConfigError, MeshError
from meshd.kubeapi.access import Access
from meshd.kubeapi.answers import Item
from meshd.kubeapi.client import OBJECT, STRATEGIC, Client
from meshd.kubeapi.informer import Informer
from meshd.kubeapi.pace import Pace
from meshd.kubeapi.resources import NODES
from meshd.kubeapi.watching import Batch
from meshd.kubenode import identity as identities
from meshd.kubenode.announcement import Availability, Changes, changes, next_said, released
from meshd.kubenode.identity import Identity, identity_of
from meshd.kubenode.node_object import NodeObject

log = structlog.get_logger(__name__)

# Between attempts to learn who we are, and to write what was refused.
AGAIN_S = 2.0
Ask = Callable[[], Access]


async def first_identity(ask: Ask, name: str, waiting: Callable[[str], None]) -> Identity:
    """Who node ``name`` is, as the API server says; waits until it does. ``waiting`` is told why, whenever that changes."""
    told = ""
    while True:
        try:
            async with Client(ask()) as client:
                while True:
                    found = identity_of(await read(client, name))
                    if isinstance(found, Identity):
                        return found
                    told = _tell(waiting, told, f"Node {name}: {found}")
                    await asyncio.sleep(AGAIN_S)
        except MeshError as error:
            told = _tell(waiting, told, f"Node {name} cannot be read: {error}")
        await asyncio.sleep(AGAIN_S)


def _tell(waiting: Callable[[str], None], before: str, now: str) -> str:
    if now != before:
        log.warning("waiting for the Node of this machine", reason=now)
        waiting(now)
    return now


class OwnNodeObject:
    """`run` keeps up what `say` was told; ``used``: who this agent's pods take the node for."""

    def __init__(
        self,
        client: Client,
        name: str,
        used: Identity,
        state_dir: Path,
        pace: type[Pace] = Pace,
    ) -> None:
        self._client = client
        self._name = name
        self._used = used
        self._path = state_dir / identities.FILE
        self._informer = Informer(
            client, NODES, NodeObject, self, fields=f"metadata.name={name}", pace=pace()
        )
        self._node: NodeObject | None = None
        self._found: Availability | None = None
        self._said: Availability | None = None
        self._said_at_s = 0.0
        self._moved = asyncio.Event()
        # What of the Node could not be written -> why.
        self._refused: dict[str, str] = {}

    @property
    def other_pods(self) -> str:
        """That pods here have addresses that the API server gave to others, as a sentence."""
        told = self._told()
        return identities.other_pods(self._used, told, self._path) if told is not None else ""

    def _told(self) -> Identity | None:
        found = identity_of(self._node) if self._node is not None else None
        return found if isinstance(found, Identity) else None

    def problems(self) -> list[str]:
        """Each is one sentence."""
        told = self._told()
        found = [f"{what} cannot be written and stand: {reason}" for what, reason in self._refused.items()]
        found += [identities.other_addresses(self._used, told) if told is not None else ""]
        if self._found is not None and self._found.reason:
            found.append(f"new pods have no network here: {self._found.reason}")
        if self._node is None and self._informer.health.listed:
            found.append(f"there is no Node {self._name} in the API server (kubernetes.nodeName, NODE_NAME)")
        return [f"node: {each}" for each in found if each]

    def say(self, found: Availability) -> None:
        """Whether new pods can have a network."""
        if found != self._found:
            log.info("network of new pods", available=found.is_given, reason=found.reason)
            self._found = found
            self._moved.set()

    async def run(self) -> None:
        """Until cancelled; the Node stays as it is then, so that an agent that is replaced is no event."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._informer.run())
            tasks.create_task(self._keep())

    # What the informer tells

    async def listed(self, items: Sequence[Item[NodeObject]]) -> None:
        """All there is: our Node, or none."""
        self._node = items[0].value if items else None
        self._moved.set()

    async def changed(self, batch: Batch[NodeObject]) -> None:
        """It is another, or gone."""
        last = batch[-1]
        self._node = None if last.gone else last.item.value
        self._moved.set()

    def reached(self) -> None:
        """The source `kubernetes` says so for all resources."""

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._moved.clear()
            wait_s: float | None = None
            if self._node is not None and self._found is not None:
                said = next_said(self._said, self._found, loop.time() - self._said_at_s)
                if self._said is None or said.is_given != self._said.is_given:
                    self._said_at_s = loop.time()
                self._said = said
                if said.is_given != self._found.is_given:
                    wait_s = 1.0
                if not await self._write(changes(self._node, said, _now())):
                    wait_s = AGAIN_S
            await _event(self._moved, wait_s)

    async def _write(self, wanted: Changes) -> bool:
        """Whether it was taken. One is written also where the other is refused."""
        is_tainted = await self._is_taken("taints", write_taints(self._client, self._name, wanted))
        is_said = await self._is_taken("conditions", write_status(self._client, self._name, wanted))
        if is_tainted and wanted.taints is not None:
            log.info("taints of the Node written", taints=wanted.taints["spec"]["taints"])
        if is_said and wanted.status is not None:
            log.info("condition of the Node written", condition=wanted.status["status"]["conditions"][0])
        return is_tainted and is_said

    async def _is_taken(self, what: str, writing: Coroutine[None, None, None]) -> bool:
        try:
            await writing
        except (MeshError, ConfigError) as error:
            is_conflict = isinstance(error, ApiServerError) and error.status == 409
            if not is_conflict and str(error) != self._refused.get(what):
                log.warning("the Node cannot be written, it is tried again", what=what, reason=str(error))
                self._refused[what] = str(error)
            return False
        self._refused.pop(what, None)
        return True


async def read(client: Client, name: str) -> NodeObject:
    """The Node ``name``, by the right that following it needs anyway.

    Raises:
        ApiServerError: 404: there is none. Others as of Client.
    """
    found = await client.list(NODES, into=NodeObject, fields=f"metadata.name={name}")
    if not found.values:
        raise ApiServerError(
            f"list nodes {name}", 404, "NotFound", f"there is no Node {name} that can be read"
        )
    return found.values[0]


async def write_taints(client: Client, name: str, wanted: Changes) -> None:
    """Node ``name`` has the taints of ``wanted``. Raises ApiServerError: 409: it changed meanwhile; others as of Client."""
    if wanted.taints is not None:
        await client.patch(NODES, name, wanted.taints, into=OBJECT)


async def write_status(client: Client, name: str, wanted: Changes) -> None:
    """Node ``name`` has the conditions of ``wanted``. Raises as Client."""
    if wanted.status is not None:
        await client.patch(NODES, name, wanted.status, into=OBJECT, kind=STRATEGIC, subresource="status")


async def release(ask: Ask, name: str) -> Changes:
    """Nothing on Node ``name`` is ours any more; what was changed."""
    async with Client(ask()) as client:
        wanted = released(await read(client, name), _now())
        await write_taints(client, name, wanted)
        await write_status(client, name, wanted)
        return wanted


async def _event(event: asyncio.Event, wait_s: float | None) -> None:
    try:
        async with asyncio.timeout(wait_s):
            await event.wait()
    except TimeoutError:
        return


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
