"""Usage by key, model and user; metrics; the trace; the status page."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from modeltainer.gateway.docs_page import docs_page
from modeltainer.gateway.metrics import Metrics
from modeltainer.registry import keys, usage
from tests.engine.scripted import (
    DONE,
    END,
    STREAM_HEAD,
    Close,
    Gate,
    Pause,
    Request,
    Send,
    Step,
    piece,
    stream,
    token,
    whole,
)
from tests.gateway.setup import World

COMPOSE = Path(__file__).parents[2] / "compose"
COUNTS = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
ONLY = b'data: {"choices":[],"usage":' + json.dumps(COUNTS).encode() + b"}\n\n"


def engine_that_counts(request: Request) -> list[Step]:
    asked = json.loads(request.body).get("stream_options") or {}
    return stream(token("a"), token("b"), *([ONLY] if asked.get("include_usage") else []), DONE)


def test_a_stream_of_known_length_is_whole_without_its_counts(world: World) -> None:
    body = token("a") + ONLY + DONE
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n"
    engine = world.launch().engine
    engine.answer = [Send(head % len(body) + body)]
    with world.serving():
        for _ in range(2):
            response = world.chat(stream=True)
            assert response.content == token("a") + DONE
            assert "content-length" not in response.headers
        engine.answer = [Send(head % (len(body) + 1) + token("a")), Close()]
        assert b'data: {"error":' in world.chat(stream=True).content


def flushed(world: World) -> list[usage.UsageRecord]:
    world.settled()
    asyncio.run_coroutine_threadsafe(world.gateway.accounting.flush(), world.loop).result(5)
    return list(usage.read(world.layout))


def test_streams_are_counted_and_the_count_is_not_shown_unasked(world: World) -> None:
    engine = world.launch().engine
    engine.answer = engine_that_counts
    with world.serving():
        plain = token("a") + token("b") + DONE
        assert world.chat(stream=True, user="ann").content == plain
        assert world.chat(stream=True, stream_options={"x": 1}).content == plain
        assert json.loads(engine.requests[1].body)["stream_options"]["x"] == 1
        asked = world.chat(stream=True, stream_options={"include_usage": True})
        assert asked.content == token("a") + token("b") + ONLY + DONE
        engine.answer = whole({"usage": COUNTS})
        world.chat()
        assert b"stream_options" not in engine.requests[-1].body
        records = flushed(world)
        assert [(one.prompt_tokens, one.completion_tokens) for one in records] == [(7, 3)] * 4
        assert records[0].user == "ann"
        assert records[0].key_name == "test"
        assert all(one.whole and one.status == 200 for one in records)
        text = world.client.get("/metrics").text
        assert 'modeltainer_gateway_tokens_total{model="m",kind="prompt"} 28\n' in text
        for file in world.layout.usage.iterdir():
            assert file.stat().st_mode & 0o777 == 0o600


def test_switched_off_nothing_is_asked_or_written(world: World) -> None:
    engine = world.launch().engine
    engine.answer = engine_that_counts
    with world.serving(usage=False):
        world.chat(stream=True)
        assert b"stream_options" not in engine.requests[0].body
        assert not flushed(world)


@pytest.mark.parametrize("leaves", [True, False])
def test_streams_that_break_off_are_counted_as_such(world: World, leaves: bool) -> None:
    end: Step = Gate() if leaves else Close()
    engine = world.launch().engine
    engine.answer = [Send(STREAM_HEAD), piece(token("a")), piece(token("b")), Pause(0.05), end]
    with world.serving():
        if leaves:
            with world.raw() as connection:
                connection.sendall(world.raw_request(b'{"model":"m","stream":true}'))
                got = b""
                while token("b") not in got:
                    got += connection.recv(4096)
        else:
            assert b"broke off" in world.chat(stream=True).content
        [record] = flushed(world)
        assert (record.whole, record.events, record.prompt_tokens) == (False, 2, None)
        assert "modeltainer_gateway_uncounted_total" in world.client.get("/metrics").text
    total = usage.totals([record], "model")["m"]
    assert (total.requests, total.uncounted, total.uncounted_events) == (1, 1, 2)


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize", "/v1/messages/count_tokens"])
def test_what_only_looks_at_tokens_is_counted_as_none(world: World, path: str) -> None:
    engine = world.launch().engine
    with world.serving():
        for answer in ({"tokens": [1, 2]}, {"usage": COUNTS}):
            engine.answer = whole(answer)
            assert world.client.post(path, json={"model": "m", "prompt": "x"}).json() == answer
        engine.answer = whole({"error": {"message": "no"}}, "400 Bad")
        assert world.client.post(path, json={"model": "m"}).status_code == 400
        records = flushed(world)
        assert [(one.prompt_tokens, one.completion_tokens) for one in records] == [(0, 0)] * 3
        assert "uncounted_total{" not in world.client.get("/metrics").text
    total = usage.totals(records, "model")["m"]
    assert (total.requests, total.uncounted) == (3, 0)


def test_sums(world: World) -> None:
    records = [
        usage.UsageRecord(86_400.0 * day, f"k{day % 2}", "n", model, "chat", 200, 1.0, 5, 2)
        for day in range(4)
        for model in ("a", "b")
    ]
    usage.append(world.layout, "h", records)
    with next(world.layout.usage.iterdir()).open("ab") as file:
        file.write(b'{"half":')
    assert len(list(usage.read(world.layout))) == 8
    assert len(list(usage.read(world.layout, 86_400.0 * 2))) == 4
    by_model = usage.totals(records, "model")
    assert {name: one.prompt_tokens for name, one in by_model.items()} == {"a": 20, "b": 20}
    assert list(usage.totals(records, "key")) == ["n (k0)", "n (k1)"]
    assert next(iter(usage.totals(records, "day"))) == "1970-01-01"
    assert list(usage.totals(records, "user")) == ["-"]


def sample(text: str, name: str) -> dict[str, float]:
    found = re.findall(rf"^modeltainer_gateway_{name}\{{(.*)\}} (\S+)$", text, re.MULTILINE)
    return {labels: float(value) for labels, value in found}


def test_metrics_after_some_requests(world: World) -> None:
    engine = world.launch().engine
    apart = stream(token("a"), token("b"), DONE)
    engine.answer = [*apart[:2], Pause(0.02), *apart[2:]]
    _, limited = keys.create(world.layout, "limited", ["m"])
    with world.serving():
        world.chat(stream=True)
        for number in range(20):
            world.chat(f"made-up-{number}")
        world.settled()
        response = world.client.get("/metrics")
        assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
        text = response.text
        requests = sample(text, "requests_total")
        assert requests['route="chat",model="m",status="200"'] == 1
        assert requests['route="chat",model="other",status="404"'] == 20
        assert len(requests) == 2
        assert sample(text, "first_token_seconds_count")['route="chat",model="m"'] == 1
        assert sample(text, "chunk_gap_seconds_count")['model="m"'] >= 1
        assert sample(text, "overhead_seconds_count")[""] == 1
        assert sample(text, "in_flight") == {"": 0}
        assert list(sample(text, "breaker_state").values()) == [0]
        assert 0 <= sample(text, "registry_age_seconds")[""] < 5
        bearer = {"authorization": f"Bearer {limited}"}
        assert world.client.get("/metrics", headers=bearer).status_code == 403


@pytest.mark.parametrize("begins", [True, False], ids=["from the start", "later"])
def test_the_registrys_age_grows_while_its_folder_cannot_be_listed(
    world: World, begins: bool
) -> None:
    world.launch()
    folder, away = world.layout.endpoints, world.layout.root / "away"

    def lose() -> None:
        folder.rename(away)
        folder.touch()

    def age_s() -> float:
        return sample(world.client.get("/metrics").text, "registry_age_seconds")[""]

    if begins:
        lose()
    with world.serving():
        if not begins:
            assert world.chat().status_code == 200
            lose()
        World.until(lambda: age_s() > 2, within=20)
        if not begins:
            assert world.chat().status_code == 200, "it goes on with what it knew"
        assert str(folder) in [one["file"] for one in world.log("registry_problem")]
        folder.unlink()
        World.until(lambda: age_s() > 4, within=20)
        away.rename(folder)
        World.until(lambda: age_s() < 2, within=20)
        World.until(lambda: world.chat().status_code == 200, within=20)


def test_text_format_is_whole(world: World) -> None:
    world.launch()
    with world.serving():
        world.chat()
        world.settled()
        lines = world.client.get("/metrics").text.splitlines()
    pattern = r'modeltainer_gateway_\w+\{(\w+="(\\.|[^"\\])*",?)*\} [-+0-9.e]+'
    assert all(re.fullmatch(pattern, line) for line in lines if not line.startswith("#"))
    kinds = [line for line in lines if line.startswith("# TYPE")]
    assert len(kinds) == len(set(kinds)) > 15


def test_label_values_are_escaped() -> None:
    metrics = Metrics()
    metrics.tokens.add('a"b\\c\nd', "prompt")
    assert r'model="a\"b\\c\nd"' in metrics.render()


def test_alerts_are_on_metrics_that_exist(world: World) -> None:
    file = COMPOSE / "prometheus/alerts.yml"
    [group] = yaml.safe_load(file.read_text())["groups"]
    asked = set(re.findall(r"modeltainer_\w+", " ".join(rule["expr"] for rule in group["rules"])))
    with world.serving():
        assert len(asked) >= 7
        assert asked <= world.gateway.metrics.names
    for rule in group["rules"]:
        assert rule["for"]
        assert rule["annotations"]["description"]


def test_the_dashboard_shows_metrics_that_exist(world: World) -> None:
    file = COMPOSE / "grafana/dashboards/modeltainer.json"
    dashboard: dict[str, Any] = json.loads(file.read_text())
    shown = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"modeltainer_\w+", target["expr"])
    }
    with world.serving():
        known = world.gateway.metrics.names
    assert shown <= known
    bases = {re.sub("_(sum|count)$", "_bucket", name) for name in known}
    assert {re.sub("_(sum|count)$", "_bucket", name) for name in shown} == bases


def test_the_trace_is_passed_on(world: World) -> None:
    engine = world.launch().engine
    good = [f"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0{flag}" for flag in (1, 0)]
    with world.serving():
        for given in (*good, "00-" + "0" * 32 + "-b7ad6b7169203331-01", "x", ""):
            world.client.post(
                "/v1/completions",
                json={"model": "m"},
                headers={"traceparent": given, "tracestate": "a=b"},
            )
            [sent] = [v for n, v in engine.requests[-1].headers if n.lower() == "traceparent"]
            assert (sent == given) is (given in good)
            if given not in good:  # and nobody has recorded it
                assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-00", sent)
        assert engine.requests[0].header("tracestate") == "a=b"


def test_the_status_page(world: World) -> None:
    world.launch("<b>m")
    _, limited = keys.create(world.layout, "limited", ["m"])
    with world.serving():
        page = world.client.get("/admin", auth=("me", world.key))
        assert page.headers["content-type"].startswith("text/html")
        assert "&lt;b&gt;m" in page.text
        assert "<b>m" not in page.text
        world.client.headers.pop("authorization")
        refused = world.client.get("/admin")
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Basic")
        assert world.client.get("/admin", auth=("me", limited)).status_code == 403
        broken = world.client.get("/admin", headers={"authorization": "Basic x"})
        assert broken.status_code == 401


@pytest.mark.parametrize("path", ["/admin", "/docs"])
def test_pages_are_for_browsers_and_load_nothing(world: World, path: str) -> None:
    with world.serving():
        page = world.client.get(path, auth=("me", world.key))
        assert page.status_code == 200
        assert page.headers["content-type"].startswith("text/html")
        assert page.headers["content-security-policy"].startswith("default-src 'none'; style-src")
        for loads in ("<script", "<link", "<img", "src=", "url(", "//"):
            assert loads not in page.text
        world.client.headers.pop("authorization")
        refused = world.client.get(path)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Basic")
        plain = world.client.get("/openapi.json")
        assert plain.headers["www-authenticate"] == "Bearer"


def test_the_page_of_the_api_has_all_of_it(world: World) -> None:
    _, limited = keys.create(world.layout, "limited", ["m"])
    with world.serving():
        document = world.client.get("/openapi.json").json()
        page = world.client.get("/docs", auth=("me", limited)).text
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                heading = f'<h2 id="{operation["operationId"]}">{method.upper()} {path}</h2>'
                assert heading in page
        for name, schema in document["components"]["schemas"].items():
            assert f'<h2 id="schema-{name}">{name}</h2>' in page
            for field in schema["properties"]:
                assert f'<td class="n">{field}</td>' in page
        links = set(re.findall('href="#(.*?)"', page))
        assert links <= set(re.findall('id="(.*?)"', page))
        assert "schema-ChatRequest" in links
        assert 'list of <a href="#schema-Message">Message</a>' in page


def test_names_in_the_api_are_not_markup() -> None:
    operation = {
        "operationId": "a<b",
        "summary": "a<b",
        "description": "a<b",
        "parameters": [
            {"name": "a<b", "in": "a<b", "required": False, "schema": {"enum": ["a<b"]}}
        ],
        "responses": {"a<b": {"description": "a<b", "content": {"a<b": {}}}},
    }
    field = {"type": "a<b", "default": "a<b", "description": "a<b"}
    inline = {"properties": {"a<b": {"type": "array", "items": {"$ref": "a<b"}}}}
    schema = {"description": "a<b", "properties": {"a<b": field, "more": inline}}
    document = {
        "info": {"title": "a<b", "version": "a<b"},
        "paths": {"a<b": {"get": operation}},
        "components": {"schemas": {"a<b": schema}},
    }
    page = docs_page(document)
    assert page.count("a&lt;b") > 20
    assert "a<b" not in page.lower()


def test_memory_does_not_grow_with_a_stream(world: World) -> None:
    import tracemalloc

    engine = world.launch().engine
    event = token("x" * 50)
    engine.answer = [
        Send(STREAM_HEAD),
        *[piece(event * 100) for _ in range(1000)],
        piece(DONE),
        END,
    ]
    with world.serving():

        def read() -> int:
            with world.client.stream(
                "POST", "/v1/completions", json={"model": "m", "stream": True}
            ) as response:
                return sum(len(data) for data in response.iter_raw())

        read()
        tracemalloc.start()
        assert read() == 100_000 * len(event) + len(DONE)
        held, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert held < 2_000_000
        assert peak < 8_000_000  # of 20 MB
