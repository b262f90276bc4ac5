"""A publisher in a process of its own, to be killed: ``python -m tests.etcd.publishing URL COUNT``."""

from __future__ import annotations

import asyncio
import sys

import structlog

from clustermesh.channel import parse_endpoint
from clustermesh.kv import Kv
from clustermesh.publisher import Publisher
from tests.etcd.test_publisher import CONFIG, SHORT, services


async def main(url: str, count: int) -> None:
    """Publish ``count`` services, say so on standard output, and go on until killed."""
    async with Kv([parse_endpoint(url)]) as kv:
        publisher = Publisher(kv, "cm-1", CONFIG, options=SHORT)
        publisher.set_services(services(count))
        task = asyncio.create_task(publisher.run())
        await publisher.settled()
        print("settled", flush=True)
        await task


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.WriteLoggerFactory(sys.stderr))
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
