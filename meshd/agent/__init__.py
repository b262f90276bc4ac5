"""The `meshd` command: the composition of all parts, and the only place that knows every one of them."""

from meshd.agent.command import main

__all__ = ["main"]
