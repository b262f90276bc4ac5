"""``meshctl version``."""

from __future__ import annotations

import argparse
import sys

from meshd import __version__
from meshd.ctl.errors import CtlError


def run(options: argparse.Namespace) -> int:
    """Ours, and the agent's if it answers; 1 if it does not."""
    found: dict[str, object] = {"meshctl": {"version": __version__}}
    failure = None
    if not options.client:
        try:
            found["meshd"] = agent(options)
        except CtlError as error:
            failure = error
    if options.output in {"json", "yaml"}:
        from meshd.ctl.output import show_object  # noqa: PLC0415 - late: protobuf's JSON is not needed for lines

        show_object(found, options.output)
    else:
        for name, facts in found.items():
            print(name, *(value for value in facts.values() if value) if isinstance(facts, dict) else ())
    if failure is None:
        return 0
    print(f"meshctl: {failure}", file=sys.stderr)
    return 1


def agent(options: argparse.Namespace) -> dict[str, str]:
    """What the agent says of itself.

    Raises:
        CtlError: it cannot be reached.
    """
    from meshd.api.v1 import status_pb2  # noqa: PLC0415 - late: --client needs no gRPC, which costs 0.1 s
    from meshd.api.v1.status_pb2_grpc import StatusServiceStub  # noqa: PLC0415
    from meshd.ctl.connection import connected  # noqa: PLC0415

    with connected(options) as channel:
        answer = StatusServiceStub(channel).GetVersion(
            status_pb2.GetVersionRequest(), timeout=options.timeout
        )
    return {
        "version": answer.version,
        "commit": answer.commit,
        "kernel": f"kernel {answer.kernel}" if options.output == "table" else answer.kernel,
        "python": f"python {answer.python}" if options.output == "table" else answer.python,
    }
