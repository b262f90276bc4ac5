"""A site that nginx serves, and who fetches its files and compares them."""

from __future__ import annotations

import os
from pathlib import Path

from tests.netns.short_circuit.programs import written

MB = 1 << 20
# Gets the same file again and again over connections that stay, and compares it. urllib and http.client would block.
FETCH = """
    import asyncio, pathlib, sys

    async def fetches(host, port, name, wanted, count):
        reader, writer = await asyncio.open_connection(host, port)
        for _ in range(count):
            writer.write(f"GET /{name} HTTP/1.1\\r\\nHost: {host}\\r\\n\\r\\n".encode())
            await writer.drain()
            head = await reader.readuntil(b"\\r\\n\\r\\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            got = await reader.readexactly(len(wanted))
            assert got == wanted
        writer.close()

    async def main():
        host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[4])
        file = pathlib.Path(sys.argv[3])
        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(fetches(host, port, file.name, file.read_bytes(), count))

    asyncio.run(main())
"""
NGINX = """
    daemon off;
    user root;
    worker_processes 2;
    pid {directory}/nginx.pid;
    error_log {directory}/error.log;
    events {{ worker_connections 256; }}
    http {{
        access_log off;
        sendfile {sendfile};
        keepalive_requests 1000000;
        client_body_temp_path {directory}/body;
        proxy_temp_path {directory}/proxy;
        fastcgi_temp_path {directory}/fastcgi;
        uwsgi_temp_path {directory}/uwsgi;
        scgi_temp_path {directory}/scgi;
        server {{ listen 80; root {directory}/www; }}
    }}
"""


def site(directory: Path, sendfile: bool = True) -> tuple[str, Path]:
    """A configuration of nginx, and a file of 3 MB that it serves; also one of 100 bytes, named small."""
    (directory / "www").mkdir()
    (directory / "www" / "small").write_bytes(b"x" * 100)
    large = directory / "www" / "large"
    large.write_bytes(os.urandom(3 * MB))
    conf = NGINX.format(directory=directory, sendfile="on" if sendfile else "off")
    return written(directory / "nginx.conf", conf), large
