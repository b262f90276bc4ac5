"""What requests are made of: how errors call them, their queries, the kinds of patches, and answers decoded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from meshd.errors import ApiServerError
from meshd.kubeapi.resources import Resource
from meshd.kubeapi.transport import Question

T = TypeVar("T")

MERGE = "application/merge-patch+json"
JSON = "application/json-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"


def what(verb: str, resource: Resource, namespace: str, name: str = "", subresource: str = "") -> str:
    """``get services default/web``: how an error names a request."""
    target = "/".join(part for part in (namespace, name) if part)
    asked = f"{resource}/{subresource}" if subresource else str(resource)
    return f"{verb} {asked} {target}".rstrip()


def name_in(body: object) -> str:
    """The name of an object that is about to be made; empty: it has none, or a generated one."""
    metadata = body.get("metadata") if isinstance(body, Mapping) else None
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    return name if isinstance(name, str) else ""


def selectors(labels: str, fields: str) -> dict[str, str]:
    """The query of label and field selectors."""
    return {name: text for name, text in (("labelSelector", labels), ("fieldSelector", fields)) if text}


def writing(dry_run: bool, field_manager: str) -> dict[str, str]:
    """The query of a request that changes something."""
    query = {"fieldManager": field_manager} if field_manager else {}
    if dry_run:
        query["dryRun"] = "All"
    return query


def decoded(body: bytes, into: type[T], question: Question) -> T:
    """``body`` as ``into``. Raises ApiServerError: it is something else."""
    try:
        return msgspec.json.decode(body, type=into)
    except msgspec.DecodeError as error:
        raise ApiServerError(
            question.what, 200, "", f"the answer is not what was expected: {error}"
        ) from error
