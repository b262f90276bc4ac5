"""The short circuit of a whole cluster is switched through a real etcd: all hear it, and who says nothing is named."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, AsyncExitStack

import msgspec
import pytest

from clustermesh import keys
from clustermesh.kv import Kv
from meshd.agent.cluster_agreement import agreed
from meshd.errors import ClusterNotTold, IntentNotKept
from meshd.model import Node
from meshd.model.cluster import ETCD
from meshd.servers.short_circuit import Agreement, Word
from meshd.sources.cluster_switch import ClusterSwitch, Said
from meshd.state import Mesh
from tests.etcd.following import following
from tests.etcd.process import EtcdProcess
from tests.patience import patience

KEY = keys.short_circuit("cm-1")


class Circuit:
    """What a node switches. ``broken``: it cannot; ``refusal``: it is off, whatever is said."""

    def __init__(self, *, cluster_on: bool = True, refusal: str = "") -> None:
        self.cluster_on = cluster_on
        self.refusal = refusal
        self.broken = False
        self.taken = asyncio.Event()

    @property
    def is_on(self) -> bool:
        return self.cluster_on and not self.refusal

    def reasons(self) -> list[str]:
        said = [] if self.cluster_on else ["it was switched off in the cluster"]
        return [self.refusal, *said] if self.refusal else said

    async def take(self, *, on: bool) -> None:
        if self.broken:
            raise IntentNotKept("/var/lib/x.json", "No space left on device", on=self.is_on)
        self.cluster_on = on
        self.taken.set()


def mesh_of(*names: str) -> Mesh:
    """What an agent knows of the nodes of its cluster."""
    mesh = Mesh()
    mesh.replace(ETCD, [Node("cm-1", name, ETCD) for name in names])
    return mesh


def node(name: str, circuit: Circuit, kv: Kv) -> AbstractAsyncContextManager[ClusterSwitch]:
    """A node that follows the cluster."""
    return following(ClusterSwitch("cm-1", name, circuit), kv)


async def say(mesh: Mesh, switch: ClusterSwitch, *, on: bool, patience_s: float | None = None) -> Agreement:
    """As somebody says it who waits for long enough."""
    return await agreed(mesh, switch, on=on, patience_s=patience(20) if patience_s is None else patience_s)


async def test_every_node_does_it_and_gives_its_word(kv: Kv) -> None:
    circuits = [Circuit(), Circuit(refusal="the kernel lacks sockhash"), Circuit()]
    async with AsyncExitStack() as stack:
        first, *_ = [
            await stack.enter_async_context(node(f"n{number}", one, kv))
            for number, one in enumerate(circuits)
        ]
        mesh = mesh_of("n1", "n2")
        off = await say(mesh, first, on=False)
        heard_off = [one.cluster_on for one in circuits]
        on = await say(mesh, first, on=True)
    assert heard_off == [False, False, False]
    assert [one.cluster_on for one in circuits] == [True, True, True]
    switched_off = "it was switched off in the cluster"
    assert off == Agreement(
        [
            Word("n0", on=False, reason=switched_off),
            Word("n1", on=False, reason=f"the kernel lacks sockhash; {switched_off}"),
            Word("n2", on=False, reason=switched_off),
        ],
        [],
    )
    assert on == Agreement(
        [Word("n0", on=True), Word("n1", on=False, reason="the kernel lacks sockhash"), Word("n2", on=True)],
        [],
    )


async def test_who_does_not_answer_is_missing_although_he_answered_before(kv: Kv) -> None:
    mesh, there, away = mesh_of("n1", "n2", "n3"), Circuit(), Circuit()
    async with node("n1", there, kv) as switch:
        async with node("n2", away, kv):
            await say(mesh_of("n1", "n2"), switch, on=False)
        found = await say(mesh, switch, on=True, patience_s=patience(1))
    assert (found.words, found.missing) == ([Word("n1", on=True)], ["n2", "n3"])
    assert (there.cluster_on, away.cluster_on) == (True, False)


async def test_a_node_that_comes_later_does_what_was_said_before(kv: Kv) -> None:
    late = Circuit()
    async with node("n1", Circuit(), kv) as switch:
        await say(mesh_of(), switch, on=False)
    async with node("n2", late, kv), asyncio.timeout(patience(20)):
        await late.taken.wait()
        assert not late.cluster_on


async def test_a_node_that_cannot_says_why(kv: Kv) -> None:
    broken = Circuit()
    broken.broken = True
    async with node("n1", Circuit(), kv) as switch, node("n2", broken, kv):
        found = await say(mesh_of("n2"), switch, on=False)
    assert [(one.node, one.on, "No space left" in one.reason) for one in found.words] == [
        ("n1", False, False),
        ("n2", True, True),
    ]


async def test_a_store_that_came_back_empty_is_told_again(etcd: EtcdProcess, kv: Kv) -> None:
    first, second = Circuit(), Circuit()
    async with node("n1", first, kv) as switch:
        await say(mesh_of(), switch, on=False)
        etcd.kill()
        etcd.wipe()
        await etcd.start()
        async with etcd.kv() as fresh, node("n2", second, fresh), asyncio.timeout(patience(30)):
            await second.taken.wait()
        assert (first.cluster_on, second.cluster_on) == (False, False)


async def test_a_change_in_between_ends_the_waiting(kv: Kv) -> None:
    circuit = Circuit()
    async with node("n1", circuit, kv) as switch, node("n2", Circuit(), kv) as other:
        waiting = asyncio.create_task(say(mesh_of("n9"), switch, on=False))
        async with asyncio.timeout(patience(20)):
            await circuit.taken.wait()
        await say(mesh_of(), other, on=True)
        found = await waiting
    assert (found.superseded, found.missing) == (True, ())
    assert circuit.cluster_on


async def test_what_cannot_be_read_changes_nothing(kv: Kv) -> None:
    circuit = Circuit()
    async with node("n1", circuit, kv) as switch:
        await say(mesh_of(), switch, on=False)
        await kv.put(KEY, b"neither on nor off")
        await kv.delete(KEY)
        found = await say(mesh_of(), switch, on=False)
    assert (circuit.cluster_on, len(found.words)) == (False, 1)


async def test_words_are_under_a_lease_and_what_was_said_is_not(kv: Kv) -> None:
    async with node("n1", Circuit(), kv) as switch:
        await say(mesh_of(), switch, on=False)
        found = {item.key: item for item in (await kv.list("meshd/short-circuit/")).items}
    assert found.keys() == {KEY, f"{KEY}/nodes/n1"}
    assert (found[KEY].lease, found[f"{KEY}/nodes/n1"].lease != 0) == (0, True)
    word = msgspec.json.decode(found[f"{KEY}/nodes/n1"].value or b"", type=Said)
    assert (word.node, word.on) == ("n1", False)


async def test_without_a_connection_nothing_is_said() -> None:
    with pytest.raises(ClusterNotTold):
        await say(mesh_of(), ClusterSwitch("cm-1", "n1", Circuit()), on=False)
