"""``/v1/files`` and ``/v1/batches``: whose they are, what is refused, and how batches end."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeltainer.batch import __main__ as program
from modeltainer.batch import orders
from modeltainer.batch.orders import Batch, BatchBook, BatchState, Order
from modeltainer.batch.service import BatchService, next_ones
from modeltainer.batch.stored_files import FileStore
from modeltainer.gateway.address import GatewayAddress
from modeltainer.gateway.settings import BatchSettings
from modeltainer.registry import atomic, keys, usage
from tests.engine.scripted import Gate, Step, whole
from tests.gateway.setup import World

CHAT = "/v1/chat/completions"
ANSWER = whole({"object": "chat.completion", "usage": {"prompt_tokens": 2, "completion_tokens": 3}})
SETTINGS = BatchSettings(concurrency=4)
KB = 1024


def row(number: int, model: str = "m", **more: Any) -> dict[str, Any]:
    body = {"model": model, "messages": [{"role": "user", "content": str(number)}]}
    return {"custom_id": f"r{number}", "method": "POST", "url": CHAT, "body": {**body, **more}}


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in rows)


def upload(world: World, content: bytes, client: httpx.Client | None = None) -> str:
    answer = (client or world.client).post(
        "/v1/files", files={"file": ("in.jsonl", content)}, data={"purpose": "batch"}
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["bytes"] == len(content)
    return str(answer.json()["id"])


def order(world: World, rows: list[dict[str, Any]], **fields: Any) -> str:
    asked = {"input_file_id": upload(world, jsonl(rows)), "endpoint": CHAT, **fields}
    answer = world.client.post("/v1/batches", json=asked)
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "validating"
    return str(answer.json()["id"])


def look(world: World, batch_id: str) -> dict[str, Any]:
    answer = world.client.get(f"/v1/batches/{batch_id}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def lines(world: World, file_id: str) -> list[dict[str, Any]]:
    answer = world.client.get(f"/v1/files/{file_id}/content")
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


@contextmanager
def carried_out(world: World, chosen: BatchSettings = SETTINGS) -> Iterator[None]:
    """Run the service in a thread, as its process does."""
    over = threading.Event()
    gateway = GatewayAddress("here", 1, 1, 0.0, url=world.url, token="owner")
    service = BatchService(world.layout, chosen, lambda ordered: program.client(gateway, ordered))
    thread = threading.Thread(target=lambda: asyncio.run(service.serve(over.is_set)), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(20)
        assert not thread.is_alive()


def until_over(world: World, batch_id: str, status: str) -> dict[str, Any]:
    ends = {"completed", "failed", "expired", "cancelled"}
    world.until(lambda: look(world, batch_id)["status"] in ends, within=30)
    found = look(world, batch_id)
    assert found["status"] == status, found
    assert found[f"{status}_at"] >= found["created_at"]
    return found


def test_a_batch_from_upload_to_answers(world: World) -> None:
    engine = world.launch().engine
    engine.answer = ANSWER
    with world.serving():
        batch_id = order(world, [row(n) for n in range(10)], metadata={"for": "a test"})
        with carried_out(world):
            done = until_over(world, batch_id, "completed")
        assert done["request_counts"] == {"total": 10, "completed": 10, "failed": 0}
        assert done["metadata"] == {"for": "a test"}
        assert done["error_file_id"] is None
        answers = lines(world, done["output_file_id"])
        assert {one["custom_id"] for one in answers} == {f"r{n}" for n in range(10)}
        assert len(answers) == len(engine.requests) == 10
        assert all(one["response"]["body"]["object"] == "chat.completion" for one in answers)
        assert [one.header("x-modeltainer-for") for one in engine.requests] == [None] * 10
        listed = world.client.get("/v1/batches").json()
        assert [one["id"] for one in listed["data"]] == [batch_id]
        key_id = keys.list_keys(world.layout)[0].id
        world.until(lambda: len(list(usage.read(world.layout))) == 10)
        assert {one.key_id for one in usage.read(world.layout)} == {key_id}


def test_rows_that_fail_have_a_file_of_their_own(world: World) -> None:
    world.launch().engine.answer = ANSWER
    _, plain = keys.create(world.layout, "some", models=["m"])
    world.launch("other")
    with world.serving():
        world.client.headers["authorization"] = f"Bearer {plain}"
        batch_id = order(world, [row(1), row(2, "other"), row(3, "nobody")])
        with carried_out(world):
            done = until_over(world, batch_id, "completed")
        assert done["request_counts"] == {"total": 3, "completed": 1, "failed": 2}
        failed = {one["custom_id"]: one["error"] for one in lines(world, done["error_file_id"])}
        assert failed["r2"]["code"] == "403", "a batch may use what its key may"
        assert failed["r3"]["code"] == "404"


def test_a_revoked_keys_batch_gets_no_more_answers(world: World) -> None:
    engine = world.launch().engine
    record, plain = keys.create(world.layout, "soon gone")
    with world.serving():
        world.client.headers["authorization"] = f"Bearer {plain}"
        batch_id = order(world, [row(1)])
        keys.revoke(world.layout, record.id)
        world.until(lambda: world.client.get("/v1/models").status_code == 401)
        with carried_out(world):
            book = BatchBook(world.layout)
            world.until(lambda: not book.all_open(), within=20)
        found = book.find(batch_id, record.id)
        assert found is not None
        assert (found.state.completed, found.state.failed) == (0, 1)
        assert not engine.requests


def test_nobody_but_the_owner_asks_for_another_key(world: World) -> None:
    engine = world.launch().engine
    record, _ = keys.create(world.layout, "other")
    with world.serving():
        world.client.headers["x-modeltainer-for"] = record.id
        assert world.chat().status_code == 200
        world.client.headers["authorization"] = "Bearer owner"
        assert world.chat().status_code == 200
        assert engine.requests[-1].header("x-modeltainer-for") is None
        world.until(lambda: len(world.log("request")) == 2)  # written once the answer is out
        seen = [one["key_id"] for one in world.log("request")]
        assert seen[0] != record.id
        assert seen[1] == record.id


@pytest.mark.parametrize(
    ("content", "code", "line"),
    [
        (jsonl([row(1)]) + b"{not json}\n", "invalid_json_line", 2),
        (jsonl([row(1), row(2), row(1)]), "duplicate_custom_id", 3),
        (jsonl([{**row(1), "url": "/v1/embeddings"}]), "mismatched_url", None),
        (jsonl([{**row(1), "url": "/pause"}]), "invalid_url", 1),
        (jsonl([row(1), {**row(2), "body": {"messages": []}}]), "missing_model", 2),
        (jsonl([row(1, stream=True)]), "invalid_input", 1),
        (b"\n", "empty_file", None),
        (b"\xff\xfe\n", "invalid_json_line", 1),
    ],
)
def test_a_bad_file_fails_its_batch_before_anything_is_sent(
    world: World, content: bytes, code: str, line: int | None
) -> None:
    engine = world.launch().engine
    with world.serving():
        source = upload(world, content)
        asked = {"input_file_id": source, "endpoint": CHAT, "completion_window": "24h"}
        batch_id = world.client.post("/v1/batches", json=asked).json()["id"]
        with carried_out(world):
            done = until_over(world, batch_id, "failed")
        (flaw,) = done["errors"]["data"]
        assert (flaw["code"], flaw["line"]) == (code, line)
        assert str(world.layout.root) not in flaw["message"]
        assert not engine.requests


def test_cancelling_keeps_the_answers_there_are(world: World) -> None:
    gate = Gate()
    held: list[Step] = [gate, *ANSWER]
    engine = world.launch().engine
    engine.answer = lambda request: held if b'"8"' in request.body else ANSWER
    with world.serving():
        batch_id = order(world, [row(n) for n in range(10)])
        with carried_out(world, BatchSettings(concurrency=1)):
            world.until(lambda: look(world, batch_id)["request_counts"]["completed"] == 8, 20)
            asked = world.client.post(f"/v1/batches/{batch_id}/cancel").json()
            assert asked["status"] == "cancelling"
            done = until_over(world, batch_id, "cancelled")
        gate.event.set()
        assert len(lines(world, done["output_file_id"])) == 8
        refused = world.client.post(f"/v1/batches/{batch_id}/cancel")
        assert refused.status_code == 400
        assert refused.json()["error"]["code"] == "batch_is_over"
        world.settled()


def test_a_batch_that_is_cancelled_before_it_begins(world: World) -> None:
    engine = world.launch().engine
    with world.serving():
        batch_id = order(world, [row(1)])
        world.client.post(f"/v1/batches/{batch_id}/cancel")
        with carried_out(world):
            done = until_over(world, batch_id, "cancelled")
        assert done["output_file_id"] is None
        assert not engine.requests


def test_rows_without_an_answer_in_time_are_given_up(world: World) -> None:
    gate = Gate()
    engine = world.launch().engine
    engine.answer = lambda request: [gate, *ANSWER] if b'"1"' in request.body else ANSWER
    with world.serving():
        source = upload(world, jsonl([row(n) for n in range(2)]))
        now = time.time()
        key_id = keys.list_keys(world.layout)[0].id
        batch_id = "batch_" + "a" * 24
        BatchBook(world.layout).place(
            Order(batch_id, key_id, CHAT, source, "24h", now, expires_unix=now + 3)
        )
        with carried_out(world):
            done = until_over(world, batch_id, "expired")
        gate.event.set()
        assert [one["custom_id"] for one in lines(world, done["output_file_id"])] == ["r0"]
        (given_up,) = lines(world, done["error_file_id"])
        assert (given_up["custom_id"], given_up["error"]["code"]) == ("r1", "batch_expired")


def test_another_process_goes_on_where_one_has_ended(world: World) -> None:
    gate = Gate()
    engine = world.launch().engine
    engine.answer = lambda request: [gate, *ANSWER] if b'"6"' in request.body else ANSWER
    with world.serving():
        batch_id = order(world, [row(n) for n in range(12)])
        with carried_out(world, BatchSettings(concurrency=1)):
            world.until(lambda: look(world, batch_id)["request_counts"]["completed"] == 6, 20)
        gate.event.set()
        with carried_out(world):
            done = until_over(world, batch_id, "completed")
        answered = Counter(one["custom_id"] for one in lines(world, done["output_file_id"]))
        assert answered == Counter(f"r{n}" for n in range(12))
        assert len(engine.requests) == 13, "only the row that was under way is asked again"


@pytest.mark.parametrize("moved", ["nothing", "content", "folder"])
def test_publishing_that_a_crash_broke_off_is_ended(world: World, moved: str) -> None:
    with world.serving():
        batch_id = order(world, [row(1)])
        book, files = BatchBook(world.layout), FileStore(world.layout)
        key_id = keys.list_keys(world.layout)[0].id
        output = book.folder(batch_id) / "output.jsonl"
        output.write_bytes(b'{"custom_id": "r1"}\n')
        file_id = "file-" + "b" * 24
        state = BatchState("finalizing", "completed", 1, 1, begun_unix=1.0, output_file_id=file_id)
        book.write(batch_id, state)
        if moved == "content":
            staging = world.layout.files / f".{file_id}.new"
            staging.mkdir()
            output.rename(staging / "content")
        elif moved == "folder":
            files.add(file_id, output, key_id=key_id, name="x", purpose="batch_output")
        with carried_out(world):
            done = until_over(world, batch_id, "completed")
        assert lines(world, done["output_file_id"]) == [{"custom_id": "r1"}]


def test_a_batch_that_ends_while_it_is_looked_at(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder moves between two reads of one look; it must not seem to begin again."""
    with world.serving():
        batch_id = order(world, [row(1)])
        key_id = keys.list_keys(world.layout)[0].id
        book = BatchBook(world.layout)
        book.write(batch_id, BatchState("completed", total=1, completed=1, ended_unix=1.0))
        read = atomic.read_bounded

        def read_and_move(path: Path, limit: int) -> tuple[bytes, os.stat_result]:
            found = read(path, limit)
            monkeypatch.undo()
            book.end(batch_id)
            return found

        monkeypatch.setattr(orders, "read_bounded", read_and_move)
        seen = book.find(batch_id, key_id)
        assert seen is not None
        assert seen.status == "completed"


def test_each_key_has_files_and_batches_of_its_own(world: World) -> None:
    _, other = keys.create(world.layout, "other")
    with world.serving():
        batch_id = order(world, [row(1)])
        file_id = look(world, batch_id)["input_file_id"]
        assert [one["id"] for one in world.client.get("/v1/files").json()["data"]] == [file_id]
        world.client.headers["authorization"] = f"Bearer {other}"
        assert world.client.get("/v1/files").json()["data"] == []
        assert world.client.get("/v1/batches").json()["data"] == []
        for method, path in (
            ("GET", f"/v1/files/{file_id}"),
            ("GET", f"/v1/files/{file_id}/content"),
            ("DELETE", f"/v1/files/{file_id}"),
            ("GET", f"/v1/batches/{batch_id}"),
            ("POST", f"/v1/batches/{batch_id}/cancel"),
            ("GET", "/v1/files/..%2f..%2fkeys"),
            ("GET", "/v1/files/file-x/content"),
            ("GET", "/v1/batches/.."),
        ):
            assert world.client.request(method, path).status_code == 404, path
        asked = {"input_file_id": file_id, "endpoint": CHAT}
        assert world.client.post("/v1/batches", json=asked).status_code == 404
        world.client.headers.pop("authorization")
        for path in ("/v1/files", "/v1/batches"):
            assert world.client.get(path).status_code == 401
            assert world.client.post(path).status_code == 401


def test_files_are_the_owners_alone(world: World) -> None:
    world.launch().engine.answer = ANSWER
    with world.serving():
        batch_id = order(world, [row(1)])
        with carried_out(world):
            until_over(world, batch_id, "completed")
    inside = [*world.layout.files.rglob("*"), *world.layout.ended_batches.parent.rglob("*")]
    assert len(inside) > 8
    # The answers' own mode is set by the process's umask (modeltainer.batch.__main__).
    closed = [one for one in inside if one.is_dir() or one.suffix == ".json"]
    assert all(one.stat().st_mode & 0o077 == 0 for one in closed)
    assert world.layout.root.stat().st_mode & 0o077 == 0


def test_a_file_that_is_needed_is_not_deleted(world: World) -> None:
    with world.serving():
        batch_id = order(world, [row(1)])
        path = f"/v1/files/{look(world, batch_id)['input_file_id']}"
        refused = world.client.delete(path)
        assert refused.status_code == 400
        assert batch_id in refused.json()["error"]["message"]
        world.client.post(f"/v1/batches/{batch_id}/cancel")
        with carried_out(world):
            until_over(world, batch_id, "cancelled")
        assert world.client.delete(path).json()["deleted"] is True
        assert world.client.get(path).status_code == 404
        assert list(world.layout.files.iterdir()) == []


def test_what_is_refused(world: World) -> None:
    with world.serving(batches=BatchSettings(max_file_bytes=4 * KB, max_stored_bytes=6 * KB)):
        client = world.client

        def refused(answer: httpx.Response, status: int, code: str) -> str:
            assert answer.status_code == status, answer.text
            assert answer.json()["error"]["code"] == code
            return str(answer.json()["error"]["message"])

        def send(data: Any, files: Any) -> httpx.Response:
            return client.post("/v1/files", data=data, files=files)

        batch = {"purpose": "batch"}
        refused(send({"purpose": "vision"}, {"file": b"x"}), 400, "invalid_purpose")
        refused(send({}, {"file": b"x"}), 400, "invalid_purpose")
        refused(send(batch, {"other": b"x"}), 400, "invalid_form")
        refused(send({**batch, "file": "not a file"}, {"other": b"x"}), 400, "invalid_form")
        refused(client.post("/v1/files", json=batch), 400, "invalid_form")
        refused(send({"purpose": "x" * 2000}, {"file": b"x"}), 400, "invalid_form")
        refused(send(batch, {"file": b"x" * 5 * KB}), 413, "file_too_large")
        too_large = send(batch, {"file": b"x" * 500 * KB})
        refused(too_large, 413, "file_too_large")
        assert "connection" not in too_large.headers  # it has come, and the next request may
        preamble = client.post(
            "/v1/files",
            content=iter([b"x" * KB] * 200),
            headers={"content-type": "multipart/form-data; boundary=B"},
        )
        assert preamble.status_code in (400, 413)  # as the reader comes to one or the other first
        first = upload(world, b"x" * 4 * KB)
        refused(send(batch, {"file": b"x" * 3 * KB}), 413, "storage_full")
        upload(world, b"x" * 2 * KB)
        assert "DELETE" in refused(send(batch, {"file": b"x"}), 413, "storage_full")

        asked = {"input_file_id": first, "endpoint": CHAT, "completion_window": "24h"}

        def ask(**fields: Any) -> httpx.Response:
            return client.post("/v1/batches", json={**asked, **fields})

        refused(ask(endpoint="/v1/audio"), 400, "invalid_endpoint")
        refused(ask(completion_window="soon"), 400, "invalid_completion_window")
        refused(ask(completion_window="0h"), 400, "invalid_completion_window")
        refused(ask(input_file_id="file-none"), 404, "file_not_found")
        assert "metadata" in refused(ask(metadata={"x": "y" * 513}), 400, "invalid_request")
        refused(ask(metadata={str(n): "" for n in range(17)}), 400, "invalid_request")
        refused(client.post("/v1/batches", content=b"{"), 400, "invalid_request")
        refused(client.get("/v1/files?after=file-none"), 400, "invalid_cursor")
        refused(client.get("/v1/batches?limit=0"), 400, "invalid_request")
        assert client.get("/v1/batches").json()["data"] == []


def test_a_key_has_only_so_many_open_batches(world: World) -> None:
    with world.serving(batches=BatchSettings(max_open=2)):
        for _ in range(2):
            order(world, [row(1)])
        asked = {"input_file_id": upload(world, jsonl([row(1)])), "endpoint": CHAT}
        answer = world.client.post("/v1/batches", json=asked)
        assert answer.status_code == 429
        assert answer.headers["retry-after"]


def test_long_lists_come_in_pages(world: World) -> None:
    with world.serving():
        ids = [upload(world, b"x") for _ in range(5)]
        found: list[str] = []
        after: dict[str, str] = {}
        while True:
            page = world.client.get("/v1/files", params={"limit": "2", **after}).json()
            found += [one["id"] for one in page["data"]]
            if not page["has_more"]:
                break
            after = {"after": page["last_id"]}
        assert found == ids[::-1]


def test_the_site_may_take_no_batches(world: World) -> None:
    with world.serving(batches=BatchSettings(enabled=False)):
        assert world.client.get("/v1/files").status_code == 404
        assert world.client.post("/v1/batches", json={}).status_code == 404


def test_uploads_of_any_bytes(world: World) -> None:
    """What comes back is what was sent, whatever stands in it; what is no form is refused."""
    with world.serving():

        @settings(max_examples=60, deadline=None)
        @given(st.binary(max_size=300), st.text(max_size=20))
        def same(content: bytes, name: str) -> None:
            answer = world.client.post(
                "/v1/files", files={"file": (name or "x", content)}, data={"purpose": "batch"}
            )
            assert answer.status_code == 200, answer.text
            path = f"/v1/files/{answer.json()['id']}/content"
            assert world.client.get(path).content == content

        @settings(max_examples=100, deadline=None)
        @given(st.binary(max_size=200), st.sampled_from(["B", '"B"', "", "B\xff", "x" * 300]))
        def refused(body: bytes, boundary: str) -> None:
            kind = f"multipart/form-data; boundary={boundary}".encode("latin-1")
            answer = world.client.post("/v1/files", content=body, headers={b"content-type": kind})
            assert answer.status_code == 400, answer.text

        same()
        refused()
        left = [one.name for one in world.layout.files.iterdir() if one.name.startswith(".")]
        assert left == []


def test_an_upload_larger_than_memory_should_hold(world: World) -> None:
    content = bytes(range(256)) * 40 * KB  # 10 MiB, in many pieces
    with world.serving():
        file_id = upload(world, content)
        assert world.client.get(f"/v1/files/{file_id}/content").content == content


def test_damaged_records_are_passed_over(world: World) -> None:
    with world.serving():
        batch_id = order(world, [row(1)])
        file_id = look(world, batch_id)["input_file_id"]
        shutil.copytree(world.layout.files / file_id, world.layout.files / ("file-" + "c" * 24))
        (world.layout.files / file_id / "file.json").write_bytes(b"{")
        (BatchBook(world.layout).folder(batch_id) / "order.json").write_bytes(b"\xff")
        assert world.client.get(f"/v1/batches/{batch_id}").status_code == 404
        assert world.client.get("/v1/batches").json()["data"] == []
        assert world.client.get(f"/v1/files/{file_id}").status_code == 404


def waiting(key_ids: str) -> list[Batch]:
    one = Order("", "", CHAT, "", "24h", 0.0, 0.0)
    return [Batch(replace(one, id=str(n), key_id=key)) for n, key in enumerate(key_ids)]


def test_keys_take_turns() -> None:
    def chosen(keys_in_line: str, running: dict[str, int], free: int) -> str:
        found = next_ones(waiting(keys_in_line), Counter(running), free)
        return "".join(one.order.key_id for one in found)

    assert chosen("aaab", {}, 2) == "ab"
    assert chosen("aaab", {"b": 1}, 2) == "aa"
    assert chosen("abc", {"a": 2, "b": 1}, 2) == "cb"
    assert chosen("ab", {}, 0) == ""


@given(
    st.text("abc", max_size=12),
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 5)),
    st.integers(0, 8),
)
def test_no_key_starts_one_before_another_that_has_fewer(
    line: str, running: dict[str, int], free: int
) -> None:
    found = next_ones(waiting(line), Counter(running), free)
    assert len(found) == min(free, len(line))
    taken, left = Counter(running), Counter(line)
    for one in found:
        key = one.order.key_id
        assert taken[key] == min(taken[other] for other in left)
        taken[key] += 1
        left -= Counter(key)


def test_the_process_without_a_gateway_says_so(tmp_path: Path) -> None:
    config = tmp_path / "models.yaml"
    config.write_text(f"site: {{registry: {tmp_path}/r, executor: local}}\nmodels: {{}}\n")
    done = subprocess.run(
        [sys.executable, "-m", "modeltainer.batch", "--config", str(config)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3
    assert "no gateway" in done.stderr
