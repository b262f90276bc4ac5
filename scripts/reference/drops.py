"""Every reason for which a packet is dropped, in the order of its number."""

from __future__ import annotations

import re

from meshd.ctl.drops import MEANINGS

HEAD = """\
# Drop reasons

Why a packet of a pod was dropped: the words of `meshctl metrics drops` and of the label `reason` of
`meshd_drop_packets_total`.

| Reason | |
|---|---|
"""


def page(header: str) -> str:
    """The reasons that ``header`` (bpf/maps/drops.h) numbers, with what they mean."""
    reasons = [name.lower() for name in re.findall(r"^\tDROP_(\w+),", header, re.MULTILINE)]
    named = [name for name in reasons if name in MEANINGS]
    return HEAD + "\n".join(f"| `{name}` | {MEANINGS[name]} |" for name in named)
