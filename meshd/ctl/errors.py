"""What ends a command."""

from __future__ import annotations


class CtlError(Exception):
    """The command failed; the text is the one line that the user sees, less the ``meshctl:``.

    ``status``: the exit status that follows.
    """

    status = 1


class UsageError(CtlError):
    """What was asked for makes no sense; nobody was asked. What argparse finds by itself ends the same way."""

    status = 2
