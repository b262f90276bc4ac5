"""The path of a field, as errors write it and as a walk through a document needs it."""

from __future__ import annotations

import re

Path = tuple[str | int, ...]
"""Keys and list indexes from the root, e.g. ``("spec", "ports", 0, "port")``."""

_STEP = re.compile(r"\.?(?P<key>[^.\[\]]+)|\[(?P<index>[0-9]+)\]|\[(?P<entry>[^\]]*)\]")


def parse_field(field: str) -> Path:
    """The steps of ``spec.ports[0].port`` or ``metadata.labels[kubernetes.io/service-name]``."""
    steps: list[str | int] = []
    for step in _STEP.finditer(field):
        if step["index"] is not None:
            steps.append(int(step["index"]))
        else:
            steps.append(step["key"] if step["key"] is not None else step["entry"])
    return tuple(steps)
