"""What Cilium's own code writes, by name: made by tests/go/cilium."""

from __future__ import annotations

import json
from pathlib import Path

CILIUM: dict[str, str] = json.loads((Path(__file__).parent / "cilium-1.20.1.json").read_text())
