"""``/v1/batches``: OpenAI's Batch API; :mod:`modeltainer.batch.service` carries them out.

A key sees its own batches and no others.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Query

from modeltainer.batch.orders import Batch, BatchBook, Order
from modeltainer.batch.rows import PATHS
from modeltainer.batch.stored_files import FileStore, new_id
from modeltainer.gateway.batch_shapes import (
    BatchList,
    BatchObject,
    BatchRequest,
    batch_object,
    page,
)
from modeltainer.gateway.caller import Key
from modeltainer.gateway.errors import GatewayError
from modeltainer.gateway.file_paths import find_file
from modeltainer.registry.keys import KeyRecord

if TYPE_CHECKING:
    from modeltainer.gateway.settings import BatchSettings
    from modeltainer.registry.layout import Layout

_WINDOW = re.compile(r"([1-9]\d{0,3})(h|d)")
_SECONDS = {"h": 3600, "d": 86400}
Limit = Annotated[int, Query(ge=1, le=100)]


def batch_paths(settings: BatchSettings, layout: Layout) -> APIRouter:
    """The paths; the dispatcher has already checked the key."""
    router = APIRouter(tags=["batches"])
    files, book = FileStore(layout), BatchBook(layout)
    ordering = asyncio.Lock()

    async def own_batch(batch_id: str, key: KeyRecord) -> Batch:
        found = await asyncio.to_thread(book.find, batch_id, key.id)
        if found is None:
            message = f"This key has no batch {batch_id!r}"
            raise GatewayError(404, message, "batch_not_found", param="batch_id")
        return found

    @router.post("/v1/batches")
    async def create(body: BatchRequest, key: Key) -> BatchObject:
        """Have the rows of a file answered in the background."""
        if body.endpoint not in PATHS:
            message = f"endpoint must be one of {', '.join(PATHS)}, not {body.endpoint!r}"
            raise GatewayError(400, message, "invalid_endpoint", param="endpoint")
        source = await find_file(files, body.input_file_id, key)
        if source.purpose != "batch":
            message = f"{source.id} was not uploaded with the purpose 'batch'"
            raise GatewayError(400, message, "invalid_purpose", param="input_file_id")
        now = time.time()
        order = Order(
            id=new_id("batch_"),
            key_id=key.id,
            endpoint=body.endpoint,
            input_file_id=source.id,
            completion_window=body.completion_window,
            created_unix=now,
            expires_unix=now + window_s(body.completion_window),
            metadata=body.metadata,
        )
        async with ordering:
            known = await asyncio.to_thread(book.all_open)
            own = [one for one in known if one.order.key_id == key.id]
            if len(own) >= settings.max_open:
                message = (
                    f"The API key {key.name!r} has {len(own)} batches that are not over "
                    "(gateway.batches.max_open)"
                )
                raise GatewayError(429, message, "too_many_batches", retry_after_s=60)
            await asyncio.to_thread(book.place, order)
        return batch_object(Batch(order))

    @router.get("/v1/batches")
    async def list_batches(key: Key, limit: Limit = 20, after: str | None = None) -> BatchList:
        """The key's batches."""
        found = await asyncio.to_thread(book.of_key, key.id)
        return BatchList(**page([batch_object(one) for one in found], limit, after))

    @router.get("/v1/batches/{batch_id}")
    async def batch(batch_id: str, key: Key) -> BatchObject:
        """How far a batch is."""
        return batch_object(await own_batch(batch_id, key))

    @router.post("/v1/batches/{batch_id}/cancel")
    async def cancel(batch_id: str, key: Key) -> BatchObject:
        """Stop a batch; the answers it has are kept."""
        found = await own_batch(batch_id, key)
        if found.status not in ("validating", "in_progress", "cancelling"):
            message = f"{found.order.id} is {found.status}; there is nothing to cancel"
            raise GatewayError(400, message, "batch_is_over")
        await asyncio.to_thread(book.cancel, found.order.id)
        return batch_object(await own_batch(found.order.id, key))

    return router


def window_s(text: str) -> float:
    """Seconds of a completion window.

    Raises:
        GatewayError: 400: not hours or days.
    """
    found = _WINDOW.fullmatch(text)
    if found is None:
        message = f"completion_window must be hours or days, such as 24h or 7d, not {text!r}"
        raise GatewayError(400, message, "invalid_completion_window", param="completion_window")
    return float(int(found[1]) * _SECONDS[found[2]])
