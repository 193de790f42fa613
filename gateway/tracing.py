"""OpenTelemetry: one span for each request, sent by OTLP. An extra: ``modeltainer[otel]``.

Where to send, and with which headers, is said by the ``OTEL_EXPORTER_OTLP_*`` variables
(opentelemetry.io/docs/specs/otel/protocol/exporter). Attributes are those of the semantic
conventions for HTTP and for generative AI; no prompt and no answer is among them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from modeltainer.__about__ import __version__
from modeltainer.gateway.exchange import Exchange
from modeltainer.gateway.listening import CannotStartError

if TYPE_CHECKING:
    from opentelemetry.trace import Span

_OPERATIONS = {"chat": "chat", "completions": "text_completion", "embeddings": "embeddings"}


class Tracer:
    """Makes spans, and sends them from a thread of its own."""

    def __init__(self) -> None:
        """
        Raises:
            CannotStartError: OpenTelemetry is not installed.
        """
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace import SpanKind
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            raise CannotStartError(
                f"gateway.tracing is set, and OpenTelemetry is not installed ({error.name}); "
                "pip install 'modeltainer[otel]', or leave gateway.tracing out"
            ) from error
        about = {
            "service.name": os.environ.get("OTEL_SERVICE_NAME", "modeltainer-gateway"),
            "service.version": __version__,
        }
        self._provider = TracerProvider(resource=Resource.create(about))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("modeltainer.gateway", __version__)
        self._propagator, self._kind = TraceContextTextMapPropagator(), SpanKind.SERVER

    def begin(self, exchange: Exchange) -> Span:
        """A span within the client's trace, or the first of a new one."""
        carrier = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in exchange.fields.raw
            if name in (b"traceparent", b"tracestate")
        }
        span: Span = self._tracer.start_span(
            f"POST {exchange.route.path}",
            context=self._propagator.extract(carrier),
            kind=self._kind,
            attributes={
                "http.request.method": "POST",
                "http.route": exchange.route.path,
                "modeltainer.request_id": exchange.request_id,
            },
        )
        return span

    def end(self, exchange: Exchange, span: Span, status: int) -> None:
        """Say how it went."""
        found: dict[str, str | int | float | None] = {
            "http.response.status_code": status,
            "gen_ai.operation.name": _OPERATIONS.get(exchange.route.label, exchange.route.label),
            "gen_ai.request.model": exchange.asked or exchange.model,
            "gen_ai.response.model": exchange.model if exchange.endpoint else None,
            "modeltainer.endpoint": exchange.endpoint,
            "modeltainer.attempts": exchange.attempts,
            "modeltainer.key_id": exchange.key.id if exchange.key is not None else None,
            "modeltainer.time_to_first_byte_s": exchange.first_byte_s,
            "error.type": exchange.progress.error or None,
        }
        if exchange.meter is not None:
            tokens = exchange.meter.tokens
            found["gen_ai.usage.input_tokens"] = tokens.prompt
            found["gen_ai.usage.output_tokens"] = tokens.completion
        span.set_attributes({name: value for name, value in found.items() if value is not None})
        if status >= 500:
            from opentelemetry.trace import StatusCode

            span.set_status(StatusCode.ERROR, exchange.progress.error)
        span.end()

    def close(self) -> None:
        """Send what is left; blocks for as long as the exporter takes."""
        self._provider.shutdown()


def traceparent_of(span: Span) -> str:
    """The header that makes an engine's spans children of this one."""
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
