"""What every test shares: the account of what was left out, the look for what was left behind, and one naming rule.

**Naming.** Whatever a test makes that the whole kernel can see (network namespace, link, cgroup, bpffs directory, nft table)
has a name that begins with the fixture ``run_name`` (``mt`` and this process id in hex), in whatever directory it is. So two
runs side by side never meet, and the check at the end of the session finds what is ours and nothing else.
Processes need no name: they are found by an environment variable that they inherit.

**Needs.** ``@pytest.mark.needs("netem")`` leaves a test out where the machine lacks something; the folders bpf, netns
and e2e need root, BPF and cgroup v2 by themselves (``tests/gate/left_out.py``). Never ``pytest.skip``: CI refuses it.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

pytest_plugins = ("tests.gate.left_out", "tests.gate.left_behind")

# A shell's background job ignores SIGINT, and so would everything that a test starts and means to interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Tools that come as wheels (Go): behind those of the machine.
os.environ["PATH"] = os.pathsep.join((os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)))
