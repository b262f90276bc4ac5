"""What a runtime's question says."""

from __future__ import annotations

import json

import pytest

from meshd.servers.cni.question import question

VARIABLES = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "one",
    "CNI_NETNS": "/run/netns/one",
    "CNI_IFNAME": "eth0",
}


@pytest.mark.parametrize(
    ("runtime_config", "limited"),
    [
        ({}, False),
        ({"bandwidth": {}}, False),
        ({"bandwidth": {"ingressRate": 0, "egressRate": 0}}, False),
        ({"bandwidth": {"ingressRate": 8_000_000, "ingressBurst": 2147483647}}, True),
        ({"bandwidth": {"egressRate": 1}}, True),
        ({"portMappings": [{"hostPort": 80}]}, False),
    ],
)
def test_a_container_is_limited_where_a_rate_is_given(
    runtime_config: dict[str, object], limited: bool
) -> None:
    config = {"cniVersion": "1.0.0", "name": "mesh", "runtimeConfig": runtime_config}
    assert question(VARIABLES, json.dumps(config).encode()).limited == limited
