"""A worker that starts CNI plugins as a container runtime does, and says how long each took and what it printed.

Requests: {"plugin": path, "variables": {...}, "config": text}; answers: {"ms", "status", "said"}. The time is from before
the program is started until it has ended: what a container waits for.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
from typing import Any


def asked(request: dict[str, Any]) -> dict[str, Any]:
    """One command. Any: JSON, as the module says."""
    began = time.perf_counter()
    done = subprocess.run(
        [request["plugin"]],
        input=request["config"].encode(),
        env=request["variables"],
        capture_output=True,
        check=False,
    )
    return {
        "ms": (time.perf_counter() - began) * 1e3,
        "status": done.returncode,
        "said": (done.stdout or done.stderr).decode(errors="replace"),
    }


def main() -> int:
    """Answer requests until standard input ends."""
    gc.disable()
    for line in sys.stdin:
        print(json.dumps(asked(json.loads(line))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
