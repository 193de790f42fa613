"""What ``/v1/files`` and ``/v1/batches`` take and answer.

Shapes: https://platform.openai.com/docs/api-reference/files and …/batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from modeltainer.batch.orders import Batch
from modeltainer.batch.stored_files import StoredFile
from modeltainer.gateway.errors import GatewayError

MAX_METADATA = 16
"""Pairs, as OpenAI has it."""
Name = Annotated[str, Field(max_length=64)]
Value = Annotated[str, Field(max_length=512)]


class FileObject(BaseModel):
    """One file. Times in seconds since 1970."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"


class Deleted(BaseModel):
    """A file that is gone."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class BatchRequest(BaseModel):
    """What to do with the rows of a file."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    input_file_id: str
    endpoint: str
    """The path that all rows ask."""
    completion_window: str = "24h"
    """Hours (``24h``) or days (``7d``); rows that have no answer then are given up."""
    metadata: Annotated[dict[Name, Value], Field(max_length=MAX_METADATA)] | None = None


class RequestCounts(BaseModel):
    """Rows."""

    total: int
    completed: int
    failed: int


class BatchFlaw(BaseModel):
    """Why an input file cannot be used."""

    code: str
    message: str
    line: int | None
    param: None = None


class BatchErrors(BaseModel):
    """All of them that were found."""

    object: Literal["list"] = "list"
    data: list[BatchFlaw]


class BatchObject(BaseModel):
    """One batch. Times in seconds since 1970."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: str
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    metadata: dict[str, str] | None


class FileList(BaseModel):
    """A page of files, the newest first."""

    object: Literal["list"] = "list"
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class BatchList(BaseModel):
    """A page of batches, the newest first."""

    object: Literal["list"] = "list"
    data: list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


_Item = TypeVar("_Item", FileObject, BatchObject)


def page(items: Sequence[_Item], limit: int, after: str | None) -> dict[str, Any]:
    """The fields of a list's page.

    Raises:
        GatewayError: 400: there is no ``after``.
    """
    start = 0
    if after is not None:
        ids = [one.id for one in items]
        if after not in ids:
            raise GatewayError(400, f"There is no {after!r} to go on after", "invalid_cursor")
        start = ids.index(after) + 1
    chosen = items[start : start + limit]
    return {
        "data": chosen,
        "first_id": chosen[0].id if chosen else None,
        "last_id": chosen[-1].id if chosen else None,
        "has_more": start + limit < len(items),
    }


def file_object(one: StoredFile) -> FileObject:
    """As clients see it."""
    return FileObject(
        id=one.id,
        bytes=one.bytes,
        created_at=int(one.created_unix),
        filename=one.filename,
        purpose=one.purpose,
    )


def batch_object(one: Batch) -> BatchObject:
    """As clients see it."""
    order, state = one.order, one.state

    def ended_as(status: str) -> int | None:
        return _whole(state.ended_unix) if state.status == status else None

    flaws = [BatchFlaw(code=it.code, message=it.message, line=it.line) for it in state.flaws]
    return BatchObject(
        id=order.id,
        endpoint=order.endpoint,
        errors=BatchErrors(data=flaws) if flaws else None,
        input_file_id=order.input_file_id,
        completion_window=order.completion_window,
        status=one.status,
        output_file_id=state.output_file_id if state.ended_unix else None,
        error_file_id=state.error_file_id if state.ended_unix else None,
        created_at=int(order.created_unix),
        in_progress_at=_whole(state.begun_unix),
        expires_at=int(order.expires_unix),
        finalizing_at=_whole(state.finalizing_unix),
        completed_at=ended_as("completed"),
        failed_at=ended_as("failed"),
        expired_at=ended_as("expired"),
        cancelling_at=_whole(one.cancel_unix),
        cancelled_at=ended_as("cancelled"),
        request_counts=RequestCounts(
            total=state.total, completed=state.completed, failed=state.failed
        ),
        metadata=None if order.metadata is None else dict(order.metadata),
    )


def _whole(unix: float | None) -> int | None:
    return None if unix is None else int(unix)
