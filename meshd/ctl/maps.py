"""``meshctl map dump``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator

import grpc

from meshd.api.v1 import map_pb2
from meshd.api.v1.map_pb2_grpc import MapServiceStub
from meshd.ctl.connection import connected
from meshd.ctl.output import show_object


def dump(options: argparse.Namespace) -> int:
    """One entry a line: key and value with an arrow between, or one JSON object; in YAML each is an item of one list."""
    with connected(options) as channel:
        for entry in entries(channel, options.name, options.timeout):
            if options.output == "json":
                print(f'{{"key": {entry.key}, "value": {entry.value}}}')
            elif options.output == "yaml":
                show_object([{"key": json.loads(entry.key), "value": json.loads(entry.value)}], "yaml")
            else:
                print(f"{entry.key} -> {entry.value}")
    return 0


def entries(channel: grpc.Channel, name: str, timeout_s: float) -> Iterator[map_pb2.MapEntry]:
    """Every entry of the map ``name``, as the kernel holds it while it is read."""
    request = map_pb2.DumpMapRequest(name=name)
    for answer in MapServiceStub(channel).DumpMap(request, timeout=timeout_s):
        yield from answer.entries
