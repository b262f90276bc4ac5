"""Asks servers (server.py) until SIGTERM, each request once, and says what became of every one of them.

    python clients.py '[{"name": "web", "host": "10.220.0.7", "port": 80, "kind": "connections", "count": 4}, ...]'

``kind``: `connections`, one TCP connection after the other with one question each; `datagrams`, the same with one datagram
from a socket of its own; `streams`, one connection for the whole time, with a question every now and then. ``count``: of
each, at the same time. Prints `started` once every target has answered, and in the end one line of JSON: by target, who
answered how often, what failed and why, and the slowest answer in seconds.

Runs in pods with the agent's image: the standard library only.
"""

import asyncio
import errno
import json
import signal
import sys
import time
from collections import Counter

# Between two requests of the same client: there are two CPUs, and others on them.
PAUSE_S = 0.02
STREAM_PAUSE_S = 0.1
# More than any answer takes that is only late: TCP sends the first packet again after 1, 3, 7 and 15 seconds.
PATIENCE_S = 40.0


class Target:
    """What was seen of one: every request is in ``answers`` or in ``failures``."""

    def __init__(self, said: dict[str, object]) -> None:
        self.name, self.host, self.kind = str(said["name"]), str(said["host"]), str(said["kind"])
        self.port, self.count = int(str(said["port"])), int(str(said["count"]))
        self.asked = 0
        self.answers: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.slowest_s = 0.0
        self.first = asyncio.Event()

    def answered(self, question: bytes, line: bytes, started_s: float) -> None:
        name, _, words = line.partition(b" ")
        if words != question:
            self.failures["another answer than to the question" if line else "closed"] += 1
        else:
            self.answers[name.decode()] += 1
        self.slowest_s = max(self.slowest_s, time.monotonic() - started_s)
        self.first.set()

    def failed(self, error: BaseException) -> None:
        number = getattr(error, "errno", None)
        reason = (
            "timed out" if isinstance(error, TimeoutError) else errno.errorcode.get(number or 0, repr(error))
        )
        self.failures[reason] += 1
        self.first.set()

    def question(self) -> bytes:
        self.asked += 1
        return b"%s %d\n" % (self.name.encode(), self.asked)

    def report(self) -> dict[str, object]:
        return {
            "asked": self.asked,
            "answers": self.answers,
            "failures": self.failures,
            "slowest_s": round(self.slowest_s, 3),
        }


async def connections(target: Target, over: asyncio.Event) -> None:
    while not over.is_set():
        question, started_s = target.question(), time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE_S):
                reader, writer = await asyncio.open_connection(target.host, target.port)
                try:
                    writer.write(question)
                    target.answered(question, await reader.readline(), started_s)
                finally:
                    writer.close()
        except OSError as error:
            target.failed(error)
        await asyncio.sleep(PAUSE_S)


async def streams(target: Target, over: asyncio.Event) -> None:
    started_s = time.monotonic()
    question = b""
    try:
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection(target.host, target.port)
        while not over.is_set():
            question, started_s = target.question(), time.monotonic()
            async with asyncio.timeout(PATIENCE_S):
                writer.write(question)
                line = await reader.readline()
            target.answered(question, line, started_s)
            if not line:
                return
            await asyncio.sleep(STREAM_PAUSE_S)
        writer.close()
    except OSError as error:
        # A connection that was never made is a request as well.
        target.asked += not question
        target.failed(error)


class Answer(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.came: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if not self.came.done():
            self.came.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self.came.done():
            self.came.set_exception(exc)


async def datagrams(target: Target, over: asyncio.Event) -> None:
    while not over.is_set():
        question, started_s = target.question(), time.monotonic()
        try:
            target.answered(question, await one_datagram(target, question), started_s)
        except OSError as error:
            target.failed(error)
        await asyncio.sleep(PAUSE_S)


async def one_datagram(target: Target, question: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    transport, answer = await loop.create_datagram_endpoint(Answer, remote_addr=(target.host, target.port))
    try:
        transport.sendto(question)
        async with asyncio.timeout(PATIENCE_S):
            return await answer.came
    finally:
        transport.close()


KINDS = {"connections": connections, "streams": streams, "datagrams": datagrams}


async def main() -> None:
    targets = [Target(each) for each in json.loads(sys.argv[1])]
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    async with asyncio.TaskGroup() as tasks:
        for target in targets:
            for _ in range(target.count):
                tasks.create_task(KINDS[target.kind](target, over))
        for target in targets:
            await target.first.wait()
        print("started", flush=True)
    print(json.dumps({target.name: target.report() for target in targets}), flush=True)


asyncio.run(main())
