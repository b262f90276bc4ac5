"""Changes of several objects: each is made or refused for itself, and reported in a line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from typing import TypeVar

import grpc

from meshd.ctl.connection import code_of, explained
from meshd.ctl.errors import CtlError

T = TypeVar("T")


def make_all(items: Iterable[T | CtlError], make: Callable[[T], str], options: argparse.Namespace) -> int:
    """``make`` each of ``items``, print what it says; 1 if one was refused or could not be read, else 0."""
    refused = 0
    for item in items:
        try:
            if isinstance(item, CtlError):
                raise item
            print(make(item))
        except CtlError as error:
            refused += 1
            print(f"meshctl: {error}", file=sys.stderr)
        except grpc.RpcError as error:
            # Nothing else can succeed where the agent is not reached at all.
            if code_of(error) is grpc.StatusCode.UNAVAILABLE:
                raise
            refused += 1
            print(f"meshctl: {explained(error, options)}", file=sys.stderr)
    return 1 if refused else 0
