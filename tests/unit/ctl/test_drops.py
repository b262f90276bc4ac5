"""What meshctl says of packets that were dropped."""

from __future__ import annotations

import json
from pathlib import Path

from meshd.ctl.drops import MEANINGS
from meshd.kernel.object import BpfObject
from meshd.servers.introspection import Drop
from tests.fakes.agent import serving
from tests.unit.ctl.running import meshctl

DROPS = [
    Drop("flow_quota", "from_pod", 3, 180),
    Drop("no_such_pod", "to_pod", 0, 0),
    Drop("no_backend", "from_pod", 12, 4096),
]


async def test_drops_are_shown_with_what_they_mean_the_most_frequent_first(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        agent.dataplane.drops = DROPS
        lines = (await meshctl(agent, "metrics", "drops")).out.splitlines()
        assert [line.split()[:4] for line in lines[1:]] == [
            ["no_backend", "from", "pod", "12"],
            ["flow_quota", "from", "pod", "3"],
        ]
        assert "raise podNetwork.flowQuotaPercent" in lines[2]
        found = json.loads((await meshctl(agent, "metrics", "drops", "-o", "json")).out)
        assert found["drops"][1] == {
            "reason": "flow_quota",
            "direction": "from_pod",
            "packets": "3",
            "bytes": "180",
        }


async def test_it_is_told_from_no_drops_that_nobody_counts(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        assert "nothing is counted" in (await meshctl(agent, "metrics", "drops")).out
        agent.dataplane.drops = []
        assert (await meshctl(agent, "metrics", "drops")).out == "no packet was dropped\n"


def test_every_reason_of_the_programs_has_a_meaning() -> None:
    with BpfObject.open() as bpf:
        reasons = {name.removeprefix("DROP_").lower() for name in bpf.btf.enum("drop_reason")}
    assert set(MEANINGS) == reasons - {"none", "reasons"}
