"""What ends a command."""

from __future__ import annotations


class CtlError(Exception):
    """The command failed; the text is the one line that the user sees, less the ``meshctl:``."""
