"""The proxies' snippets, each run by the real program in front of a gateway."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.cluster.fixtures import must_not_skip
from tests.engine.scripted import DONE, END, STREAM_HEAD, Gate, Send, piece, token
from tests.gateway.setup import World

pytestmark = pytest.mark.proxy

SNIPPETS = Path(__file__).resolve().parents[2] / "compose" / "proxy"
PROXIES = ["nginx", "caddy", "haproxy"]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cert.pem and key.pem for localhost, and both in one file."""
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")),
        ],
        check=True,
        capture_output=True,
    )
    both = (folder / "cert.pem").read_text() + (folder / "key.pem").read_text()
    (folder / "both.pem").write_text(both)
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found: int = probe.getsockname()[1]
        return found


@dataclass
class Proxy:
    """A running proxy, and a client that trusts its certificate."""

    url: str
    client: httpx.Client
    context: ssl.SSLContext

    def connect(self) -> ssl.SSLSocket:
        """A plain TLS connection."""
        port = int(self.url.rpartition(":")[2])
        plain = socket.create_connection(("127.0.0.1", port), timeout=10)
        return self.context.wrap_socket(plain, server_hostname="localhost")


def command(
    name: str, folder: Path, certificate: Path, port: int, upstream: str
) -> tuple[list[str], dict[str, str]]:
    """How the proxy is started: the snippet with its CHANGE lines changed."""
    if name == "caddy":
        return [
            "caddy",
            "run",
            "--config",
            str(SNIPPETS / "Caddyfile"),
            "--adapter",
            "caddyfile",
        ], {
            "MODELTAINER_SITE": f"https://localhost:{port}",
            "MODELTAINER_UPSTREAM": upstream,
            "MODELTAINER_TLS": f"{certificate / 'cert.pem'} {certificate / 'key.pem'}",
            "XDG_DATA_HOME": str(folder),
            "XDG_CONFIG_HOME": str(folder),
        }
    source = SNIPPETS / {"nginx": "nginx.conf", "haproxy": "haproxy.cfg"}[name]
    text = source.read_text()
    for old, new in (
        ("127.0.0.1:8000", upstream),
        ("127.0.0.1:8443", f"127.0.0.1:{port}"),
        ("/etc/modeltainer/tls", str(certificate)),
        ("/tmp/modeltainer-nginx", str(folder)),
    ):
        assert old in text or name == "haproxy"
        text = text.replace(old, new)
    file = folder / source.name
    file.write_text(text)
    if name == "nginx":
        return ["nginx", "-c", str(file), "-g", "daemon off;"], {}
    return ["haproxy", "-db", "-f", str(file)], {}


@contextmanager
def running(name: str, world: World, folder: Path, certificate: Path) -> Iterator[Proxy]:
    if shutil.which(name, path=PATH) is None:
        reason = f"{name} is not installed; run: python -m tests.cluster install"
        if must_not_skip():
            pytest.fail(reason)
        pytest.skip(reason)
    port = free_port()
    upstream = world.url.removeprefix("http://")
    argv, environment = command(name, folder, certificate, port, upstream)
    log = folder / "proxy.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            argv, env={"PATH": PATH, "HOME": str(folder), **environment}, stdout=out, stderr=out
        )
    context = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
    client = httpx.Client(
        base_url=f"https://localhost:{port}",
        verify=context,
        headers={"authorization": f"Bearer {world.key}"},
        timeout=10,
        trust_env=False,
    )
    try:
        deadline = time.monotonic() + 15
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
        yield Proxy(f"https://localhost:{port}", client, context)
    finally:
        client.close()
        process.terminate()
        process.wait(15)


PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("name", PROXIES)
def test_streams_come_through_event_by_event(
    world: World, tmp_path: Path, certificate: Path, name: str
) -> None:
    launched = world.launch("m")
    gate = Gate()
    launched.engine.answer = [
        Send(STREAM_HEAD),
        piece(token("one")),
        gate,
        piece(token("two")),
        piece(DONE),
        END,
    ]
    folder = tmp_path / name
    folder.mkdir()
    with world.serving(), running(name, world, folder, certificate) as proxy:
        body = {"model": "m", "messages": [], "stream": True}
        with proxy.client.stream("POST", "/v1/chat/completions", json=body) as answer:
            assert answer.status_code == 200
            assert answer.headers["strict-transport-security"]
            lines = answer.iter_lines()
            # The engine waits until the first event is here: nothing on the way may hold it back.
            assert "one" in next(lines)
            gate.event.set()
            rest = "\n".join(lines)
        assert "two" in rest
        assert "[DONE]" in rest
        assert proxy.client.get("/v1/models").json()["data"][0]["id"] == "m"


def head_only(proxy: Proxy, world: World, length: int) -> bytes:
    """The answer to a request's head that announces a body of this length."""
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
        f"authorization: Bearer {world.key}\r\ncontent-length: {length}\r\n\r\n"
    )
    with proxy.connect() as connection:
        connection.sendall(head.encode())
        return connection.recv(4096)


@pytest.mark.parametrize("name", PROXIES)
def test_what_is_kept_out(world: World, tmp_path: Path, certificate: Path, name: str) -> None:
    launched = world.launch("m")
    folder = tmp_path / name
    folder.mkdir()
    with world.serving(), running(name, world, folder, certificate) as proxy:
        for path in ("/admin/status", "/metrics", "/docs", "/openapi.json"):
            assert proxy.client.get(path).status_code == 404
        nobody = {"authorization": ""}
        assert proxy.client.get("/v1/models", headers=nobody).status_code == 401
        plain = proxy.url.replace("https", "http")
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"{plain}/health", trust_env=False).raise_for_status()
        if name == "caddy":  # it counts what comes, and does not believe what is announced
            large = proxy.client.post("/v1/completions", content=b"x" * 33_000_000)
            assert large.status_code in (413, 502)  # 502 before Caddy 2.7
        else:
            assert b" 413 " in head_only(proxy, world, 64 * 1024 * 1024)
    assert launched.engine.requests == []


@pytest.mark.parametrize("name", ["nginx", "haproxy"])
def test_a_flood_from_one_address_is_slowed(
    world: World, tmp_path: Path, certificate: Path, name: str
) -> None:
    world.launch("m")
    folder = tmp_path / name
    folder.mkdir()
    with world.serving(), running(name, world, folder, certificate) as proxy:
        codes = [proxy.client.get("/v1/models").status_code for _ in range(230)]
    assert codes[0] == 200
    assert 429 in codes
    assert set(codes) == {200, 429}
