"""How the agent writes its log."""

from __future__ import annotations

import json
import os
import subprocess
import sys

TWO_LINES = """
import structlog
from meshd.agent import logs
logs.configure("info", "json")
log = structlog.get_logger()
log.info("one", kept=1)
log.info("two", kept=2)
"""


def test_a_line_and_its_end_are_one_write() -> None:
    # A packet pipe gives each write back as it was made (pipe(2), O_DIRECT).
    end, start = os.pipe2(os.O_DIRECT)
    try:
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        subprocess.run([sys.executable, "-c", TWO_LINES], stderr=start, env=environment, check=True)
        written = [os.read(end, 4096), os.read(end, 4096)]
    finally:
        os.close(end)
        os.close(start)
    assert [(json.loads(each)["event"], each[-1:]) for each in written] == [("one", b"\n"), ("two", b"\n")]
