"""Wild bytes from clients and from engines, over real connections: no crash, no hang, no leak."""

from __future__ import annotations

import errno
import itertools
import json
import socket
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.cluster.cache import cached, recipe_key
from tests.engine.scripted import Close, Send, whole
from tests.gateway.setup import World

SCHEMATHESIS = "schemathesis==4.32.5"
ANSWER_S = 5.0
SOME = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()
REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer KEY\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
)
ANSWERED = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    b'12\r\ndata: {"a":"bcd"}\n\r\n0\r\n\r\n'
)


def wild(sound: bytes) -> st.SearchStrategy[bytes]:
    """Bytes near something sound: cut, doubled, and with pieces of it replaced."""

    def mutate(edits: list[tuple[int, int, bytes]]) -> bytes:
        data = sound
        for start, length, piece in edits:
            at = start % (len(data) + 1)
            data = data[:at] + piece + data[at + length :]
        return data

    pieces = st.one_of(
        st.binary(max_size=12),
        st.sampled_from(
            [b"\r\n", b"\n", b"\0", b":", b" ", b"\r\n\r\n", b"chunked", b"-1", b"9" * 30, b"%0a"]
        ),
    )
    edits = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 40), pieces), max_size=4)
    return st.one_of(st.binary(max_size=200), edits.map(mutate))


@contextmanager
def quiet(world: World) -> Iterator[None]:
    """After it, the gateway has nothing under way and has met no fault of its own."""
    yield
    world.until(lambda: world.gateway.proxy.in_flight == 0)
    world.until(lambda: all(one.pool.taken == 0 for one in world.gateway.endpoints.all))
    faults = [str(line) for line in world.log_lines() if line["level"] == "error"]
    assert faults == []


def answer_to(world: World, pieces: list[bytes]) -> bytes:
    """What comes back for these writes, up to the end of the connection."""
    host, port = world.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=ANSWER_S) as connection:
        received = b""
        try:
            for piece in pieces:
                connection.sendall(piece)
            connection.shutdown(socket.SHUT_WR)
            while more := connection.recv(65536):
                received += more
        except OSError as error:
            # Hung up on while still writing.
            if not isinstance(error, ConnectionError) and error.errno != errno.ENOTCONN:
                raise
        return received


def test_wild_bytes_of_clients(world: World) -> None:
    world.launch()

    @SOME
    @given(
        st.lists(wild(REQUEST.replace(b"KEY", world.key.encode())), min_size=1, max_size=3),
        st.lists(st.integers(0, 300), max_size=3),
    )
    def run(requests: list[bytes], cuts: list[int]) -> None:
        data = b"".join(requests)
        edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
        pieces = [data[low:high] for low, high in itertools.pairwise(edges)]
        received = answer_to(world, pieces)
        assert not received or received.startswith(b"HTTP/1.1 ")

    with world.serving(), quiet(world):
        run()
        assert world.chat().json() == {"ok": True}


def test_wild_bytes_of_engines(world: World) -> None:
    launched = world.launch()

    @SOME
    @given(wild(ANSWERED), st.booleans())
    def run(answer: bytes, stream: bool) -> None:
        launched.engine.answer = [Send(answer), Close()]
        try:
            response = world.chat(stream=stream)
        except httpx.RemoteProtocolError:
            return  # an answer that was cut, and is seen to be
        assert response.status_code in {200, 404, 502, 503} or answer[9:12].isdigit()

    with world.serving(), quiet(world):
        run()
        launched.engine.answer = whole({"ok": True})
        world.until(lambda: world.chat().status_code == 200)


def test_requests_made_from_the_openapi_document(world: World, tmp_path: Path) -> None:
    def install(folder: Path) -> None:
        venv.create(folder, with_pip=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "--quiet"]
        subprocess.run([*pip, "install", SCHEMATHESIS], check=True)

    python = cached("schemathesis", recipe_key(SCHEMATHESIS, sys.version), install) / "bin/python"
    world.launch()
    with world.serving(), quiet(world):
        done = subprocess.run(
            [
                *(str(python), "-m", "schemathesis.cli", "run", f"{world.url}/openapi.json"),
                *("--header", f"Authorization: Bearer {world.key}"),
                *("--checks", "not_a_server_error,content_type_conformance"),
                *("--max-examples", "15", "--phases", "examples,coverage,fuzzing"),
                "--generation-deterministic",
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr
        assert world.chat().json() == {"ok": True}


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint that failed is asked again at once, or most examples would meet a closed door."""
    monkeypatch.setattr("modeltainer.gateway.endpoint_set.PROBE_PAUSES_S", (0.01,))
