"""Errors as the CNI specification knows them, and one table from ours to theirs."""

from __future__ import annotations

import msgspec

from meshd.errors import (
    AddressesExhausted,
    AddressRefused,
    JournalError,
    KernelError,
    MeshError,
    RowsFailed,
)

# https://www.cni.dev/docs/spec/#error; from 100 on they are a plugin's own.
INCOMPATIBLE_VERSION = 1
UNKNOWN_CONTAINER = 3
INVALID_ENVIRONMENT = 4
IO_FAILURE = 5
UNDECODABLE = 6
INVALID_CONFIG = 7
TRY_AGAIN_LATER = 11
NOT_AVAILABLE = 50
LIMITED_CONNECTIVITY = 51
NO_ADDRESS = 100
NOT_AS_MADE = 101
KERNEL_REFUSED = 102
SOME_NOT_COLLECTED = 103

# The first line that fits counts.
CODES: tuple[tuple[type[MeshError], int], ...] = (
    (AddressesExhausted, NO_ADDRESS),
    (AddressRefused, NO_ADDRESS),
    (JournalError, IO_FAILURE),
    (KernelError, KERNEL_REFUSED),
    (RowsFailed, KERNEL_REFUSED),
)


class CniError(MeshError):
    """What a runtime is told: ``code`` for programs, ``message`` for people, ``details`` for those who want more."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        self.code = code
        self.message = message
        self.details = details
        super().__init__(f"{message} ({details})" if details else message)


def told(error: MeshError) -> CniError:
    """``error`` as a runtime understands it."""
    if isinstance(error, CniError):
        return error
    code = next((code for kind, code in CODES if isinstance(error, kind)), KERNEL_REFUSED)
    return CniError(code, str(error))


def encoded(error: CniError, version: str) -> bytes:
    """The JSON of ``error`` in an answer of ``version``."""
    body = {"cniVersion": version, "code": error.code, "msg": error.message, "details": error.details}
    return msgspec.json.encode(body) + b"\n"
