"""The control paths: models, health, readiness, docs, status. FastAPI; never on the hot path."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.responses import Response

from modeltainer.__about__ import __version__
from modeltainer.gateway.admin_page import admin_page
from modeltainer.gateway.api_schema import with_proxied
from modeltainer.gateway.batch_paths import batch_paths
from modeltainer.gateway.caller import Key
from modeltainer.gateway.docs_page import docs_page
from modeltainer.gateway.errors import GatewayError
from modeltainer.gateway.file_paths import file_paths
from modeltainer.gateway.html_page import Page
from modeltainer.gateway.routing import unknown_model
from modeltainer.registry.keys import KeyRecord

if TYPE_CHECKING:
    from modeltainer.gateway.app import Gateway


class ModelCard(BaseModel):
    """One model, as OpenAI's API lists it, with what the gateway knows beside."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    id: str
    """The name to put into ``model`` of a request."""
    object: str = "model"
    created: int
    """When the gateway started (seconds since 1970)."""
    owned_by: str = "modeltainer"
    state: str
    """``ready`` when an endpoint serves it now, ``queued``, ``starting``, ``pulling``, ``loading``
    or ``draining`` when that is how far its launch has come, else ``not-ready``."""
    replicas: int
    """Endpoints that serve it now."""
    alias_of: str | None = None
    """The model's own name, where this one is an alias."""
    split: dict[str, int] | None = None
    """Models that answer under this name, by weight."""


class ModelList(BaseModel):
    """All models that the key may use."""

    object: str = "list"
    data: list[ModelCard]


class Health(BaseModel):
    """A state in one word."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    status: str
    """``ok`` (health); ``ready``, ``starting`` or ``draining`` (ready)."""


def control_app(gateway: Gateway) -> FastAPI:
    """Make the FastAPI application of one gateway. The dispatcher has already checked the key."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await gateway.start()
        yield
        await gateway.stop()

    app = FastAPI(
        title="ModelTainer gateway",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    _answer_errors(app)

    def card(name: str) -> ModelCard:
        table = gateway.endpoints.table
        behind = table.models_of(name)
        replicas = sum(len(table.candidates(model)) for model in behind)
        arms = table.splits.get(name)
        return ModelCard(
            id=name,
            created=int(gateway.started_unix),
            state="ready" if replicas else gateway.model_state(behind[0]),
            replicas=replicas,
            alias_of=behind[0] if arms is None and behind[0] != name else None,
            split=None if arms is None else dict(arms),
        )

    def allowed(key: KeyRecord) -> list[str]:
        table = gateway.endpoints.table
        return [
            name
            for name in table.names
            if any(key.allows_by(name, model) for model in table.models_of(name))
        ]

    @app.get("/health")
    async def health() -> Health:
        """The process runs."""
        return Health(status="ok")

    @app.get("/ready")
    async def ready(response: Response) -> Health:
        """The registry is read and new requests are taken; else 503."""
        if gateway.ready:
            return Health(status="ready")
        response.status_code = 503
        return Health(status="draining" if gateway.proxy.draining else "starting")

    @app.get("/v1/models")
    async def models(key: Key) -> ModelList:
        """Every model and alias that the key may use, up or not."""
        gateway.standing.refresh()
        return ModelList(data=[card(name) for name in allowed(key)])

    @app.get("/v1/models/{name:path}")
    async def model(name: str, key: Key) -> ModelCard:
        """One model; its name may have slashes."""
        names = allowed(key)
        if name not in names:
            raise GatewayError(404, unknown_model(name, names), "model_not_found", param="model")
        return card(name)

    def unrestricted(key: Key) -> None:
        if key.models:
            raise GatewayError(
                403, f"The API key {key.name!r} may not see the status", "not_allowed"
            )

    @app.get("/admin/status", dependencies=[Depends(unrestricted)])
    async def status() -> dict[str, Any]:
        """Endpoints, requests in flight, problems. For keys without a list of models."""
        return gateway.status()

    @app.get("/admin", dependencies=[Depends(unrestricted)], response_class=Page)
    async def admin() -> str:
        """The status as a page. A browser asks for a name and a password: the key is the
        password."""
        gateway.standing.refresh()
        cards = [card(name) for name in gateway.endpoints.table.names]
        return admin_page(gateway.status(), cards, gateway.standing.known)

    @app.get("/docs", response_class=Page, include_in_schema=False)
    async def docs() -> str:
        return docs_page(app.openapi())

    @app.get("/metrics", dependencies=[Depends(unrestricted)], response_class=PlainTextResponse)
    async def metrics() -> Response:
        """For Prometheus, which sends a key as ``authorization: credentials``."""
        kind = "text/plain; version=0.0.4; charset=utf-8"
        return Response(gateway.render_metrics(), media_type=kind)

    if gateway.settings.batches.enabled:
        for paths in (file_paths, batch_paths):
            app.include_router(paths(gateway.settings.batches, gateway.layout))
    _describe_proxied(app)
    return app


def _describe_proxied(app: FastAPI) -> None:
    own = app.openapi

    def whole() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = with_proxied(own())
        return app.openapi_schema

    app.openapi = whole  # type: ignore[method-assign]


def _answer_errors(app: FastAPI) -> None:
    async def known(request: Request, error: Exception) -> Response:
        assert isinstance(error, GatewayError)
        return _response(request, error)

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        allow = (error.headers or {}).get("allow") or (error.headers or {}).get("Allow")
        if error.status_code == 404:
            message, code = f"There is no path {request.url.path!r} here", "path_not_found"
        elif error.status_code == 405:
            message = f"{request.url.path} takes {allow or 'GET'}, not {request.method}"
            code = "method_not_allowed"
        else:
            message, code = str(error.detail), "http_error"
        return _response(request, GatewayError(error.status_code, message, code, allow=allow))

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        message = f"{where}: {first['msg']}" if where else str(first["msg"])
        return _response(
            request, GatewayError(400, message, "invalid_request", param=where or None)
        )

    async def fault(request: Request, _: Exception) -> Response:
        message = "the gateway failed on this request"
        return _response(request, GatewayError(500, message, "internal_error"))

    app.add_exception_handler(GatewayError, known)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, fault)


def _response(request: Request, error: GatewayError) -> Response:
    rid = getattr(request.state, "request_id", "")
    headers = {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in error.headers(rid, 0)
        if name not in (b"content-type", b"content-length")
    }
    return JSONResponse(
        {
            "error": {
                "message": error.message,
                "type": error.type,
                "param": error.param,
                "code": error.code,
            }
        },
        status_code=error.status,
        headers=headers,
    )
