"""``mt-submit gateway``, ``chat``, ``key``, ``tunnel``: a real gateway before a real engine."""

from __future__ import annotations

import configparser
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from modeltainer.cli.conversation import contents
from modeltainer.cli.failures import Failure
from modeltainer.cli.tunnel import Far, far_end, ssh_command
from modeltainer.gateway.user_unit import user_unit
from tests.cli.conftest import Shell


def test_start_chat_status_stop(shell: Shell) -> None:
    assert shell.run("up", "tiny", "--wait").exit_code == 0
    started = shell.run("gateway", "start")
    assert started.exit_code == 0, started.output
    again = shell.run("gateway", "start")
    assert again.exit_code == 0
    assert "already runs" in again.stderr
    said = shell.json("gateway", "status")
    assert said["answers"]
    assert said["socket"] in started.stdout
    question = ["chat", "small", "--max-tokens", "4", "--temperature", "0"]
    streamed = shell.run(*question, "Hello")
    assert streamed.exit_code == 0, streamed.output
    whole = shell.run(*question, "--no-stream", text="Hello")
    assert (whole.exit_code, whole.stdout) == (0, streamed.stdout)
    assert shell.json("ls")[0]["requests"] == 0
    assert "serves: tiny" in shell.run("gateway", "status").stdout
    assert shell.run("gateway", "stop").stdout == "the gateway is stopped\n"
    assert not os.path.exists(said["socket"])  # noqa: PTH110
    assert shell.run("gateway", "status").exit_code == 8


def test_chat_needs_a_key_on_a_door_that_is_not_its_own(shell: Shell) -> None:
    shell.run("up", "tiny", "--wait")
    shell.run("gateway", "start", "--listen", "tcp", "--port", "0")
    url = shell.json("gateway", "status")["url"]
    assert url.startswith("http://127.0.0.1:")
    question = ["chat", "tiny", "Hello", "--max-tokens", "2", "--url", url]
    refused = shell.run(*question)
    assert refused.exit_code == 1
    assert "answered 401" in refused.stderr
    key = shell.run("key", "create", "me").stdout.strip()
    # The gateway reads the folder of keys once in a while.
    deadline = time.monotonic() + 20
    answered = shell.run(*question, "--key", key)
    while answered.exit_code and time.monotonic() < deadline:
        time.sleep(0.1)
        answered = shell.run(*question, "--key", key)
    assert answered.exit_code == 0, answered.output


def test_known_models_that_are_not_up_and_unknown_ones(shell: Shell) -> None:
    shell.run("gateway", "start")
    down = shell.run("chat", "tiny", "Hello")
    assert down.exit_code == 1
    assert "mt-submit up tiny [model_not_ready]\n" in down.stderr
    unknown = shell.run("chat", "nothing", "Hello")
    assert unknown.exit_code == 9
    assert " [model_not_found]\n" in unknown.stderr


def test_a_gateway_that_cannot_start_says_why(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        result = shell.run("gateway", "start", "--listen", "tcp", "--port", port)
    assert result.exit_code == 1
    assert "Address already in use" in result.stderr
    assert "Traceback" not in result.stderr
    assert shell.json("key", "list") == []


def test_no_keys_on_tcp_is_refused(shell: Shell) -> None:
    shell.config.write_text(shell.config.read_text() + "gateway: {auth: none}\n")
    result = shell.run("gateway", "start", "--listen", "tcp")
    assert result.exit_code == 2
    assert "every user of this host" in result.stderr


@pytest.mark.parametrize("arguments", [["chat", "tiny", "x"], ["gateway", "status"], ["tunnel"]])
def test_no_gateway(shell: Shell, arguments: list[str]) -> None:
    result = shell.run(*arguments)
    assert result.exit_code == 8
    assert "mt-submit gateway start" in result.output


def test_an_address_where_nobody_listens(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    result = shell.run("chat", "tiny", "x", "--url", f"http://127.0.0.1:{port}")
    assert result.exit_code == 8


def test_keys(shell: Shell) -> None:
    made = shell.json("key", "create", "course", "--models", "small,dies", "--expires", "7d")
    assert made["models"] == ["tiny", "dies"]
    [listed] = shell.json("key", "list")
    assert listed["id"] == made["id"]
    assert "key" not in listed
    assert "sha256" not in listed
    assert "in 6 d 23 h" in shell.run("key", "list").stdout
    assert shell.run("key", "create", "x", "--models", "nothing").exit_code == 9
    shell.run("key", "create", "course")
    twice = shell.run("key", "revoke", "course")
    assert twice.exit_code == 9
    assert made["id"] in twice.stderr
    assert shell.run("key", "revoke", made["id"]).exit_code == 0
    assert shell.run("key", "revoke", "course").exit_code == 0
    assert shell.json("key", "list") == []


def test_tunnel_prints_the_command_and_the_variables(shell: Shell) -> None:
    shell.run("gateway", "start")
    unix = shell.json("gateway", "status")["socket"]
    arguments = ["tunnel", "--login", "alice@hpc", "--local-port", "9000", "--new-key", "laptop"]
    lines = shell.run(*arguments).stdout.splitlines()
    assert f"-L 127.0.0.1:9000:{unix} alice@hpc" in lines[1]
    assert lines[3] == "export OPENAI_BASE_URL=http://127.0.0.1:9000/v1"
    assert lines[4].startswith("export OPENAI_API_KEY=mt-")
    assert [key["name"] for key in shell.json("key", "list")] == ["laptop"]


@pytest.mark.parametrize(
    ("url", "forward"),
    [
        ("http://127.0.0.1:8000", "127.0.0.1:8000"),
        ("http://0.0.0.0:8000", "127.0.0.1:8000"),
        ("http://[::1]:8000/v1", "[::1]:8000"),
        ("http://10.1.2.3:8000", "10.1.2.3:8000"),
    ],
)
def test_tunnel_to_tcp(url: str, forward: str) -> None:
    far = far_end("login1", None, url)
    assert ssh_command(far, "a@b", 8000)[-2:] == [f"127.0.0.1:8000:{forward}", "a@b"]


def test_tunnel_to_a_socket() -> None:
    assert far_end("login1", "/run/x.sock", None) == Far("login1", "/run/x.sock", None)


def frames(*events: object) -> Iterator[str]:
    for event in events:
        yield f"data: {event if isinstance(event, str) else json.dumps(event)}"
        yield ""


def test_contents_of_a_stream() -> None:
    said = [{"choices": [{"delta": {"content": text}}]} for text in ("Hel", "lo", "")]
    other = [{"choices": []}, {"choices": [{"delta": {"role": "assistant"}}]}, {"usage": {}}]
    assert list(contents([": ping", *frames(*other, *said, "[DONE]")])) == ["Hel", "lo"]


def test_an_error_in_a_stream_is_an_error() -> None:
    error = {"message": "engine died", "code": "upstream_died"}
    with pytest.raises(Failure, match="engine died") as caught:
        list(contents(frames({"error": error})))
    assert caught.value.code == "upstream_died"


def test_a_stream_without_its_end_is_an_error() -> None:
    with pytest.raises(Failure, match="broke off"):
        list(contents(frames({"choices": [{"delta": {"content": "a"}}]})))


def test_the_user_unit_starts_and_ends_a_gateway(shell: Shell, tmp_path: Path) -> None:
    said = shell.run("gateway", "unit")
    assert said.exit_code == 0
    file = tmp_path / "modeltainer-gateway.service"
    file.write_text(said.stdout)
    if shutil.which("systemd-analyze"):
        checked = subprocess.run(
            ["systemd-analyze", "--user", "verify", str(file)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
        )
        assert (checked.returncode, checked.stderr) == (0, "")
    parsed = configparser.RawConfigParser()
    parsed.optionxform = str  # type: ignore[assignment, method-assign]
    parsed.read_string(said.stdout)
    with subprocess.Popen(shlex.split(parsed["Service"]["ExecStart"])) as process:
        deadline = time.monotonic() + 30
        while shell.run("gateway", "status").exit_code and time.monotonic() < deadline:
            time.sleep(0.1)
        assert shell.json("gateway", "status")["answers"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_a_unit_quotes_what_systemd_would_read() -> None:
    text = user_unit(Path("/home/a b/50%/$x/models.yaml"), python="/opt/python", drain_s=30)
    assert '--config "/home/a b/50%%/$$x/models.yaml" gateway start --foreground' in text
    assert "TimeoutStopSec=40" in text
