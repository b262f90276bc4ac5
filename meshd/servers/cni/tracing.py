"""How the plugin tells what it spends its time with. The agent hands it one who sends that on, or nobody listens."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Span(Protocol):
    """Opens a span for as long as a block lasts, below the one around it or, if given, below a W3C ``traceparent``."""

    def __call__(self, name: str, traceparent: str = "", **attributes: str) -> AbstractContextManager[None]:
        """The block."""
        ...


def untraced(name: str, traceparent: str = "", **attributes: str) -> AbstractContextManager[None]:
    """Nobody listens."""
    del name, traceparent, attributes
    return nullcontext()
