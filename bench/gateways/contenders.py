"""The gateways that are compared: how each is started, on one engine."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from modeltainer.registry import keys, launches
from modeltainer.registry.endpoints import EndpointWriter
from modeltainer.registry.layout import Layout, new_launch_id
from modeltainer.registry.records import Endpoint, LaunchSecret, State
from modeltainer.spec import LaunchSpec, Resources, Site, Source

START_S = 30.0
MODEL = "bench"

NGINX = """\
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 8192; }}
http {{
  access_log off; client_body_temp_path {folder}; proxy_temp_path {folder};
  fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
  keepalive_requests 1000000;
  upstream engine {{ server 127.0.0.1:{engine}; keepalive 2048; }}
  server {{
    listen 127.0.0.1:{port} backlog=2048;
    location / {{
      proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_read_timeout 600s;
    }}
  }}
}}
"""


@dataclass(frozen=True)
class Running:
    """One gateway at work."""

    name: str
    version: str
    port: int
    pid: int | None
    """None for the engine itself."""
    key: str = "none"


class AbsentError(RuntimeError):
    """Not installed here."""


@contextmanager
def engine(nonce: str) -> Iterator[int]:
    """Start the engine; gives its port."""
    argv = [sys.executable, "-m", "modeltainer.bench.gateways.engine", MODEL, nonce]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.terminate()


@contextmanager
def ours(folder: Path, engine_port: int, nonce: str) -> Iterator[Running]:
    """The gateway of this checkout, on a registry with one endpoint."""
    from modeltainer.__about__ import __version__

    layout = Layout(folder / "registry")
    layout.create()
    _, key = keys.create(layout, "bench")
    launch_id = new_launch_id(MODEL, 0)
    secret = LaunchSecret(key=key, nonce=nonce)
    spec = LaunchSpec(
        launch_id=launch_id,
        model=MODEL,
        replica=0,
        engine="vllm",
        runtime="native",
        source=Source("hub", "org/bench"),
        resources=Resources(),
        site=Site(registry=str(layout.root), cache=str(folder)),
    )
    launches.create(layout, spec, secret)
    record = Endpoint(
        launch_id=launch_id,
        model=MODEL,
        replica=0,
        job_id="1",
        owner="bench",
        engine="vllm",
        runtime="native",
        state=State.READY,
        node="here",
        host="127.0.0.1",
        port=engine_port,
        served_name=MODEL,
        started_unix=time.time(),
        period_s=3600.0,
    )
    EndpointWriter(layout, record).write()
    port = free_port()
    config = folder / "models.yaml"
    config.write_text(
        f"site: {{registry: {layout.root}, executor: local}}\n"
        f"gateway: {{listen: tcp, port: {port}, reconcile: false, max_connections: 4096}}\n"
        f"models: {{{MODEL}: {{engine: vllm, source: org/bench}}}}\n"
    )
    argv = [sys.executable, "-m", "modeltainer.gateway", "--config", str(config)]
    with started(argv, folder / "ours.log", port, key) as pid:
        yield Running("ours", __version__, port, pid, key)


@contextmanager
def bare(folder: Path, engine_port: int) -> Iterator[Running]:
    """A proxy in Python that does nothing else."""
    port = free_port()
    argv = [sys.executable, "-m", "modeltainer.bench.gateways.bare", str(engine_port), str(port)]
    with started(argv, folder / "bare.log", port) as pid:
        yield Running("bare Python", "", port, pid)


@contextmanager
def nginx(folder: Path, engine_port: int) -> Iterator[Running]:
    """nginx with one worker, as Debian ships it."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        raise AbsentError("nginx is not installed (apt-get install nginx-light)")
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, engine=engine_port, port=port))
    shown = subprocess.run([program, "-v"], capture_output=True, text=True, check=True).stderr
    argv = [program, "-c", str(config), "-p", str(folder)]
    with started(argv, folder / "nginx.log", port) as pid:
        yield Running("nginx", shown.strip().rpartition("/")[2], port, pid)


@contextmanager
def router(name: str, folder: Path, engine_port: int, venv: Path | None) -> Iterator[Running]:
    """A Rust router from PyPI, out of a virtual environment that has it."""
    program = None if venv is None else venv / "bin" / name
    if venv is None or program is None or not program.exists():
        raise AbsentError(f"{name} is not in --router-venv (pip install {name} there)")
    ask = f"import importlib.metadata as m; print(m.version({name!r}))"
    version = subprocess.run(
        [venv / "bin" / "python", "-c", ask], capture_output=True, text=True, check=True
    ).stdout
    port, metrics = free_port(), free_port()
    argv = [str(program), *(["launch"] if name == "sglang-router" else [])]
    argv += ["--host", "127.0.0.1", "--port", str(port)]
    argv += ["--worker-urls", f"http://127.0.0.1:{engine_port}"]
    argv += ["--policy", "round_robin", "--prometheus-port", str(metrics)]
    with started(argv, folder / f"{name}.log", port) as pid:
        yield Running(name, version.strip(), port, pid)


@contextmanager
def started(
    argv: list[str], log: Path, port: int, key: str = "none", model: str = MODEL
) -> Iterator[int]:
    """Run a gateway as soon as it passes a request for ``model``; gives its process id."""
    with log.open("wb") as out:
        process = subprocess.Popen(argv, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_S
        while not _answers(port, key, model):
            if process.poll() is not None or time.monotonic() > deadline:
                said = log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{argv[0]} does not answer; it said:\n{said}")
            time.sleep(0.1)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(port: int, key: str, model: str) -> bool:
    import httpx

    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    try:
        answer = httpx.post(
            f"http://127.0.0.1:{port}/v1/chat/completions",
            json=body,
            headers={"authorization": f"Bearer {key}"},
            timeout=5,
            trust_env=False,
        )
    except httpx.HTTPError:
        return False
    return answer.status_code == 200


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def raise_file_limit() -> None:
    """For a thousand streams; what is started inherits it."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def cores() -> int:
    """CPU cores that may be used."""
    return len(os.sched_getaffinity(0))
