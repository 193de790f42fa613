"""The gateway as a process: state file, one per registry, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeltainer.gateway import address
from modeltainer.gateway.config_watch import Settled
from modeltainer.gateway.listening import CannotStartError, bind, private_folder, socket_path
from modeltainer.gateway.settings import GatewaySettings
from modeltainer.registry.layout import Layout
from tests.engine.scripted import STREAM_HEAD, Gate, Send, piece, token
from tests.gateway.setup import World


class Process:
    """``python -m modeltainer.gateway`` on the world's registry."""

    def __init__(
        self, world: World, root: Path, *, log: Path | None = None, **settings: object
    ) -> None:
        self.log = log
        self.config = root / "models.yaml"
        self.world = world
        run = root / "run"
        run.mkdir(mode=0o700, exist_ok=True)
        chosen = {"socket": str(run / "g.sock"), "drain": 5, "poll_interval": 0.1, **settings}
        self.config.write_text(
            f"site: {{registry: {world.layout.root}}}\ngateway: {json.dumps(chosen)}\n"
            "models: {cold: {engine: vllm, source: a/b}}\n"
        )
        self.process = self.start()
        World.until(self._up, within=30)

    def start(self) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "modeltainer.gateway", "--config", str(self.config)]
        return subprocess.Popen(
            argv if self.log is None else [*argv, "--log", str(self.log)],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "XDG_CONFIG_HOME": "/nonexistent"},
        )

    def _up(self) -> bool:
        found = address.read(self.world.layout)
        if found is None or not found.alive:
            return False
        self.address = found
        try:
            return self.client().get("/ready").status_code == 200
        except httpx.TransportError:
            return False

    def client(self) -> httpx.Client:
        transport = httpx.HTTPTransport(uds=self.address.socket) if self.address.socket else None
        headers = {"authorization": f"Bearer {self.address.token}"}
        return httpx.Client(
            transport=transport, base_url=self.address.url, headers=headers, timeout=10
        )

    def routed(self) -> None:
        """Wait until an endpoint is routed to."""

        def routed() -> bool:
            listed = self.client().get("/admin/status").json()["endpoints"]
            return any(one["routed"] for one in listed)

        World.until(routed, within=20)

    def ended(self) -> str:
        """Its log, once it has ended."""
        assert self.process.stderr is not None
        _, log = self.process.communicate(timeout=30)
        return log


@pytest.fixture
def process(world: World, tmp_path: Path) -> Iterator[Process]:
    made = Process(world, tmp_path)
    yield made
    if made.process.poll() is None:
        made.process.kill()
        made.process.communicate()


def test_state_file_second_gateway_reload_and_a_clean_end(process: Process) -> None:
    world = process.world
    state_file = address.state_file(world.layout)
    assert state_file.stat().st_mode & 0o777 == 0o600
    assert process.address.pid == process.process.pid
    assert process.address.here
    socket = Path(process.address.socket or "")
    assert socket.stat().st_mode & 0o777 == 0o600

    second = process.start()
    _, said = second.communicate(timeout=15)
    assert second.returncode == 3
    assert f"already has a gateway on this host: pid {process.address.pid}" in said

    client = process.client()
    assert [one["id"] for one in client.get("/v1/models").json()["data"]] == ["cold"]
    good = process.config.read_text()
    process.config.write_text("models: [")
    process.process.send_signal(signal.SIGHUP)
    World.until(lambda: bool(client.get("/admin/status").json()["config_problem"]))
    assert [one["id"] for one in client.get("/v1/models").json()["data"]] == ["cold"]
    process.config.write_text(good.replace("cold", "colder"))
    process.process.send_signal(signal.SIGHUP)
    World.until(lambda: client.get("/v1/models").json()["data"][0]["id"] == "colder")

    began = time.monotonic()
    process.process.send_signal(signal.SIGTERM)
    log = process.ended()
    assert time.monotonic() - began < 3
    assert process.process.returncode == 0
    events = [json.loads(line)["event"] for line in log.splitlines()]
    assert events[0] == "started"
    assert events[-1] == "ended"
    assert not state_file.exists()
    assert not socket.exists()


def handled(pid: int, number: int, *kinds: str) -> bool:
    """Whether a process ignores (``SigIgn``) or catches (``SigCgt``) a signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    masks = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(kinds)]
    return any(mask >> (number - 1) & 1 for mask in masks)


class Hurried(Process):
    """Is told to reload again and again while it starts."""

    def start(self) -> subprocess.Popen[str]:
        process = super().start()
        World.until(lambda: handled(process.pid, signal.SIGHUP, "SigIgn", "SigCgt"), within=20)

        def hurry() -> None:
            while process.poll() is None and not self.is_up.wait(0.02):
                process.send_signal(signal.SIGHUP)

        self.is_up = threading.Event()
        threading.Thread(target=hurry, daemon=True).start()
        return process

    def _up(self) -> bool:
        found = super()._up()
        if found:
            self.is_up.set()
        return found


@pytest.mark.parametrize("workers", [1, 2])
def test_a_reload_does_not_end_what_only_starts(world: World, tmp_path: Path, workers: int) -> None:
    process = Hurried(world, tmp_path, workers=workers)
    process.process.terminate()
    log = process.ended()
    assert process.process.returncode == 0
    assert not [line for line in log.splitlines() if '"worker_ended"' in line]


def test_a_worker_ignores_reloads_until_it_listens() -> None:
    command = [sys.executable, "-m", "modeltainer.gateway.worker"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as worker:
        World.until(lambda: handled(worker.pid, signal.SIGHUP, "SigIgn"), within=20)
        worker.send_signal(signal.SIGHUP)
        worker.communicate(b"", timeout=30)
    assert worker.returncode == 1  # of the order that it did not get, and not of the signal


def test_the_end_is_heard_while_workers_start(world: World, tmp_path: Path) -> None:
    class Ended(Process):
        def _up(self) -> bool:
            return handled(self.process.pid, signal.SIGTERM, "SigCgt")

    process = Ended(world, tmp_path, workers=2)
    process.process.terminate()
    try:
        process.ended()
    finally:
        process.process.kill()
    assert process.process.returncode == 0


def test_an_edit_counts_without_a_signal(process: Process) -> None:
    client = process.client()
    good = process.config.read_text()
    process.config.write_text("models: [")
    World.until(lambda: bool(client.get("/admin/status").json()["config_problem"]), within=20)
    assert [one["id"] for one in client.get("/v1/models").json()["data"]] == ["cold"]
    assert "modeltainer_gateway_config_ok{} 0\n" in client.get("/metrics").text
    process.config.write_text(good.replace("cold", "colder"))
    World.until(lambda: client.get("/v1/models").json()["data"][0]["id"] == "colder", within=20)
    assert client.get("/admin/status").json()["config_problem"] == ""


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30))
def test_an_edit_is_told_once_when_it_has_settled(contents: list[int]) -> None:
    settled = Settled((b"0",))
    told = [content for content in [*contents, contents[-1]] if settled.look((b"%d" % content,))]
    assert all(one != other for one, other in zip([0, *told], told, strict=False))
    assert [0, *told][-1] == contents[-1]


def test_killed_gateway_is_no_hindrance(process: Process) -> None:
    process.process.kill()
    process.process.communicate()
    left = address.read(process.world.layout)
    assert left is not None
    assert left.alive is False
    process.process = process.start()
    World.until(process._up, within=15)
    assert process.address.pid == process.process.pid


def test_sigterm_lets_streams_finish(process: Process) -> None:
    world, gate = process.world, Gate()
    engine = world.launch().engine
    engine.answer = [
        Send(STREAM_HEAD),
        piece(token("a")),
        gate,
        piece(token("b")),
        Send(b"0\r\n\r\n"),
    ]
    process.routed()
    with process.client().stream(
        "POST", "/v1/completions", json={"model": "m", "stream": True}
    ) as response:
        received = response.iter_raw()
        assert next(received) == token("a")
        process.process.send_signal(signal.SIGTERM)
        World.until(lambda: process.client().get("/ready").status_code == 503, within=2)
        refused = process.client().post("/v1/completions", json={"model": "m"})
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "shutting_down"
        gate.event.set()
        assert b"".join(received) == token("b")
    process.ended()
    assert process.process.returncode == 0


def test_drain_has_an_end_and_a_second_sigterm_forces_it(world: World, tmp_path: Path) -> None:
    engine = world.launch().engine
    engine.answer = [Send(STREAM_HEAD), piece(token("a")), Gate()]
    for drain, signals in ((0.3, 1), (60, 2)):
        process = Process(world, tmp_path, drain=drain)
        process.routed()
        with process.client().stream(
            "POST", "/v1/completions", json={"model": "m", "stream": True}
        ) as response:
            received = response.iter_raw()
            assert next(received) == token("a")
            began = time.monotonic()
            for _ in range(signals):
                process.process.send_signal(signal.SIGTERM)
                time.sleep(0.1)
            rest = b"".join(received)
        assert b'data: {"error":{"message":"the gateway is shutting down' in rest
        process.ended()
        assert time.monotonic() - began < 4
        assert engine.requests[-1].gone.wait(1)


def test_tcp(world: World, tmp_path: Path) -> None:
    process = Process(world, tmp_path, listen="tcp", port=0)
    try:
        assert process.address.socket is None
        assert process.address.url.startswith("http://127.0.0.1:")
    finally:
        process.process.terminate()
        process.ended()


def test_folders_that_are_not_private_are_refused(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    open_folder = tmp_path / "open"
    open_folder.mkdir()
    open_folder.chmod(0o755)
    link = tmp_path / "link"
    (tmp_path / "real").mkdir(mode=0o700)
    link.symlink_to(tmp_path / "real")
    for folder, words in ((open_folder, "open to others"), (link, "not a folder of yours")):
        with pytest.raises(CannotStartError, match=words):
            socket_path(GatewaySettings(socket=folder / "s"), layout)
    with pytest.raises(CannotStartError, match="cannot use"):
        private_folder(tmp_path / "missing" / "deeper")
    if os.getuid() == 0:
        foreign = tmp_path / "foreign"
        foreign.mkdir(mode=0o700)
        os.chown(foreign, 12345, -1)
        with pytest.raises(CannotStartError, match="not a folder of yours"):
            private_folder(foreign)
    long = tmp_path / "real" / ("x" * 120)
    with pytest.raises(CannotStartError, match="too long"):
        socket_path(GatewaySettings(socket=long), layout)


def test_addresses_in_use(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    folder = private_folder(tmp_path / "run")
    settings = GatewaySettings(socket=folder / "s")
    first = bind(settings, layout)
    first.listen()
    with pytest.raises(CannotStartError, match="another program listens"):
        bind(settings, layout)
    first.close()
    bind(settings, layout).close()  # a leftover socket is replaced
    (folder / "s").unlink()
    (folder / "s").write_text("precious")
    with pytest.raises(CannotStartError, match="not a socket"):
        bind(settings, layout)
    taken = bind(GatewaySettings(listen="tcp", port=0), layout)
    taken.listen()
    port = taken.getsockname()[1]
    with pytest.raises(CannotStartError, match=f"cannot listen on 127.0.0.1:{port}"):
        bind(GatewaySettings(listen="tcp", port=port), layout)
    taken.close()


def test_light_imports() -> None:
    code = (
        "import sys, modeltainer.gateway.settings, modeltainer.gateway.address;"
        "sys.exit(any(name in sys.modules for name in ('fastapi', 'uvicorn', 'starlette')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
