"""A resource kept current: through closes, forgetting servers and servers that are away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack

import msgspec
import pytest
from aiohttp import web

from meshd.kubeapi.access import Access
from meshd.kubeapi.answers import Item
from meshd.kubeapi.client import Client
from meshd.kubeapi.informer import Informer
from meshd.kubeapi.pace import End, Pace
from meshd.kubeapi.resources import SERVICES
from meshd.kubeapi.watching import Batch
from tests.fakes.api_server import FakeApiServer, Object, serving, status


class Shape(msgspec.Struct):
    spec: dict[str, int] = {}


class Told:
    """A listener that keeps what it is told, as a reader of objects would. ``story``: in which order."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, int] | None] = {}
        self.story: list[str] = []
        self._moved = asyncio.Event()

    async def listed(self, items: Sequence[Item[Shape]]) -> None:
        self.objects = {item.name: item.value.spec if item.value else None for item in items}
        self._note(f"list {' '.join(sorted(self.objects))}".strip())

    async def changed(self, batch: Batch[Shape]) -> None:
        for change in batch:
            if change.gone:
                self.objects.pop(change.item.name, None)
            else:
                self.objects[change.item.name] = change.item.value.spec if change.item.value else None
            self._note(f"{'gone' if change.gone else 'put'} {change.item.name}")

    def reached(self) -> None:
        self._note("reached")

    def _note(self, what: str) -> None:
        self.story.append(what)
        self._moved.set()
        self._moved = asyncio.Event()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not holds():
                await self._moved.wait()


def service(name: str, **spec: object) -> Object:
    return {"metadata": {"namespace": "default", "name": name}, "spec": spec}


class Scene:
    """A server, an informer that runs, and what it told."""

    def __init__(self, server: FakeApiServer, client: Client) -> None:
        self.server = server
        self.told = Told()
        pace = Pace(interval_s=0, first_s=0.001, last_s=0.002)
        self.informer = Informer(client, SERVICES, Shape, self.told, pace=pace)
        self.task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self.task = asyncio.create_task(self.informer.run())
        await self.told.until(lambda: self.informer.health.watches > 0)

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(FakeApiServer()))
        client = await stack.enter_async_context(Client(Access((server.url,))))
        made = Scene(server, client)
        stack.push_async_callback(made.stop)
        yield made


async def test_what_is_there_is_listed_and_what_happens_follows(scene: Scene) -> None:
    scene.server.put(SERVICES, service("a"))
    await scene.start()
    scene.server.put(SERVICES, service("b"))
    scene.server.delete(SERVICES, "a", "default")
    await scene.told.until(lambda: "gone a" in scene.told.story)
    assert scene.told.story == ["list a", "reached", "put b", "gone a"]


async def test_after_a_break_the_watch_goes_on_where_it_was(scene: Scene) -> None:
    await scene.start()
    scene.server.put(SERVICES, service("a"))
    await scene.told.until(lambda: "put a" in scene.told.story)
    scene.server.end_watches()
    scene.server.put(SERVICES, service("b"))
    await scene.told.until(lambda: "put b" in scene.told.story)
    assert scene.told.story == ["list", "reached", "put a", "put b"]
    assert scene.server.asked[-1].query["resourceVersion"] == "101"


async def test_a_bookmark_moves_the_place_to_go_on_from(scene: Scene) -> None:
    await scene.start()
    scene.server.bookmark(SERVICES)
    scene.server.bookmark(SERVICES)
    scene.server.put(SERVICES, service("a"))
    await scene.told.until(lambda: "put a" in scene.told.story)
    scene.server.bookmark(SERVICES)
    scene.server.put(SERVICES, service("b"))
    await scene.told.until(lambda: "put b" in scene.told.story)
    scene.server.end_watches()
    scene.server.put(SERVICES, service("c"))
    await scene.told.until(lambda: "put c" in scene.told.story)
    assert scene.server.asked[-1].query["resourceVersion"] == "105"


async def test_half_a_line_is_told_whole_after_the_break(scene: Scene) -> None:
    scene.server.prefix = b'{"type":"ADDED","object":{"metadata":{"name":"torn'
    await scene.start()
    scene.server.prefix = b""
    scene.server.end_watches()
    scene.server.put(SERVICES, service("a"))
    await scene.told.until(lambda: "put a" in scene.told.story)
    assert scene.told.objects == {"a": {}}
    assert scene.server.count(SERVICES.path(), watch=False) == 1


async def test_a_server_that_forgot_is_listed_again_and_nothing_is_gone_meanwhile(scene: Scene) -> None:
    for name in ("a", "b", "c"):
        scene.server.put(SERVICES, service(name))
    await scene.start()
    asked_in_list: list[int] = []

    def look(request: web.Request) -> None:
        if "watch" not in request.query:
            asked_in_list.append(len(scene.told.objects))

    scene.server.intervene = look
    scene.server.compact()
    scene.server.delete(SERVICES, "b", "default")
    scene.server.end_watches()
    await scene.told.until(lambda: scene.told.story[-1] == "list a c")
    assert asked_in_list == [3]
    assert scene.informer.health.away_since_s is None


async def test_an_error_in_the_stream_that_says_410_lists_again(scene: Scene) -> None:
    scene.server.prefix = (
        b'{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}\n'
    )
    scene.server.put(SERVICES, service("a"))
    await scene.start()
    await scene.told.until(lambda: scene.told.story.count("list a") >= 3)
    scene.server.prefix = b""
    scene.server.put(SERVICES, service("b"))
    await scene.told.until(lambda: "b" in scene.told.objects)
    assert scene.told.story.count("reached") == 1


async def test_a_server_that_was_set_back_is_listed_again(scene: Scene) -> None:
    scene.server.put(SERVICES, service("a"))
    await scene.start()
    scene.server.version = 50
    scene.server.bookmark(SERVICES)
    scene.server.end_watches()
    scene.server.prefix = b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"51"}}}\n'
    await scene.told.until(lambda: scene.told.story.count("list a") == 2)


async def test_a_server_away_is_told_once_and_what_it_said_stands(scene: Scene) -> None:
    scene.server.put(SERVICES, service("a"))
    await scene.start()
    scene.server.intervene = lambda _: status(503, "ServiceUnavailable", "etcd is away")
    scene.server.end_watches()
    await scene.told.until(lambda: scene.told.story.count("reached") == 2)
    health = scene.informer.health
    assert health.away_since_s is not None
    assert health.reason == "watch services: 503 ServiceUnavailable: etcd is away"
    assert scene.told.objects == {"a": {}}
    scene.server.intervene = lambda _: None
    scene.server.put(SERVICES, service("b"))
    await scene.told.until(lambda: "b" in scene.told.objects)
    assert scene.informer.health.away_since_s is None
    assert scene.told.story.count("reached") == 3


async def test_what_may_not_be_read_is_named(scene: Scene) -> None:
    sentence = 'services is forbidden: User "u" cannot list resource "services" in API group ""'
    scene.server.intervene = lambda _: status(403, "Forbidden", sentence)
    scene.task = asyncio.create_task(scene.informer.run())
    await scene.told.until(lambda: "reached" in scene.told.story)
    assert scene.informer.health.reason == f"list services: 403 Forbidden: {sentence}"
    assert not scene.informer.health.listed


async def test_a_watch_that_is_refused_again_and_again_is_given_up_for_a_list(scene: Scene) -> None:
    await scene.start()

    def refuse(request: web.Request) -> web.Response | None:
        old = request.query.get("resourceVersion") == "100"
        return status(504, "Timeout", "Too large resource version: 100") if old else None

    scene.server.intervene = refuse
    scene.server.version = 200
    scene.server.end_watches()
    await scene.told.until(lambda: scene.told.story.count("list") == 2)
    await scene.told.until(lambda: scene.informer.health.away_since_s is None)


async def test_an_object_of_another_shape_costs_only_itself(scene: Scene) -> None:
    await scene.start()
    scene.server.put(SERVICES, {**service("odd"), "spec": "text"})
    scene.server.put(SERVICES, service("good", port=1))
    await scene.told.until(lambda: "put good" in scene.told.story)
    assert scene.told.objects == {"odd": None, "good": {"port": 1}}


CLEAN, BROKEN = End(clean=True), End(clean=False)
PACE = [
    ("a good watch that ends is opened at once", [(300.0, CLEAN)], 0.0),
    ("a good watch that breaks waits, so that not all nodes come together", [(300.0, BROKEN)], 0.5),
    ("a clean end at once waits", [(0.0, CLEAN)], 1.0),
    ("and longer each time", [(0.0, CLEAN)] * 4, 4.0),
    ("but not for ever", [(0.0, BROKEN)] * 40, 30.0),
    ("what was bad is forgotten after a good one", [*[(0.0, BROKEN)] * 9, (20.0, CLEAN), (0.0, CLEAN)], 1.0),
    ("a server is left alone as long as it asks", [(0.0, End(clean=False, retry_after_s=7))], 7.0),
    ("within reason", [(0.0, End(clean=False, retry_after_s=9999))], 120.0),
]


@pytest.mark.parametrize(("rule", "ends", "expected"), PACE, ids=[row[0] for row in PACE])
def test_the_pace(rule: str, ends: list[tuple[float, End]], expected: float) -> None:
    pace = Pace()
    assert [pace.wait_s(stood_s, end, 1.0) for stood_s, end in ends][-1] == expected


def test_chance_spreads_the_waits() -> None:
    waits = [Pace(interval_s=0).wait_s(0.0, BROKEN, chance) for chance in (0.0, 0.5, 1.0)]
    assert waits == [0.25, 0.375, 0.5]
