"""Every metric that the agent's code names, wherever it makes one: name, kind, labels and help, read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HEAD = """\
# Metrics

What `/metrics` answers (`metrics.listen`), besides the figures of the process (`meshd_process_*`).

| Metric | Kind | |
|---|---|---|
"""
KINDS = {
    "InfoMetricFamily": "info",
    "GaugeMetricFamily": "gauge",
    "CounterMetricFamily": "counter",
    "by_label": "gauge",
}
# Calls with name, help and kind.
FIGURES = ("Figure", "_by")
# What the exposition format adds to a name.
SUFFIXES = {"info": "_info", "counter": "_total", "gauge": ""}


@dataclass(frozen=True, slots=True, order=True)
class Metric:
    """A family as Prometheus knows it."""

    name: str
    kind: str
    help: str


def page(package: Path) -> str:
    """The metrics that the code below ``package`` makes, by name."""
    found = sorted({metric for path in package.rglob("*.py") for metric in metrics(path.read_text())})
    rows = [f"| `{one.name}` | {one.kind} | {one.help} |" for one in found]
    return HEAD + "\n".join(rows)


def metrics(source: str) -> Iterator[Metric]:
    """The families that a module makes; one whose name is computed counts where its name is written out."""
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef):
            texts = _texts(function)
            for call in ast.walk(function):
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
                    said = [texts.get(ast.unparse(each), "") for each in call.args[:3]]
                    yield from _made_by(call.func.id, said)


def _made_by(called: str, said: list[str]) -> Iterator[Metric]:
    if called in KINDS and all(said[:2]):
        yield _metric(said[0], KINDS[called], said[1])
    elif called in FIGURES and all(said):
        yield _metric(f"meshd_{said[0]}", said[2], said[1])


def _metric(name: str, kind: str, meaning: str) -> Metric:
    suffix = SUFFIXES[kind]
    return Metric(name if name.endswith(suffix) else name + suffix, kind, meaning.rstrip("."))


def _texts(function: ast.FunctionDef) -> dict[str, str]:
    """What each expression in ``function`` that is a text, or a name for one, stands for."""
    found = {}
    for each in ast.walk(function):
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            found[ast.unparse(each)] = each.value
        elif isinstance(each, ast.Assign) and isinstance(each.value, ast.Constant):
            found |= {ast.unparse(target): str(each.value.value) for target in each.targets}
    return found
