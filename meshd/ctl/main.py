"""``meshctl``: reads the command line, then imports what the command needs and nothing else.

Exit status: 0 done, 1 failed, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import cast

from meshd.ctl.arguments import build
from meshd.ctl.errors import CtlError

Run = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status. Errors are one line on stderr."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    # Which of them is the command, and which the value of an option before it, only a parser knows.
    parser = build(extras=[word for word in given if not word.startswith("-")])
    options = parser.parse_args(given)
    try:
        status = command(options.run)(options)
        sys.stdout.flush()
    except CtlError as error:
        print(f"meshctl: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read us has what he wanted; Python must not complain of it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status


def command(place: str) -> Run:
    """The function that ``place`` ("module:function") names."""
    module, _, function = place.partition(":")
    return cast("Run", getattr(importlib.import_module(module), function))


if __name__ == "__main__":
    sys.exit(main())
