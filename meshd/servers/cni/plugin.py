"""The CNI commands: what each one changes, in which order, and what is taken back when it fails.

ADD is one of a kind in the agent: somebody waits for it with a container half made. So it waits for its own workload only,
which the reconciler plans before anything else, and no other object that is loading or failing can hold it up.
"""

from __future__ import annotations

import asyncio

import structlog

from meshd.errors import MeshError
from meshd.model import Workload, format_address
from meshd.model.attachment import CNI, Attachment, AttachmentKey, workloads
from meshd.servers.cni import results
from meshd.servers.cni.errors import (
    INVALID_CONFIG,
    LIMITED_CONNECTIVITY,
    NOT_AS_MADE,
    NOT_AVAILABLE,
    SOME_NOT_COLLECTED,
    TRY_AGAIN_LATER,
    UNKNOWN_CONTAINER,
    CniError,
)
from meshd.servers.cni.network import PodNetwork, PodRows
from meshd.servers.cni.question import Question, addresses_of
from meshd.servers.cni.tracing import Span, untraced
from meshd.servers.cni.turns import Turns
from meshd.state import Mesh, PlanKey
from meshd.state.attachments import Attachments

log = structlog.get_logger(__name__)

# For the rows of one workload; then the runtime is asked to come again.
SETTLE_S = 10.0


class Plugin:
    """`start` once, then `answer` as often as asked, also many at once: commands on one interface take turns."""

    def __init__(
        self,
        mesh: Mesh,
        attachments: Attachments,
        network: PodNetwork,
        rows: PodRows,
        *,
        has_ranges: bool,
        span: Span = untraced,
    ) -> None:
        self._mesh = mesh
        self._attachments = attachments
        self._network = network
        self._rows = rows
        self._has_ranges = has_ranges
        self._span = span
        self._turns = Turns()

    async def start(self) -> None:
        """Take over what the journal and the kernel agree on; what has lost its namespace or link is released.

        Raises:
            JournalError: the journal cannot be used.
        """
        self._attachments.load()
        known = self._attachments.all()
        alive = {each.key for each in await self._network.alive(self._attachments.all)}
        for each in known:
            if each.key not in alive:
                self._let_go(each.key)
        await self._attachments.durable()
        self._mesh.replace(CNI, workloads(self._attachments.all(), self._network.link).values())
        log.info("pods taken over", attached=len(alive), released=len(known) - len(alive))

    async def answer(self, asked: Question) -> bytes:
        """What goes to the runtime's stdout.

        Raises:
            MeshError: it was not done.
        """
        pod = f"{asked.namespace}/{asked.name}"
        with self._span(f"CNI {asked.command}", asked.trace, pod=pod, container=asked.container_id):
            match asked.command:
                case "ADD":
                    async with self._turns.of(asked.key):
                        return await self._add(asked)
                case "DEL":
                    async with self._turns.of(asked.key):
                        self._release(asked.key)
                case "CHECK":
                    async with self._turns.of(asked.key):
                        await self._check(asked)
                case "GC":
                    await self._collect(asked)
                case _:
                    await self._status()
            return b""

    async def _add(self, asked: Question) -> bytes:
        strange = self._network.why_no_pod(asked.netns)
        if strange:
            raise CniError(UNKNOWN_CONTAINER, f"CNI_NETNS {asked.netns}: {strange}")
        wanted = self._wanted(asked)
        known = self._attachments.get(asked.key)
        if known is not None and not is_repeated(known, wanted):
            self._release(known.key)
            known = None
        as_made = known is not None and not await self._network.wrong(known)
        made = known or self._attachments.attach(wanted, asked.asked)
        # The journal is on its way to the disk while the kernel works; both are waited for, also when one fails.
        on_disk, answer = await asyncio.gather(
            self._on_disk(),
            self._make(asked, made, is_known=known is not None, as_made=as_made),
            return_exceptions=True,
        )
        if isinstance(on_disk, BaseException) or isinstance(answer, BaseException):
            self._release(made.key)
        if isinstance(on_disk, BaseException):
            raise on_disk
        if isinstance(answer, BaseException):
            raise answer
        # The runtime does not wait for the log's line.
        asyncio.get_running_loop().call_soon(_tell_attached, made, asked.trace)
        return answer

    async def _on_disk(self) -> None:
        with self._span("journal"):
            await self._attachments.durable()

    def _wanted(self, asked: Question) -> Attachment:
        before = asked.config.prev_result
        if before is None and not self._has_ranges:
            raise CniError(
                INVALID_CONFIG, "meshd has no cni.podCidrs to give addresses of, and no plugin before it did"
            )
        addresses = () if before is None else addresses_of(before)
        pod = asked.netns, asked.namespace, asked.name
        network = asked.config.name
        return Attachment(
            network, *asked.key, *pod, addresses, chained=before is not None, via_stack=asked.limited
        )

    async def _make(self, asked: Question, made: Attachment, *, is_known: bool, as_made: bool) -> bytes:
        with self._span("link"):
            if made.chained:
                await self._network.observe(made)
                answer = results.passed_on(asked.config)
            else:
                network = self._network
                interface = await (network.interface(made) if as_made else network.attach(made))
                answer = results.added(asked.config, made, interface)
        with self._span("rows"):
            await self._settle(made)
            if is_known:
                self._rows.mend(f"{made.namespace}/{made.name}")
        return answer

    async def _settle(self, made: Attachment) -> None:
        """The kernel holds the pod's rows; waits for no other's."""
        revision = self._show((made.namespace, made.name))
        try:
            async with asyncio.timeout(SETTLE_S):
                await self._mesh.settled(revision, [PlanKey("workload", f"{made.namespace}/{made.name}")])
        except TimeoutError:
            raise CniError(TRY_AGAIN_LATER, f"the kernel did not take {made} within {SETTLE_S:g} s") from None

    def _show(self, pod: tuple[str, str]) -> int:
        """The mesh knows the workload ``pod`` as its interfaces are now; the revision."""
        found = workloads(self._attachments.of_pod(*pod), self._network.link).get(pod)
        if found is not None:
            return self._mesh.apply(CNI, [found])
        return self._mesh.apply(CNI, deletes=[(Workload, (CNI, *pod))])

    def _release(self, key: AttachmentKey) -> None:
        found = self._let_go(key)
        if found is not None:
            self._show((found.namespace, found.name))
            log.info("pod detached", pod=f"{found.namespace}/{found.name}", container=found.container_id)

    def _let_go(self, key: AttachmentKey) -> Attachment | None:
        found = self._attachments.release(key)
        if found is not None:
            self._network.forget(key)
            for address in found.addresses:
                self._rows.released(address)
        return found

    async def _check(self, asked: Question) -> None:
        known = self._attachments.get(asked.key)
        if known is None:
            raise CniError(
                UNKNOWN_CONTAINER, f"container {asked.container_id} has no {asked.ifname} of meshd"
            )
        wrong = list(await self._network.wrong(known))
        if not wrong:
            # Whose namespace is gone has no rows that could be compared.
            wrong += self._rows.wrong(f"{known.namespace}/{known.name}")
        if asked.netns != known.netns:
            wrong.append(f"the namespace is {asked.netns}, it was {known.netns}")
        told = addresses_of(asked.config.prev_result or {})
        if not set(known.addresses) <= set(told):
            wrong.append("prevResult does not name all of its addresses")
        if wrong:
            raise CniError(NOT_AS_MADE, f"{known} is not as it was made", "; ".join(wrong))

    async def _collect(self, asked: Question) -> None:
        if asked.config.valid is None:
            raise CniError(INVALID_CONFIG, "GC needs cni.dev/valid-attachments")
        valid = {(each.container_id, each.ifname) for each in asked.config.valid}
        failed: list[str] = []
        for each in self._attachments.all():
            if each.network != asked.config.name or each.key in valid:
                continue
            try:
                async with self._turns.of(each.key):
                    self._release(each.key)
            except MeshError as error:
                failed.append(f"{each}: {error}")
        try:
            await self._network.alive(self._attachments.all)
        except MeshError as error:
            failed.append(str(error))
        failed += await self._rows.collect()
        if failed:
            raise CniError(SOME_NOT_COLLECTED, "not all could be collected; the rest was", "; ".join(failed))

    async def why_not(self) -> str:
        """Why new pods cannot have a network that reaches everything, as a sentence; empty: they can."""
        try:
            await self._status()
        except MeshError as error:
            return str(error)
        return ""

    async def _status(self) -> None:
        full = self._attachments.exhausted()
        if full is not None:
            raise CniError(NOT_AVAILABLE, str(full))
        limited = await self._network.why_limited()
        if limited:
            raise CniError(LIMITED_CONNECTIVITY, limited)


def _tell_attached(made: Attachment, trace: str) -> None:
    log.info(
        "pod attached",
        pod=f"{made.namespace}/{made.name}",
        container=made.container_id,
        addresses=[format_address(address) for address in made.addresses],
        trace=trace,
    )


def is_repeated(known: Attachment, wanted: Attachment) -> bool:
    """Whether ``wanted`` asks again for what is ``known``: the same pod in the same namespace."""
    same_pod = (known.netns, known.namespace, known.name) == (wanted.netns, wanted.namespace, wanted.name)
    same_way = known.chained == wanted.chained and (not wanted.chained or known.addresses == wanted.addresses)
    return same_pod and same_way and (known.network, known.via_stack) == (wanted.network, wanted.via_stack)
