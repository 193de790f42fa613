"""What the tests share: a registry with launches in it, and a gateway in a thread."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvloop

from modeltainer.gateway.app import Gateway, build
from modeltainer.gateway.listening import bind
from modeltainer.gateway.log import JsonLog
from modeltainer.gateway.paths import PROXIED
from modeltainer.gateway.serve import GatewayServer
from modeltainer.gateway.settings import GatewaySettings
from modeltainer.registry import keys, launches
from modeltainer.registry.endpoints import EndpointWriter
from modeltainer.registry.layout import Layout, new_launch_id
from modeltainer.registry.records import Endpoint, LaunchSecret, State
from modeltainer.spec import Site
from modeltainer.view import Row
from tests.engine.scripted import ScriptedEngine
from tests.launch_spec import launch_spec

FORM = b'--B\r\ncontent-disposition: form-data; name="model"\r\n\r\nm\r\n--B--\r\n'


@dataclass
class Launched:
    """One launch in the registry, with the engine that plays its part."""

    engine: ScriptedEngine
    writer: EndpointWriter
    secret: LaunchSecret
    launch_id: str


class World:
    """A registry, its engines and a gateway on it."""

    def __init__(self, root: Path) -> None:
        self.layout = Layout(root / "registry")
        self.layout.create()
        self._log_file = root / "gateway.log"
        self._engines: list[ScriptedEngine] = []
        self.rows: list[Row] = []
        _, self.key = keys.create(self.layout, "test")
        self.url = ""
        self.loop: asyncio.AbstractEventLoop
        self.gateway: Gateway
        self.client: httpx.Client

    def launch(
        self,
        model: str = "m",
        *,
        aliases: tuple[str, ...] = (),
        engine: ScriptedEngine | None = None,
        state: State = State.READY,
        secret: LaunchSecret | None = None,
        **fields: Any,
    ) -> Launched:
        """Write a launch and its endpoint file, and start the engine behind it."""
        secret = secret or launches.new_secret()
        launch_id = new_launch_id(model, 0)
        spec = launch_spec(
            launch_id=launch_id,
            model=model,
            site=Site(registry=str(self.layout.root), cache="/c"),
            aliases=aliases,
        )
        launches.create(self.layout, spec, secret)
        if engine is None:
            engine = ScriptedEngine([model, secret.nonce], secret.key)
            engine.__enter__()
            self._engines.append(engine)
        endpoint = Endpoint(
            launch_id=launch_id,
            model=model,
            replica=0,
            job_id=str(1000 + len(list(self.layout.endpoints.iterdir()))),
            owner="me",
            engine="llamacpp",
            runtime="native",
            state=state,
            node="n1",
            aliases=aliases,
            host="127.0.0.1",
            port=engine.port,
            served_name=model,
            started_unix=time.time(),
            period_s=100.0,
        )
        writer = EndpointWriter(self.layout, endpoint)
        writer.write(**fields)
        return Launched(engine, writer, secret, launch_id)

    @contextmanager
    def serving(
        self, load_config: Callable[[], Any] | None = None, **settings: Any
    ) -> Iterator[World]:
        """Run the gateway; waits until each ready endpoint was probed."""
        chosen = GatewaySettings(
            **{"listen": "tcp", "port": 0, "poll_interval": 0.05, "drain": 2.0, **settings}
        )
        log = JsonLog(self._log_file)
        self.gateway = build(
            chosen, self.layout, load_config, log=log, owner_token="owner", list_rows=self._rows
        )
        listener = bind(chosen, self.layout)
        listener.listen(128)
        name = listener.getsockname()
        transport = httpx.HTTPTransport(uds=name) if isinstance(name, str) else None
        self.url = "http://localhost" if transport else f"http://127.0.0.1:{name[1]}"
        thread = _ServerThread(self.gateway, listener)
        self.loop = thread.loop
        thread.start()
        headers = {"authorization": f"Bearer {self.key}"}
        self.client = httpx.Client(
            base_url=self.url, headers=headers, timeout=10, transport=transport, trust_env=False
        )
        try:
            self.until(lambda: self.gateway.endpoints.snapshot is not None)
            self.until(lambda: all(one.probed for one in self.gateway.endpoints.all))
            yield self
        finally:
            self.client.close()
            thread.end()

    def close(self) -> None:
        """Stop the engines."""
        for engine in self._engines:
            engine.stop()

    def _rows(self) -> Sequence[Row]:
        return self.rows

    def chat(self, model: str = "m", *, stream: bool = False, **more: Any) -> httpx.Response:
        """One chat request."""
        body = {"model": model, "messages": [], "stream": stream, **more}
        return self.client.post("/v1/chat/completions", json=body)

    def raw(self) -> socket.socket:
        """A plain connection to the gateway."""
        host, port = self.url.removeprefix("http://").split(":")
        return socket.create_connection((host, int(port)), timeout=5)

    def raw_request(self, body: bytes, path: str = "/v1/chat/completions", more: str = "") -> bytes:
        """A request's bytes, with the key."""
        top = (
            f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {self.key}\r\n{more}"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return top.encode() + body

    def smallest_request(self, path: str) -> bytes:
        """Bytes that ask model ``m`` something in the form which a path wants."""
        if PROXIED[path].form == "json":
            return self.raw_request(b'{"model":"m"}', path)
        kind = b"multipart/form-data; boundary=B"
        return self.raw_request(FORM, path).replace(b"application/json", kind)

    def settled(self) -> None:
        """All counters are back at zero."""
        gateway = self.gateway
        self.until(lambda: gateway.proxy.in_flight == 0)
        for live in gateway.endpoints.all:
            self.until(lambda: live.outstanding == 0 and live.pool.taken == 0)  # noqa: B023

    @staticmethod
    def until(true: Callable[[], bool], within: float = 5.0) -> None:
        """Wait for a condition."""
        deadline = time.monotonic() + within
        while not true():
            assert time.monotonic() < deadline, "did not come true in time"
            time.sleep(0.005)

    def log_lines(self) -> list[dict[str, Any]]:
        """Every event so far."""
        return [json.loads(line) for line in self._log_file.read_text().splitlines()]

    def log(self, event: str) -> list[dict[str, Any]]:
        """Events of one kind, at least one (a request's line comes just after its answer)."""
        found: list[dict[str, Any]] = []

        def look() -> bool:
            found[:] = [line for line in self.log_lines() if line["event"] == event]
            return bool(found)

        self.until(look)
        return found


def read_until(connection: socket.socket, end: bytes) -> bytes:
    """What comes until ``end`` has come with it; where that is empty, until the connection ends."""
    answer = b""
    while not end or end not in answer:
        more = connection.recv(65536)
        if not more and not end:
            return answer
        assert more, answer
        answer += more
    return answer


class _ServerThread:
    def __init__(self, gateway: Gateway, listener: socket.socket) -> None:
        self.loop = uvloop.new_event_loop()
        self._server = GatewayServer(gateway)
        self._listener = listener
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()
        World.until(lambda: self._server.started)

    def end(self) -> None:
        def end() -> None:
            self._server.end()
            self._server.end()

        self.loop.call_soon_threadsafe(end)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._server.serve(sockets=[self._listener]))
        self.loop.close()
