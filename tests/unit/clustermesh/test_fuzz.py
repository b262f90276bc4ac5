"""libFuzzer looks for a value that a decoder neither takes nor refuses, led by the lines that it reaches.

Beside test_hostile_values.py, whose values are of kinds that somebody thought of.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from clustermesh.compression import decompress
from tests.unit.clustermesh.golden import CILIUM

pytestmark = pytest.mark.needs("libfuzzer")

# Names of the golden values that a decoder starts from.
STARTS = {
    "service": "service",
    "node": "node",
    "address": "ip",
    "config": "config",
    "identity": "identity",
    "endpoint slice": "slice",
    "unpacked slice": "slice",
}
# What libFuzzer may put anywhere at once, besides what stands in quotes in the golden values.
WORDS = ("null", "true", "-1", "1e999", "[]", "{}", '""', "::ffff:10.0.0.1", "k8s:", ";", "=")
EVERY = pytest.mark.parametrize("decoder", STARTS)
# As much memory as everything that an agent has; a value that makes a decoder take it breaks it. Seconds for one value.
LIMITS = (
    "-rss_limit_mb=512",
    "-timeout=20",
    "-max_len=4096",
    "-seed=7",
    "-verbosity=0",
    "-print_final_stats=1",
)
FOUND = 77


def fuzzed(decoder: str, directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """What libFuzzer says after as many values as ``options`` let it try."""
    corpus = directory / "corpus"
    corpus.mkdir()
    words = set(WORDS)
    for name, value in CILIUM.items():
        if name.partition("-")[0] != STARTS.get(decoder):
            continue
        start = bytes.fromhex(value) if STARTS[decoder] == "slice" else value.encode()
        (corpus / name).write_bytes(decompress("k", start) if decoder == "unpacked slice" else start)
        words |= set(re.findall(r'"[\w.:/-]+"', value))
    dictionary = directory / "words"
    dictionary.write_text("".join(json.dumps(word) + "\n" for word in sorted(words)))
    program = [sys.executable, "-m", "tests.unit.clustermesh.fuzzed", decoder]
    return subprocess.run(
        [*program, *LIMITS, f"-dict={dictionary}", f"-artifact_prefix={directory}/", *options, str(corpus)],
        capture_output=True,
        text=True,
        check=False,
    )


def tried(done: subprocess.CompletedProcess[str]) -> int:
    """How many values were tried."""
    said = re.search(r"number_of_executed_units:\s+(\d+)", done.stderr)
    assert said is not None, done.stderr[-3000:]
    return int(said[1])


@EVERY
def test_no_value_breaks_a_decoder(decoder: str, tmp_path: Path) -> None:
    done = fuzzed(decoder, tmp_path, "-runs=50000")
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert tried(done) >= 50000


@pytest.mark.long
@EVERY
def test_no_value_breaks_a_decoder_in_minutes(decoder: str, tmp_path: Path) -> None:
    done = fuzzed(decoder, tmp_path, "-max_total_time=180")
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert tried(done) >= 100_000


def test_a_fault_that_chance_would_not_find_is_found(tmp_path: Path) -> None:
    done = fuzzed("control", tmp_path, "-runs=5000000")
    assert done.returncode == FOUND, done.stderr[-3000:]
    assert "IndexError: found" in done.stdout + done.stderr
    assert [path.read_bytes()[:4] for path in tmp_path.glob("crash-*")] == [b"mesh"]
