"""From our errors to gRPC's: one table, and the details that name object and field.

Details are those of google.rpc (AIP-193) in the trailer ``grpc-status-details-bin``, so any client can read them:
BadRequest for fields, ResourceInfo for objects and their owners, ErrorInfo for the kind of error and its facts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import grpc
from google.protobuf.any_pb2 import Any as PackedMessage
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, ResourceInfo
from google.rpc.status_pb2 import Status

from meshd.errors import (
    ClusterNotTold,
    DrillGoesOn,
    InvalidObject,
    InvalidRequest,
    JournalError,
    ListAgain,
    MapFull,
    MeshError,
    NoClusterStore,
    NotAllowed,
    NotSettled,
    OwnedByOther,
    ReaderTooSlow,
    RowsFailed,
    UnknownObject,
)

DOMAIN = "meshd.io"
TRAILER = "grpc-status-details-bin"

# The first line that fits counts.
CODES: tuple[tuple[type[MeshError], grpc.StatusCode], ...] = (
    (InvalidRequest, grpc.StatusCode.INVALID_ARGUMENT),
    (InvalidObject, grpc.StatusCode.INVALID_ARGUMENT),
    (OwnedByOther, grpc.StatusCode.FAILED_PRECONDITION),
    (UnknownObject, grpc.StatusCode.NOT_FOUND),
    (MapFull, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (RowsFailed, grpc.StatusCode.ABORTED),
    (NotSettled, grpc.StatusCode.DEADLINE_EXCEEDED),
    (JournalError, grpc.StatusCode.UNAVAILABLE),
    (NoClusterStore, grpc.StatusCode.FAILED_PRECONDITION),
    (ClusterNotTold, grpc.StatusCode.ABORTED),
    (DrillGoesOn, grpc.StatusCode.FAILED_PRECONDITION),
    (NotAllowed, grpc.StatusCode.PERMISSION_DENIED),
    (ListAgain, grpc.StatusCode.OUT_OF_RANGE),
    (ReaderTooSlow, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (MeshError, grpc.StatusCode.INTERNAL),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a failed call answers with."""

    code: grpc.StatusCode
    message: str
    trailers: tuple[tuple[str, bytes], ...] = field(default=())


def answer(error: MeshError) -> Answer:
    """How ``error`` leaves the process."""
    code = next(code for kind, code in CODES if isinstance(error, kind))
    return with_details(code, str(error), *details(error))


def with_details(code: grpc.StatusCode, message: str, *parts: Message) -> Answer:
    """An answer that carries ``parts`` for programs besides the sentence for people."""
    number: int = code.value[0]
    status = Status(code=number, message=message, details=[packed(part) for part in parts])
    return Answer(code, message, ((TRAILER, status.SerializeToString()),))


def details(error: MeshError) -> Iterator[Message]:
    """What ``error`` says of objects, fields and facts."""
    match error:
        case InvalidRequest(errors=errors):
            yield violations(errors)
        case InvalidObject():
            yield violations((error,))
        case OwnedByOther(object_name=name, owner=owner):
            yield ResourceInfo(
                resource_type=kind_of(name),
                resource_name=name,
                owner=owner,
                description="owned by another source",
            )
        case UnknownObject(object_name=name):
            yield ResourceInfo(
                resource_type=kind_of(name), resource_name=name, description="no source names it"
            )
        case RowsFailed(errors=failed):
            for row, reason in failed.items():
                yield ResourceInfo(resource_type=kind_of(row), resource_name=row, description=str(reason))
        case NotSettled(object_name=name, revision=revision):
            yield ResourceInfo(
                resource_type=kind_of(name), resource_name=name, description="accepted, not settled"
            )
            yield reason_of(error, revision=str(revision))
            return
    yield reason_of(error)


def violations(errors: tuple[InvalidObject, ...]) -> BadRequest:
    """One field violation an error; the description names the object."""
    return BadRequest(
        field_violations=[
            BadRequest.FieldViolation(field=error.field, description=f"{error.object_name}: {error.reason}")
            for error in errors
        ]
    )


def reason_of(error: MeshError, **facts: str) -> ErrorInfo:
    """The kind of the error in gRPC's spelling: RowsFailed is ROWS_FAILED."""
    name = type(error).__name__
    spelled = "".join("_" + letter if letter.isupper() else letter for letter in name).strip("_").upper()
    return ErrorInfo(reason=spelled, domain=DOMAIN, metadata=facts)


def packed(part: Message) -> PackedMessage:
    """``part`` with the name of its type."""
    found = PackedMessage()
    found.Pack(part)
    return found


def kind_of(object_name: str) -> str:
    """The first word: ``service default/web`` is a service."""
    return object_name.partition(" ")[0]
