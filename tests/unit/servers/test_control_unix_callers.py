"""Who is at the other end of the control API's Unix socket."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from pathlib import Path

import grpc
import grpc.aio
from structlog.testing import capture_logs

from meshd.api.v1 import status_pb2, status_pb2_grpc
from meshd.servers.control.unix_callers import inner_path
from tests.fakes.agent import serving

TIMEOUT_S = 10.0
# Another process, which makes a service.
APPLY = """
import sys, grpc
from meshd.api.v1 import service_pb2, service_pb2_grpc
with grpc.insecure_channel("unix:" + sys.argv[1]) as channel:
    service = service_pb2.Service(namespace="default", name="web")
    service.frontends.add(address="192.0.2.1", port=80, protocol=service_pb2.PROTOCOL_TCP)
    stub = service_pb2_grpc.ServiceServiceStub(channel)
    stub.ApplyService(service_pb2.ApplyServiceRequest(service=service), timeout=10)
"""


async def test_another_process_is_logged_by_its_own_number(tmp_path: Path) -> None:
    with capture_logs() as logs:
        async with serving(tmp_path) as agent:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", APPLY, str(agent.config.socket)
            )
            assert await process.wait() == 0
    made = [(line["event"], line["caller"]) for line in logs if "caller" in line]
    assert made == [("service applied", f"uid {os.getuid()} pid {process.pid}")]


async def test_only_the_agent_can_reach_the_socket_behind(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        directory = inner_path(agent.config.socket).parent
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert not directory.exists()


async def test_callers_come_and_go_without_a_trace(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        for _ in range(20):
            async with grpc.aio.insecure_channel(f"unix:{agent.config.socket}") as channel:
                stub = status_pb2_grpc.StatusServiceStub(channel)
                await stub.GetVersion(status_pb2.GetVersionRequest(), timeout=TIMEOUT_S)
        tasks = [each for each in asyncio.all_tasks() if "_pass_on" in str(each.get_coro())]
        # The last ones may still be hearing of their callers' end; the fixture's own channel stays.
        async with asyncio.timeout(TIMEOUT_S):
            await asyncio.gather(*tasks[1:])
