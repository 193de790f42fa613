"""``/v1/files``: what batches read and write. A key sees its own files and no others."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse

from modeltainer.batch.orders import BatchBook
from modeltainer.batch.stored_files import FileStore, StoredFile, new_id
from modeltainer.gateway.batch_shapes import Deleted, FileList, FileObject, file_object, page
from modeltainer.gateway.caller import Key
from modeltainer.gateway.errors import GatewayError
from modeltainer.gateway.upload import receive_file
from modeltainer.registry.keys import KeyRecord

if TYPE_CHECKING:
    from modeltainer.gateway.settings import BatchSettings
    from modeltainer.registry.layout import Layout

Limit = Annotated[int, Query(ge=1, le=10_000)]


async def find_file(files: FileStore, file_id: str, key: KeyRecord) -> StoredFile:
    """A file of this key.

    Raises:
        GatewayError: 404.
    """
    found = await asyncio.to_thread(files.find, file_id, key.id)
    if found is None:
        message = f"This key has no file {file_id!r}"
        raise GatewayError(404, message, "file_not_found", param="file_id")
    return found


_UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": ["batch"]},
                    },
                }
            }
        },
    }
}


def file_paths(settings: BatchSettings, layout: Layout) -> APIRouter:
    """The paths; the dispatcher has already checked the key."""
    router = APIRouter(tags=["batches"])
    files, book = FileStore(layout), BatchBook(layout)

    @router.post("/v1/files", openapi_extra=_UPLOAD)
    async def upload(request: Request, key: Key) -> FileObject:
        """Take a file: a form with ``file`` and ``purpose`` (``batch``)."""
        used = await asyncio.to_thread(files.bytes_used)
        room = settings.max_stored_bytes - used
        if room <= 0:
            raise _storage_full(used, close=True)
        with files.receiving() as part:
            form = await receive_file(request, part, min(settings.max_file_bytes, room))
            if form.too_large:
                close = not form.ended
                if room < settings.max_file_bytes:
                    raise _storage_full(used, close=close)
                raise _too_large(settings, close=close)
            if form.purpose != "batch":
                message = f"purpose must be 'batch', not {form.purpose!r}"
                raise GatewayError(400, message, "invalid_purpose", param="purpose")
            file_id = new_id("file-")
            name = Path(form.filename or "input.jsonl").name[:255]
            await asyncio.to_thread(
                files.add, file_id, part, key_id=key.id, name=name, purpose="batch"
            )
        return file_object(await find_file(files, file_id, key))

    @router.get("/v1/files")
    async def list_files(
        key: Key, purpose: str | None = None, limit: Limit = 10_000, after: str | None = None
    ) -> FileList:
        """The key's files."""
        found = await asyncio.to_thread(files.of_key, key.id)
        wanted = [file_object(one) for one in found if purpose in (None, one.purpose)]
        return FileList(**page(wanted, limit, after))

    @router.get("/v1/files/{file_id}")
    async def file(file_id: str, key: Key) -> FileObject:
        """One file's description."""
        return file_object(await find_file(files, file_id, key))

    @router.get("/v1/files/{file_id}/content", response_class=FileResponse)
    async def content(file_id: str, key: Key) -> FileResponse:
        """A file's bytes."""
        found = await find_file(files, file_id, key)
        return FileResponse(
            files.content(found.id), media_type="application/jsonl", filename=found.filename
        )

    @router.delete("/v1/files/{file_id}")
    async def delete(file_id: str, key: Key) -> Deleted:
        """Delete a file, unless a batch that is not over needs it."""
        found = await find_file(files, file_id, key)
        for batch in await asyncio.to_thread(book.all_open):
            if batch.order.input_file_id == found.id:
                message = f"{batch.order.id} reads this file; cancel it first"
                raise GatewayError(400, message, "file_in_use")
        await asyncio.to_thread(files.remove, found.id)
        return Deleted(id=found.id)

    return router


def _too_large(settings: BatchSettings, *, close: bool) -> GatewayError:
    message = f"the file is larger than {settings.max_file_bytes} bytes"
    return GatewayError(
        413, f"{message} (gateway.batches.max_file_bytes)", "file_too_large", close=close
    )


def _storage_full(used: int, *, close: bool) -> GatewayError:
    message = f"the gateway's files take {used} bytes (gateway.batches.max_stored_bytes)"
    return GatewayError(
        413, f"{message}; delete some: DELETE /v1/files/ID", "storage_full", close=close
    )
