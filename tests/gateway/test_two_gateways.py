"""Two gateways over one registry, as two login nodes have them: each serves all, and alone."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from modeltainer.cli.gateway_process import end, spawn
from modeltainer.gateway import address
from modeltainer.registry import keys, usage
from modeltainer.registry.records import State
from tests.engine.scripted import DONE, END, STREAM_HEAD, Gate, Send, piece, token, whole
from tests.gateway.setup import World
from tests.gateway.test_lifecycle import Process

STREAM = {"model": "m", "stream": True}
ON_HOST = """
import socket, sys
from pathlib import Path
from modeltainer.gateway import listening
from modeltainer.gateway.__main__ import main
host, folder = sys.argv[1:3]
socket.gethostname = lambda: host
listening.runtime_folder = lambda: Path(folder)  # what the host keeps to itself
sys.exit(main(sys.argv[3:]))
"""


NAMED = """
import os, socket
from pathlib import Path
from modeltainer.gateway import listening
folder = Path(os.environ["HOST_FOLDER"])
socket.gethostname = lambda: folder.name
listening.runtime_folder = lambda: folder
"""
"""Read by each Python of a process and its children at its start."""


class OnHost(Process):
    """A gateway on a host of its own, as far as it can tell."""

    def __init__(self, world: World, root: Path, host: str) -> None:
        self.host, self.folder = host, root / host
        self.folder.mkdir(mode=0o700)
        super().__init__(world, self.folder, reconcile=False, batches={"enabled": False})

    def start(self) -> subprocess.Popen[str]:
        program = [sys.executable, "-c", ON_HOST, self.host, str(self.folder)]
        return subprocess.Popen(
            [*program, "--config", str(self.config)],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "XDG_CONFIG_HOME": "/nonexistent"},
        )

    def _up(self) -> bool:
        found = [one for one in address.read_all(self.world.layout) if one.host == self.host]
        if not found:
            return False
        self.address = found[0]
        try:
            return self.client().get("/ready").status_code == 200
        except httpx.TransportError:
            return False

    def ask(self, model: str = "m", session: str = "", key: str = "") -> httpx.Response:
        """One request, by default with the registry's key."""
        with self.client() as client:
            client.headers["authorization"] = f"Bearer {key or self.world.key}"
            headers = {"x-session-id": session} if session else {}
            return client.post("/v1/completions", json={"model": model}, headers=headers)


@pytest.fixture
def gateways(world: World, tmp_path: Path) -> Iterator[list[OnHost]]:
    made: list[OnHost] = []
    try:
        made.extend(OnHost(world, tmp_path, host) for host in ("login1", "login2"))
        yield made
    finally:
        for one in made:
            one.process.kill()
            one.process.communicate()


def all_answer(gateways: list[OnHost], status: int, model: str = "m") -> None:
    """Wait until each of them does so."""
    for one in gateways:
        World.until(lambda: one.ask(model).status_code == status, within=20)  # noqa: B023


def all_route(gateways: list[OnHost], count: int) -> None:
    """Wait until each of them gives requests to so many endpoints."""

    def routed(one: OnHost) -> int:
        with one.client() as client:
            listed = client.get("/admin/status").json()["endpoints"]
        return sum(endpoint["routed"] for endpoint in listed)

    World.until(lambda: all(routed(one) == count for one in gateways), within=20)


def test_both_follow_what_comes_and_goes(world: World, gateways: list[OnHost]) -> None:
    drained, died = world.launch(), world.launch("n")
    all_answer(gateways, 200)
    all_answer(gateways, 200, "n")
    drained.writer.write(state=State.DRAINING)
    all_answer(gateways, 404)
    drained.writer.write(state=State.READY)
    all_answer(gateways, 200)
    drained.writer.write(period_s=0.1)  # and never again: its agent is dead
    all_answer(gateways, 404)
    died.engine.stop()
    all_answer(gateways, 404, "n")
    world.launch()
    all_answer(gateways, 200)
    keys.revoke(world.layout, "test")
    all_answer(gateways, 401)


def test_the_tokens_of_both_are_counted(world: World, gateways: list[OnHost]) -> None:
    world.launch().engine.answer = whole({"usage": {"prompt_tokens": 3, "completion_tokens": 4}})
    all_route(gateways, 1)
    for one in (*gateways, gateways[0]):
        assert one.ask().status_code == 200
    World.until(lambda: len(list(usage.read(world.layout))) == 3, within=20)
    [total] = usage.totals(usage.read(world.layout), "model").values()
    assert (total.prompt_tokens, total.completion_tokens) == (9, 12)


def test_sessions_have_the_same_replica_whichever_gateway_is_asked(
    world: World, gateways: list[OnHost]
) -> None:
    for number in range(3):
        world.launch().engine.answer = whole({"by": number})
    all_route(gateways, 3)
    found = [
        [one.ask(session=f"s{number}").json()["by"] for number in range(12)] for one in gateways
    ]
    assert found[0] == found[1]
    assert len(set(found[0])) > 1


def test_a_keys_limits_are_each_gateways_own(world: World, gateways: list[OnHost]) -> None:
    gate = Gate()
    engine = world.launch().engine
    all_route(gateways, 1)
    _, limited = keys.create(world.layout, "limited", concurrent=1)
    for one in gateways:
        World.until(lambda: one.ask(key=limited).status_code == 200, within=20)  # noqa: B023
    engine.answer = [Send(STREAM_HEAD), piece(token("a")), gate, piece(DONE), END]
    with gateways[0].client() as client:
        client.headers["authorization"] = f"Bearer {limited}"
        with client.stream("POST", "/v1/completions", json=STREAM) as response:
            received = response.iter_raw()
            assert next(received) == token("a")
            engine.answer = whole({"ok": True})
            assert gateways[0].ask(key=limited).status_code == 429
            assert gateways[1].ask(key=limited).status_code == 200
            gate.event.set()
            assert b"".join(received) == DONE


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_end_of_one_is_nothing_to_the_other(
    world: World, gateways: list[OnHost], number: int
) -> None:
    gate = Gate()
    ending, other = gateways
    engine = world.launch().engine
    all_route(gateways, 1)
    engine.answer = [Send(STREAM_HEAD), piece(token("a")), gate, piece(DONE), END]
    with other.client() as client, client.stream("POST", "/v1/completions", json=STREAM) as begun:
        received = begun.iter_raw()
        assert next(received) == token("a")
        ending.process.send_signal(number)
        ending.process.wait(30)
        engine.answer = whole({"ok": True})
        assert other.ask().status_code == 200
        world.launch("n")
        all_answer([other], 200, "n")
        gate.event.set()
        assert b"".join(received) == DONE
    left = [one.host for one in address.read_all(world.layout)]
    assert sorted(left) == (["login1", "login2"] if number == signal.SIGKILL else ["login2"])


def test_each_writes_logs_of_its_own(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On NFS, what two hosts append to one file overwrites each other's."""
    hosts = ("login1", "login2")
    (tmp_path / "sitecustomize.py").write_text(NAMED)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    (world.layout.deployments / "m.json").touch()  # work for a reconciler
    folder = world.layout.gateway

    def running(host: str) -> address.GatewayAddress:
        (tmp_path / host).mkdir(mode=0o700)
        config = tmp_path / host / "models.yaml"
        site = {"registry": str(world.layout.root)}
        gateway = {"socket": str(config.with_name("g.sock"))}
        config.write_text(json.dumps({"site": site, "gateway": gateway, "models": {}}))
        monkeypatch.setattr(socket, "gethostname", lambda: host)
        environ = {**os.environ, "PYTHONPATH": path, "HOST_FOLDER": str(config.parent)}
        return spawn(config, world.layout, environ=environ)

    def started(file: Path) -> list[int]:
        said = [json.loads(line) for line in file.read_text().splitlines()]
        return [one["pid"] for one in said if one["event"] == "started"]

    found: list[address.GatewayAddress] = []
    try:
        for host in hosts:
            found.append(running(host))
        names = {f"{name}.{host}.log" for name in ("gateway", "reconcile") for host in hosts}
        World.until(lambda: {one.name for one in folder.glob("*.log")} >= names, within=20)
        assert {one.name for one in folder.glob("*.log")} == names
        assert {one.name for one in folder.glob("*.out")} == {f"gateway.{one}.out" for one in hosts}
        for one in found:
            file = folder / f"gateway.{one.host}.log"
            World.until(lambda: started(file) == [one.pid], within=20)  # noqa: B023
    finally:
        for one in found:
            monkeypatch.setattr(socket, "gethostname", lambda: one.host)  # noqa: B023
            end(one, 30)
