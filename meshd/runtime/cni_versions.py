"""Which version of the CNI specification a configuration may have: the newest that all who read it take.

A runtime refuses configurations of a version that it does not know, and so does every plugin that it starts: with one of
Debian 12's usual plugins in a list of 1.1.0, each ADD fails. So all of them are asked: plugins as the specification says
(VERSION), and who calls says what the runtime told of itself.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

# What meshd speaks, the newest last.
KNOWN = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
# The newest that every runtime in use takes.
SAFE = "1.0.0"
# Its libcni is the first that knows 1.1.0; that of containerd 1.7 refuses it as 1.6 does.
CONTAINERD_FOR_NEWEST = (2, 0)
TIMEOUT_S = 10.0


def newest(containerd: str, plugins: Iterable[Path]) -> tuple[str, str]:
    """The newest version for these plugins and a runtime that says ``containerd`` of itself; and who takes no newer one,
    as a phrase, empty where nobody is in the way."""
    version, reason = newest_for_containerd(containerd), ""
    if version != KNOWN[-1]:
        reason = f"the runtime ({containerd.strip() or 'which is not found'}) takes no newer one"
    for plugin in plugins:
        taken = supported(plugin)
        limit = max((each for each in KNOWN if each in taken), key=KNOWN.index, default=KNOWN[0])
        if KNOWN.index(limit) < KNOWN.index(version):
            version, reason = limit, f"{plugin} {'takes no newer one' if taken else 'cannot be asked'}"
    return version, reason


def newest_for_containerd(said: str) -> str:
    """The newest version that the containerd takes which says ``said`` of itself."""
    found = re.search(r"\bv?(\d+)\.(\d+)\.\d+", said)
    return KNOWN[-1] if found and (int(found[1]), int(found[2])) >= CONTAINERD_FOR_NEWEST else SAFE


def supported(plugin: Path) -> frozenset[str]:
    """The versions that ``plugin`` says it takes; none where it cannot be asked."""
    environment: Mapping[str, str] = dict(os.environ) | {"CNI_COMMAND": "VERSION"}
    asked = json.dumps({"cniVersion": SAFE}).encode()
    try:
        done = subprocess.run(
            [plugin], input=asked, env=environment, capture_output=True, check=False, timeout=TIMEOUT_S
        )
        return frozenset(json.loads(done.stdout)["supportedVersions"])
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError):
        return frozenset()
