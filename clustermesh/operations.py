"""What is stored and what a transaction consists of: own types on our side, etcd's messages on the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from clustermesh.etcdapi.etcdserverpb import rpc_pb2
from clustermesh.etcdapi.mvccpb import kv_pb2


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One stored key. ``lease`` 0 means it stays until deleted; revisions are the store's.

    ``value`` None: the value is larger than the receive limit and was left where it is.
    """

    key: str
    value: bytes | None
    create_revision: int
    mod_revision: int
    lease: int


@dataclass(frozen=True, slots=True)
class Listing:
    """All keys under a prefix as they were at ``revision``, in key order."""

    revision: int
    items: tuple[KeyValue, ...]


@dataclass(frozen=True, slots=True)
class Compare:
    """A condition of a transaction: ``target`` of ``key`` equals (or, ``equal`` False, differs from)
    ``operand``.

    create, mod and version are 0 for a key that is absent.
    """

    key: str
    target: Literal["create", "mod", "version", "value", "lease"]
    operand: int | bytes
    equal: bool = True


@dataclass(frozen=True, slots=True)
class Put:
    """Write ``value`` under ``lease`` (0: none).

    ``value`` None keeps the stored value and changes the lease.
    """

    key: str
    value: bytes | None
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete the key; an absent one is no error."""

    key: str


@dataclass(frozen=True, slots=True)
class Get:
    """Read the key."""

    key: str


Operation = Put | Delete | Get


@dataclass(frozen=True, slots=True)
class TxnResult:
    """Whether the conditions held, the store revision then, and ``found``: per operation what a Get read,
    else None.
    """

    succeeded: bool
    revision: int
    found: tuple[KeyValue | None, ...]


def key_value_from_wire(kv: kv_pb2.KeyValue, *, left_out: bool = False) -> KeyValue:
    key = kv.key.decode("utf-8", "backslashreplace")
    return KeyValue(key, None if left_out else kv.value, kv.create_revision, kv.mod_revision, kv.lease)


def found_from_wire(response: rpc_pb2.ResponseOp) -> KeyValue | None:
    kvs = response.response_range.kvs if response.HasField("response_range") else ()
    return key_value_from_wire(kvs[0]) if kvs else None


def compare_to_wire(condition: Compare) -> rpc_pb2.Compare:
    result = rpc_pb2.Compare.EQUAL if condition.equal else rpc_pb2.Compare.NOT_EQUAL
    compare = rpc_pb2.Compare(result=result, key=condition.key.encode())
    match condition.target, condition.operand:
        case "create", int(operand):
            compare.target, compare.create_revision = rpc_pb2.Compare.CREATE, operand
        case "mod", int(operand):
            compare.target, compare.mod_revision = rpc_pb2.Compare.MOD, operand
        case "version", int(operand):
            compare.target, compare.version = rpc_pb2.Compare.VERSION, operand
        case "lease", int(operand):
            compare.target, compare.lease = rpc_pb2.Compare.LEASE, operand
        case "value", bytes(operand):
            compare.target, compare.value = rpc_pb2.Compare.VALUE, operand
        case _:
            raise TypeError(f"{condition.target} cannot be compared with {condition.operand!r}")
    return compare


def operation_to_wire(operation: Operation) -> rpc_pb2.RequestOp:
    key = operation.key.encode()
    match operation:
        case Put(value=None):
            put = rpc_pb2.PutRequest(key=key, lease=operation.lease, ignore_value=True)
            return rpc_pb2.RequestOp(request_put=put)
        case Put():
            put = rpc_pb2.PutRequest(key=key, value=operation.value or b"", lease=operation.lease)
            return rpc_pb2.RequestOp(request_put=put)
        case Delete():
            return rpc_pb2.RequestOp(request_delete_range=rpc_pb2.DeleteRangeRequest(key=key))
        case Get():
            return rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=key))
