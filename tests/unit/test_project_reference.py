"""docs/reference: what is written there is what the code says."""

from __future__ import annotations

import msgspec
import pytest

from scripts.reference import metrics, options
from scripts.reference.__main__ import main


def test_the_pages_are_fresh(capsys: pytest.CaptureFixture[str]) -> None:
    assert (main(["--check"]), capsys.readouterr().out) == (0, "")


def test_an_option_that_the_docstring_leaves_out_is_refused() -> None:
    class Section(msgspec.Struct, rename="camel"):
        """``one_s``: this is said."""

        one_s: int = 1
        two: str = ""

    with pytest.raises(options.UndocumentedOption, match="the docstring of Section says nothing of two"):
        list(options.options(Section))


def test_options_have_type_default_and_meaning() -> None:
    class Section(msgspec.Struct, rename="camel"):
        """Of what they are.

        ``one_s``, ``two``: this is said
        over two lines; ``three``: and of ``two``.

        Not this.
        """

        one_s: int
        two: tuple[str, ...] = ("a",)
        three: bool | None = None

    assert [
        options.Option("oneS", "integer", "required", "this is said over two lines"),
        options.Option("two", "list of text", "`('a',)`", "this is said over two lines"),
        options.Option("three", "true or false", "-", "and of `two`"),
    ] == list(options.options(Section))


def test_metrics_are_found_where_they_are_made() -> None:
    source = """
def one():
    said = "What it is."
    yield Figure("flows", said, "gauge", ())
    yield CounterMetricFamily("meshd_failures", "That failed.", value=1)
    yield InfoMetricFamily(computed, "Not this.")
"""
    assert {
        metrics.Metric("meshd_flows", "gauge", "What it is"),
        metrics.Metric("meshd_failures_total", "counter", "That failed"),
    } == set(metrics.metrics(source))
