"""``meshctl mesh``."""

from __future__ import annotations

import argparse
import importlib

from clustermesh.membership_cli import quiet_grpc


def doctor(options: argparse.Namespace) -> int:
    """``mesh doctor``"""
    # Before gRPC is imported, which would print a line for every handshake that fails.
    quiet_grpc()
    status: int = importlib.import_module("meshd.ctl.mesh_doctor").run(options)
    return status
