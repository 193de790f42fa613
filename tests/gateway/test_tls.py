"""TLS to the engines: only the certificate that the endpoint's record pins is taken."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest

from modeltainer.jobs.certificate import CERTIFICATE_FILE, KEY_FILE, make_certificate
from tests.engine.scripted import DONE, ScriptedEngine, stream, token, whole
from tests.gateway.setup import Launched, World

STRANGER = "another server answers there (its certificate is not the launch's)"


class Certificate:
    """One launch's certificate, made as the agent makes it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.pem = make_certificate(folder, "n1")

    @property
    def server(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / CERTIFICATE_FILE, self.folder / KEY_FILE)
        return context


def launch(world: World, pinned: Certificate, shown: Certificate | None = None) -> Launched:
    """A launch whose record pins one certificate, and whose engine shows it, or another."""
    return world.launch(tls=(shown or pinned).server, certificate=pinned.pem)


def test_requests_and_streams_go_over_tls(world: World, tmp_path: Path) -> None:
    launched = launch(world, Certificate(tmp_path / "own"))
    with world.serving():
        assert world.chat().json() == {"ok": True}
        launched.engine.answer = stream(*(token(f"{n} ") for n in range(500)), DONE)
        assert world.chat(stream=True).text.count("data: ") == 501
        world.settled()
        # Two connections of the proof, and one that both requests used.
        assert launched.engine.connections == 3
        assert world.gateway.endpoints.snapshot is not None
        assert launched.secret.key not in repr(world.gateway.endpoints.snapshot.targets)


def test_large_bodies_both_ways(world: World, tmp_path: Path) -> None:
    launched = launch(world, Certificate(tmp_path / "own"))
    long = "x" * 3_000_000
    with world.serving():
        launched.engine.answer = whole({"choices": [{"message": {"content": long}}]})
        answer = world.chat(messages=[{"role": "user", "content": long}])
        assert answer.json()["choices"][0]["message"]["content"] == long
        assert long.encode() in launched.engine.wait_request().body


def test_another_certificate_is_never_adopted(world: World, tmp_path: Path) -> None:
    own, other = Certificate(tmp_path / "own"), Certificate(tmp_path / "other")
    launched = launch(world, own, shown=other)
    with world.serving():
        assert world.chat().status_code == 404
        assert STRANGER in world.log("endpoint_unproven")[0]["reason"]
        assert launched.engine.requests == []
        assert launched.engine.probes == 0
        assert launched.engine.keys_seen == set()


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n", "does not speak TLS"),
        (b"", "no answer to TLS within 0.3 s"),
    ],
    ids=["plain HTTP", "silence"],
)
def test_no_tls_where_it_must_be(world: World, tmp_path: Path, says: bytes, reason: str) -> None:
    heard: list[bytes] = []

    def listen(listener: socket.socket) -> None:
        taken, _ = listener.accept()
        with taken:
            heard.append(taken.recv(65536))
            taken.sendall(says)
            heard.append(taken.recv(65536))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=listen, args=(listener,), daemon=True)
        thread.start()
        engine = ScriptedEngine(port=listener.getsockname()[1])
        launched = world.launch(engine=engine, certificate=Certificate(tmp_path / "own").pem)
        with world.serving(connect_timeout=0.3):
            assert reason in world.log("endpoint_unproven")[0]["reason"]
            assert world.chat().status_code == 404
            thread.join(5)
    assert heard[0][:1] == b"\x16"  # a TLS handshake (RFC 8446, 5.1), and nothing before it
    assert launched.secret.key.encode() not in b"".join(heard)
    assert b"models" not in b"".join(heard)


def test_tls_where_the_record_has_no_certificate(world: World, tmp_path: Path) -> None:
    launched = world.launch(tls=Certificate(tmp_path / "own").server)
    with world.serving():
        assert world.chat().status_code == 404
        assert launched.engine.keys_seen == set()


@pytest.mark.parametrize("plain", [False, True])
def test_an_impostor_on_the_port_of_an_engine_that_died(
    world: World, tmp_path: Path, plain: bool
) -> None:
    """It knows everything that can be known but the certificate's key: names, nonce, port."""
    dying = launch(world, Certificate(tmp_path / "dying"))
    launch(world, Certificate(tmp_path / "healthy"))
    with world.serving(connect_timeout=0.5):
        for _ in range(2):
            assert world.chat().status_code == 200
        dying.engine.stop()
        forged = None if plain else Certificate(tmp_path / "forged").server
        impostor = ScriptedEngine(dying.engine.names, None, dying.engine.port, forged)
        with impostor:
            for _ in range(2):
                assert world.chat().status_code == 200
            [failed] = world.log("attempt_failed")
            code = "upstream_unreachable" if plain else "upstream_certificate"
            assert (failed["error"], failed["endpoint"]) == (code, dying.writer.endpoint.key)
            assert plain or STRANGER in failed["message"]
            assert world.log("endpoint_suspect")[0]["endpoint"] == dying.writer.endpoint.key
            asked_again = world.log("endpoint_unproven")[0]["reason"]
            assert ("no answer to TLS" if plain else STRANGER) in asked_again
            assert impostor.requests == []
            assert impostor.keys_seen == set()
            assert [one.verified for one in world.gateway.endpoints.all].count(True) == 1


def test_a_certificate_that_is_none_is_named(world: World) -> None:
    launched = world.launch(certificate="-----BEGIN CERTIFICATE-----\nnone")
    with world.serving():
        [line] = world.log("registry_problem")
        assert line["file"] == f"{launched.writer.endpoint.key}.json"
        assert "certificate cannot be read" in line["message"]
        assert world.chat().status_code == 404
    assert launched.engine.connections == 0


@pytest.mark.parametrize("dates", [("2001", "2002"), ("2101", "2102")])
def test_clocks_of_other_nodes_mean_nothing(
    world: World, tmp_path: Path, dates: tuple[str, str]
) -> None:
    own = Certificate(tmp_path / "own")
    (own.folder / "index.txt").touch()
    (own.folder / "ca.cnf").write_text(
        "[ca]\ndefault_ca = own\n[own]\ndatabase = index.txt\nnew_certs_dir = .\n"
        "default_md = sha256\npolicy = any\nrand_serial = yes\n[any]\ncommonName = supplied\n"
    )
    start, end = (f"{year}0101000000Z" for year in dates)
    for argv in (
        ["openssl", "req", "-new", "-key", KEY_FILE, "-subj", "/CN=x", "-out", "request"],
        [
            *("openssl", "ca", "-config", "ca.cnf", "-selfsign", "-batch", "-notext"),
            *("-keyfile", KEY_FILE, "-startdate", start, "-enddate", end),
            *("-in", "request", "-out", CERTIFICATE_FILE),
        ],
    ):
        subprocess.run(argv, cwd=own.folder, check=True, capture_output=True)
    own.pem = (own.folder / CERTIFICATE_FILE).read_text()
    launch(world, own)
    with world.serving():
        assert world.chat().status_code == 200


def test_the_key_is_closed_to_others(tmp_path: Path) -> None:
    own = Certificate(tmp_path / "own")
    assert (own.folder / KEY_FILE).stat().st_mode & 0o777 == 0o600
    show = ["openssl", "x509", "-noout", "-text"]
    shown = subprocess.run(show, input=own.pem, check=True, capture_output=True, text=True).stdout
    assert "DNS:n1" in shown
    assert "CA:FALSE" in shown
