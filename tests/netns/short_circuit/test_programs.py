"""Servers and clients as people run them, between selected pods and beside plain TCP: they work, and check what they get."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.netns.short_circuit.programs import running, said, written
from tests.netns.short_circuit.site import FETCH, site
from tests.netns.short_circuit.way import Way

pytestmark = pytest.mark.long

MB = 1 << 20


@pytest.mark.needs("command:nginx", "command:wrk")
def test_nginx_and_wrk(way: Way, tmp_path: Path) -> None:
    conf, _ = site(tmp_path)
    with running(way.server, 80, tmp_path / "log", "nginx", "-c", conf), way.hands_over():
        report = said(way.client, "wrk", "-t2", "-c50", "-d2s", f"http://{way.server.ip[4]}/small")
    found = re.search(r"(\d+) requests in", report)
    assert found
    assert int(found[1]) > 100
    assert "Socket errors" not in report
    assert "Non-2xx" not in report


@pytest.mark.needs("command:nginx")
@pytest.mark.parametrize("sendfile", [True, False], ids=["sendfile", "copied"])
def test_files_of_nginx_are_whole(way: Way, tmp_path: Path, sendfile: bool) -> None:
    conf, large = site(tmp_path, sendfile)
    fetch = written(tmp_path / "fetch.py", FETCH)
    with running(way.server, 80, tmp_path / "log", "nginx", "-c", conf), way.hands_over():
        for name, count in ((large, "5"), (large.with_name("small"), "200")):
            said(way.client, sys.executable, fetch, way.server.ip[4], "80", str(name), count)


@pytest.mark.needs("command:redis-server", "command:redis-benchmark")
def test_redis_and_its_benchmark(way: Way, tmp_path: Path) -> None:
    server = (
        "redis-server",
        "--port",
        "6379",
        "--save",
        "",
        "--protected-mode",
        "no",
        "--dir",
        str(tmp_path),
    )
    at = ("-h", way.server.ip[4])
    with running(way.server, 6379, tmp_path / "log", *server), way.hands_over():
        for options in (
            ("-n", "5000", "-c", "20", "-t", "set,get,incr,lpush,lrange_100,mset"),
            ("-n", "20000", "-c", "20", "-P", "50", "-t", "set,get"),
            ("-n", "500", "-c", "20", "-d", "200000", "-t", "set,get"),
        ):
            report = said(way.client, "redis-benchmark", *at, *options, "--csv")
            assert report.count("\n") >= 3
        # redis-cli counts what INCR made of it.
        assert said(way.client, "redis-cli", *at, "get", "counter:__rand_int__").strip() == "5000"


@pytest.mark.needs("command:iperf3")
@pytest.mark.parametrize("options", [(), ("-P", "4"), ("-l", "1K")], ids=["one", "four", "1 KB"])
def test_iperf3(way: Way, tmp_path: Path, options: tuple[str, ...]) -> None:
    with way.hands_over():
        assert received_by_iperf3(way, tmp_path, *options) >= 150 * MB


@pytest.mark.needs("command:iperf3")
def test_iperf3_in_reverse(way: Way, tmp_path: Path) -> None:
    """Its client reads as it likes: what is looked at first is a blocking socket most of the time, then a second later."""
    assert received_by_iperf3(way, tmp_path, "-R") >= 150 * MB


def received_by_iperf3(way: Way, directory: Path, *options: str) -> int:
    """Bytes that the receiver says it got, of 200 MB that are to be sent."""
    with running(way.server, 5201, directory / "log", "iperf3", "-s"):
        report = said(way.client, "iperf3", "-c", way.server.ip[4], "-n", "200M", "-J", *options)
    return int(json.loads(report)["end"]["sum_received"]["bytes"])


ASYNCIO_ECHO = """
    import asyncio

    async def echo(reader, writer):
        while part := await reader.read(65536):
            writer.write(part)
            await writer.drain()
        writer.close()

    async def main():
        server = await asyncio.start_server(echo, "0.0.0.0", 7000)
        await server.serve_forever()

    asyncio.run(main())
"""
ASYNCIO_CLIENT = """
    import asyncio, random, sys

    async def talks(host, seed):
        reader, writer = await asyncio.open_connection(host, 7000)
        source = random.Random(seed)
        for size in (1, 10, 1000, 100_000, 5_000_000, 7):
            message = source.randbytes(size)
            for _ in range(20 if size < 1_000_000 else 1):
                writer.write(message)
                got = await reader.readexactly(size)
                assert got == message
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()

    async def main():
        async with asyncio.TaskGroup() as group:
            for seed in range(20):
                group.create_task(talks(sys.argv[1], seed))

    asyncio.run(main())
"""


def test_asyncio(way: Way, tmp_path: Path) -> None:
    server, client = (
        written(tmp_path / "echo.py", ASYNCIO_ECHO),
        written(tmp_path / "client.py", ASYNCIO_CLIENT),
    )
    with running(way.server, 7000, tmp_path / "log", sys.executable, server), way.hands_over():
        said(way.client, sys.executable, client, way.server.ip[4])


NODE_ECHO = """
    require("net").createServer({allowHalfOpen: true}, each => each.pipe(each)).listen(7000, "0.0.0.0")
"""
NODE_CLIENT = """
    const net = require("net"), crypto = require("crypto")
    function talks(host) {
      return new Promise((done, failed) => {
        const sizes = [1, 1, 1, 10, 10, 10, 10, 10, 10, 10, 1000, 1000, 100000, 5000000, 7], socket = net.connect(7000, host)
        let message = null, at = 0
        const next = () => {
          if (!sizes.length) return socket.end()
          message = crypto.randomBytes(sizes.shift()); at = 0
          socket.write(message)
        }
        socket.on("connect", next)
        socket.on("data", part => {
          if (part.compare(message, at, at + part.length) != 0) failed("other bytes came than were sent")
          at += part.length
          if (at == message.length) next()
        })
        socket.on("end", done)
        socket.on("error", failed)
      })
    }
    Promise.all(Array.from({length: 20}, () => talks(process.argv[2]))).catch(why => { console.error(why); process.exit(1) })
"""


@pytest.mark.needs("command:node")
def test_node(way: Way, tmp_path: Path) -> None:
    server, client = written(tmp_path / "echo.js", NODE_ECHO), written(tmp_path / "client.js", NODE_CLIENT)
    with running(way.server, 7000, tmp_path / "log", "node", server), way.hands_over():
        said(way.client, "node", client, way.server.ip[4])


GO = """
    package main

    import ("bytes"; "crypto/rand"; "fmt"; "io"; "net"; "os"; "sync")

    func echo(each net.Conn) {
        defer each.Close()
        room := make([]byte, 65536)
        for {
            n, err := each.Read(room)
            if n > 0 { if _, failed := each.Write(room[:n]); failed != nil { return } }
            if err != nil { return }
        }
    }

    func talk(host string) error {
        each, err := net.Dial("tcp", host)
        if err != nil { return err }
        defer each.Close()
        for _, size := range []int{1, 1, 1, 10, 10, 10, 10, 10, 10, 10, 1000, 1000, 100000, 5000000, 7} {
            message, got := make([]byte, size), make([]byte, size)
            rand.Read(message)
            go each.Write(message)
            if _, err := io.ReadFull(each, got); err != nil { return err }
            if !bytes.Equal(message, got) { return fmt.Errorf("other bytes came than were sent") }
        }
        each.(*net.TCPConn).CloseWrite()
        rest, err := io.ReadAll(each)
        if len(rest) > 0 { return fmt.Errorf("more came than was sent") }
        return err
    }

    func main() {
        if len(os.Args) == 1 {
            listener, err := net.Listen("tcp", "0.0.0.0:7000")
            if err != nil { panic(err) }
            for { each, err := listener.Accept(); if err != nil { panic(err) }; go echo(each) }
        }
        var group sync.WaitGroup
        for n := 0; n < 20; n++ {
            group.Add(1)
            go func() { defer group.Done(); if err := talk(os.Args[1]); err != nil { panic(err) } }()
        }
        group.Wait()
    }
"""


@pytest.fixture(scope="module")
def go_program(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Server without an argument, else client."""
    directory = tmp_path_factory.mktemp("go")
    source = written(directory / "main.go", GO)
    environment = os.environ | {
        "GOCACHE": str(directory / "cache"),
        "GOTOOLCHAIN": "local",
        "GOFLAGS": "-mod=mod",
    }
    built = str(directory / "program")
    subprocess.run(["go", "build", "-o", built, source], check=True, cwd=directory, env=environment)
    return built


@pytest.mark.needs("command:go")
def test_go(way: Way, tmp_path: Path, go_program: str) -> None:
    with running(way.server, 7000, tmp_path / "log", go_program), way.hands_over():
        said(way.client, go_program, f"{way.server.ip[4]}:7000")
