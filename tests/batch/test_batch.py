"""Batches: exactly one answer a row, whatever fails, ends or comes back in between."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeltainer.batch.results import Results
from modeltainer.batch.rows import BadBatchError, BatchRow, read_rows
from modeltainer.batch.run import Limits, Progress, run

Answer = Callable[[dict[str, Any], int], tuple[int, Any]]
"""From a request's body and how often it came, to a status and a body; status 0 hangs up."""

QUICK = Limits(concurrency=8, tries=4, patience_s=5)


@contextmanager
def server(answer: Answer) -> Iterator[str]:
    """An HTTP server that answers as the test says; yields its URL."""
    seen: Counter[str] = Counter()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                seen[json.dumps(body)] += 1
                count = seen[json.dumps(body)]
            status, reply = answer(body, count)
            if status == 0:
                self.connection.close()
                self.close_connection = True
                return
            data = json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{found.server_port}"
    finally:
        found.shutdown()
        found.server_close()


def echo(body: dict[str, Any]) -> tuple[int, Any]:
    return 200, {"text": body["prompt"], "usage": {"completion_tokens": 1}}


def rows(count: int) -> list[BatchRow]:
    return [
        BatchRow(f"r{number}", "/v1/completions", {"model": "m", "prompt": str(number)})
        for number in range(count)
    ]


def carry_out(
    todo: Sequence[BatchRow], output: Path, url: str, limits: Limits = QUICK
) -> tuple[Progress, Results]:
    async def go() -> tuple[Progress, Results]:
        with Results(output) as results:
            async with httpx.AsyncClient(base_url=url, timeout=10) as client:
                return await run(todo, results, client, limits), results

    return asyncio.run(go())


def answers(output: Path) -> dict[str, Any]:
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert len({line["custom_id"] for line in lines}) == len(lines)  # one answer a row
    return {line["custom_id"]: line["response"]["body"]["text"] for line in lines}


def test_every_row_is_answered_once(tmp_path: Path) -> None:
    with server(lambda body, count: echo(body)) as url:
        progress, _ = carry_out(rows(200), tmp_path / "out.jsonl", url)
    assert answers(tmp_path / "out.jsonl") == {f"r{n}": str(n) for n in range(200)}
    assert (progress.done, progress.failed, progress.tokens) == (200, 0, 200)


def test_passing_faults_are_tried_again(tmp_path: Path) -> None:
    def flaky(body: dict[str, Any], count: int) -> tuple[int, Any]:
        number = int(body["prompt"])
        if count <= number % 3:
            return [(500, {}), (0, None), (429, {})][number % 3]
        return echo(body)

    with server(flaky) as url:
        progress, _ = carry_out(rows(30), tmp_path / "out.jsonl", url)
    assert len(answers(tmp_path / "out.jsonl")) == 30
    assert progress.retries == sum(number % 3 for number in range(30))


def test_a_row_that_cannot_succeed_fails_alone_and_is_tried_by_the_next_run(
    tmp_path: Path,
) -> None:
    mended = threading.Event()

    def picky(body: dict[str, Any], count: int) -> tuple[int, Any]:
        if body["prompt"] == "3" and not mended.is_set():
            return 400, {"error": {"message": "too long"}}
        return echo(body)

    output = tmp_path / "out.jsonl"
    with server(picky) as url:
        progress, results = carry_out(rows(5), output, url)
        assert (progress.done, progress.failed) == (4, 1)
        [failure] = results.failures_path.read_text().splitlines()
        assert json.loads(failure)["custom_id"] == "r3"
        assert "too long" in json.loads(failure)["error"]["message"]
        mended.set()
        progress, results = carry_out(rows(5), output, url)
    assert (progress.done, progress.failed) == (5, 0)
    assert not results.failures_path.exists()
    assert len(answers(output)) == 5


def test_a_model_that_is_not_up_yet_is_waited_for(tmp_path: Path) -> None:
    with server(lambda body, count: (503, {}) if count < 4 else echo(body)) as url:
        progress, _ = carry_out(
            rows(2), tmp_path / "out.jsonl", url, Limits(concurrency=2, tries=1, patience_s=30)
        )
    assert progress.done == 2


def test_a_run_that_is_ended_goes_on_where_it_was(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    asked: Counter[str] = Counter()
    half_way = threading.Event()

    def slow(body: dict[str, Any], count: int) -> tuple[int, Any]:
        asked[body["prompt"]] += 1
        if len(asked) > 20:
            half_way.set()
        return echo(body)

    async def break_off(url: str) -> None:
        with Results(output) as results:
            async with httpx.AsyncClient(base_url=url) as client:
                task = asyncio.create_task(run(rows(500), results, client, QUICK))
                await asyncio.to_thread(half_way.wait)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

    with server(slow) as url:
        asyncio.run(break_off(url))
        finished = set(answers(output))
        assert 0 < len(finished) < 500
        progress, _ = carry_out(rows(500), output, url)
    assert progress.done == 500
    assert set(answers(output)) == {f"r{n}" for n in range(500)}
    # What was finished was not asked for again.
    assert all(asked[custom_id[1:]] == 1 for custom_id in finished)


@given(st.integers(1, 200))
def test_a_line_that_a_crash_cut_off_is_done_again(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    output = tmp_path_factory.mktemp("cut") / "out.jsonl"
    with Results(output) as results:
        results.add("a", 200, "", {"text": "whole"})
        results.add("b", 200, "", {"text": "to be cut"})
    whole = output.read_bytes()
    second = whole.index(b"\n") + 1
    output.write_bytes(whole[: max(second, len(whole) - cut)])
    with Results(output) as results:
        assert results.done == {"a"}
        results.add("b", 200, "", {"text": "again"})
    assert answers(output) == {"a": "whole", "b": "again"}


def test_a_full_disk_ends_the_run_and_keeps_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.jsonl"
    write, calls = os.write, []

    def filling(descriptor: int, data: bytes) -> int:
        calls.append(data)
        if len(calls) > 5:
            raise OSError(28, "No space left on device")
        # The last write that fits takes only a part.
        return write(descriptor, data if len(calls) < 5 else data[:10])

    with server(lambda body, count: echo(body)) as url:
        monkeypatch.setattr(os, "write", filling)
        with pytest.raises(OSError, match="No space left"):
            carry_out(rows(20), output, url, Limits(concurrency=1))
        monkeypatch.undo()
        progress, _ = carry_out(rows(20), output, url)
    assert progress.done == 20
    assert len(answers(output)) == 20


def test_an_output_that_is_something_else_is_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("my notes\n")
    with pytest.raises(ValueError, match="not a batch's output"):
        Results(other)
    assert other.read_text() == "my notes\n"


def test_forms_of_a_row(tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    lines: list[dict[str, Any]] = [
        {
            "custom_id": "x",
            "method": "POST",
            "url": "/v1/embeddings",
            "body": {"model": "own", "input": "a"},
        },
        {"prompt": "p", "max_tokens": 3},
        {"messages": [{"role": "user", "content": "ü"}]},
    ]
    file.write_text("\n\n".join(json.dumps(line) for line in lines))
    assert read_rows(file, "m") == [
        BatchRow("x", "/v1/embeddings", {"model": "own", "input": "a"}),
        BatchRow("row-3", "/v1/completions", {"model": "m", "prompt": "p", "max_tokens": 3}),
        BatchRow("row-5", "/v1/chat/completions", {"model": "m", **lines[2]}),
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no rows"),
        ("{", "1: not JSON"),
        ('{"prompt": "a"}\n[1]', "line 2"),
        ('{"prompt": "a", "temperature": NaN}', "line 1: not JSON: NaN is no JSON number"),
        ('{"text": "a"}', "needs body, messages, prompt or input"),
        ('{"prompt": "a", "model": 3}', "names no model"),
        ('{"prompt": "a", "stream": true}', "not streamed"),
        ('{"body": {"model": "m"}, "url": "/v1/files"}', "url must be one of"),
        ('{"custom_id": "a", "prompt": "x"}\n{"custom_id": "a", "prompt": "y"}', "of line 1"),
    ],
)
def test_bad_input_is_refused_before_anything_is_sent(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text(text)
    with pytest.raises(BadBatchError, match=says):
        read_rows(file, None if "names no" in says else "m")
