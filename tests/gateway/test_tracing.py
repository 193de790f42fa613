"""Spans as a collector of OpenTelemetry's gets them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from modeltainer.gateway.listening import CannotStartError
from tests.engine.scripted import DONE, stream, token
from tests.gateway.setup import World

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """Takes spans on a loopback port."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.services: set[str] = set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                request = ExportTraceServiceRequest.FromString(body)
                for resource in request.resource_spans:
                    names = {
                        one.key: one.value.string_value for one in resource.resource.attributes
                    }
                    collector.services.add(names["service.name"])
                    for scope in resource.scope_spans:
                        collector.spans += scope.spans
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing: the test's output is not the place."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    made = Collector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", made.url)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    yield made
    made.close()


def attributes(span: Any) -> dict[str, Any]:
    found = {}
    for one in span.attributes:
        kind = one.value.WhichOneof("value")
        found[one.key] = getattr(one.value, kind)
    return found


def test_a_span_is_the_clients_child_and_the_engines_parent(
    world: World, collector: Collector
) -> None:
    launched = world.launch()
    usage = b'data: {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 1}}\n\n'
    launched.engine.answer = stream(token("a"), usage, DONE)
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "a=1"}
    body = {"model": "m", "messages": [{"role": "user", "content": "secret"}], "stream": True}
    with world.serving(tracing=True):
        answer = world.client.post("/v1/chat/completions", json=body, headers=headers)
        assert answer.status_code == 200
        World.until(lambda: bool(collector.spans))
    [span] = collector.spans
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert span.name == "POST /v1/chat/completions"
    sent = launched.engine.requests[0].header("traceparent")
    assert sent == f"00-{TRACE}-{span.span_id.hex()}-01"
    said = attributes(span)
    assert said["gen_ai.request.model"] == said["gen_ai.response.model"] == "m"
    assert said["gen_ai.usage.input_tokens"] == 5
    assert said["gen_ai.usage.output_tokens"] == 1
    assert said["http.response.status_code"] == 200
    assert said["modeltainer.request_id"] == answer.headers["x-request-id"]
    assert said["modeltainer.attempts"] == 1
    assert "secret" not in str(span)
    assert collector.services == {"modeltainer-gateway"}


@pytest.mark.parametrize(("sampler", "sampled"), [(None, 0), ("always_on", 1), ("always_off", 0)])
def test_a_new_trace_is_marked_as_sampled_only_if_it_is(
    world: World,
    collector: Collector,
    monkeypatch: pytest.MonkeyPatch,
    sampler: str | None,
    sampled: int,
) -> None:
    if sampler is not None:
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    engine = world.launch().engine
    with world.serving(tracing=sampler is not None):
        assert world.chat().status_code == 200
    sent = engine.requests[0].header("traceparent")
    assert sent is not None
    assert int(sent.rpartition("-")[2], 16) & 1 == sampled
    assert len(collector.spans) == sampled


def test_failures_are_marked_and_what_is_left_is_sent_at_the_end(
    world: World, collector: Collector
) -> None:
    launched = world.launch()
    launched.engine.stop()
    with world.serving(tracing=True):
        assert world.chat().status_code in (404, 503)
        assert world.chat("nobody").status_code == 404
    statuses = sorted(attributes(span)["http.response.status_code"] for span in collector.spans)
    assert len(statuses) == 2
    assert all(
        (span.status.code == 2) is (attributes(span)["http.response.status_code"] >= 500)
        for span in collector.spans
    )


def test_a_collector_that_is_away_costs_no_request(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    world.launch()
    with world.serving(tracing=True):
        assert [world.chat().status_code for _ in range(5)] == [200] * 5


def test_without_the_package_it_says_what_to_install(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    said = r"pip install 'modeltainer\[otel\]'"
    with pytest.raises(CannotStartError, match=said), world.serving(tracing=True):
        pass
