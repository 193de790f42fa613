"""What a large registry costs the gateway: its idle CPU, and how soon it sees a change.

``python -m modeltainer.bench.many_endpoints [--endpoints N] [--models N] [--seconds S]`` writes
that many endpoint files, renews their leases every 5 s as agents do, starts a gateway over them and
prints one JSON object. All endpoints lead to one small server on loopback that answers every key
and lists every nonce; one of them has a port of its own, to be closed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from modeltainer.bench.gateways.contenders import free_port, started
from modeltainer.registry import keys, launches
from modeltainer.registry.endpoints import EndpointWriter
from modeltainer.registry.layout import Layout, new_launch_id
from modeltainer.registry.records import Endpoint, State
from modeltainer.spec import LaunchSpec, Resources, Site, Source

PERIOD_S = 5.0
SETTLE_S = 10.0
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"


class Engines:
    """Every engine at once, on as many ports as are asked for."""

    def __init__(self) -> None:
        self.nonces: set[str] = set()
        self.answered: dict[int, int] = {}
        self._loop = asyncio.new_event_loop()
        self._servers: dict[int, asyncio.Server] = {}
        self._writers: dict[int, set[asyncio.StreamWriter]] = {}
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def open(self) -> int:
        """One more port."""
        return asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()

    def close(self, port: int) -> None:
        """Close a port and its connections, as a process that dies does."""

        async def end() -> None:
            self._servers.pop(port).close()
            for writer in self._writers.pop(port):
                writer.transport.abort()

        asyncio.run_coroutine_threadsafe(end(), self._loop).result()

    async def _open(self) -> int:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port: int = server.sockets[0].getsockname()[1]
        self._servers[port], self._writers[port], self.answered[port] = server, set(), 0
        return port

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port: int = writer.get_extra_info("sockname")[1]
        self._writers[port].add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = head.partition(b"content-length:")[2].split(b"\r\n", 1)[0]
                await reader.readexactly(int(length or 0))
                if head.startswith(b"get"):
                    listed = [{"id": "engine", "aliases": sorted(self.nonces)}]
                    body = json.dumps({"data": listed}).encode()
                else:
                    self.answered[port] += 1
                    body = b'{"choices": []}'
                writer.write(_HEAD % len(body) + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.get(port, set()).discard(writer)
            writer.close()


@dataclass
class Registry:
    """Endpoint files with their writers."""

    layout: Layout
    engines: Engines
    writers: list[EndpointWriter]

    def add(self, model: str, port: int) -> EndpointWriter:
        """One more endpoint, ready."""
        number = len(self.writers)
        secret = launches.new_secret()
        self.engines.nonces |= {secret.nonce, model}
        spec = LaunchSpec(
            launch_id=new_launch_id(model, number),
            model=model,
            replica=number,
            engine="vllm",
            runtime="native",
            source=Source("hub", f"org/{model}"),
            resources=Resources(),
            site=Site(registry=str(self.layout.root), cache=str(self.layout.root)),
        )
        launches.create(self.layout, spec, secret)
        record = Endpoint(
            launch_id=spec.launch_id,
            model=model,
            replica=number,
            job_id=str(1000 + number),
            owner="me",
            engine="vllm",
            runtime="native",
            state=State.READY,
            node=f"n{number}",
            host="127.0.0.1",
            port=port,
            served_name=model,
            started_unix=time.time(),
            period_s=PERIOD_S,
        )
        writer = EndpointWriter(self.layout, record)
        writer.write()
        self.writers.append(writer)
        return writer

    def renew(self, stop: threading.Event) -> None:
        """Every lease once in its period, evenly, until ``stop``."""
        while not stop.is_set():
            began, writers = time.monotonic(), list(self.writers)
            for number, writer in enumerate(writers):
                writer.write()
                due = began + PERIOD_S * (number + 1) / len(writers)
                if stop.wait(max(0.0, due - time.monotonic())):
                    return


@contextmanager
def ending(thread: threading.Thread, stop: threading.Event) -> Iterator[None]:
    """The thread runs inside, and has ended after."""
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def waited(true: Callable[[], bool], within_s: float = 60.0) -> float:
    """Seconds until ``true``."""
    began = time.monotonic()
    while not true():
        if time.monotonic() - began > within_s:
            raise TimeoutError
        time.sleep(0.02)
    return time.monotonic() - began


def measure(endpoints: int, models: int, seconds: float) -> dict[str, object]:
    """All figures."""
    engines = Engines()
    port, mortal_port = engines.open(), engines.open()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        layout = Layout(folder / "registry")
        layout.create()
        _, key = keys.create(layout, "bench")
        registry = Registry(layout, engines, [])
        mortal = registry.add("model-0", mortal_port)
        for number in range(1, endpoints):
            registry.add(f"model-{number % models}", port)
        names = {f"model-{number}": None for number in range(models)} | {"late": None}
        listed = "".join(f"  {one}: {{engine: vllm, source: org/{one}}}\n" for one in names)
        gateway_port = free_port()
        config = folder / "models.yaml"
        config.write_text(
            f"site: {{registry: {layout.root}, executor: local}}\n"
            f"gateway: {{listen: tcp, port: {gateway_port}, reconcile: false}}\nmodels:\n{listed}"
        )
        stop = threading.Event()
        renewing = threading.Thread(target=registry.renew, args=(stop,), daemon=True)
        argv = [sys.executable, "-m", "modeltainer.gateway", "--config", str(config)]
        headers = {"authorization": f"Bearer {key}"}
        url = f"http://127.0.0.1:{gateway_port}"
        with (
            ending(renewing, stop),
            started(argv, folder / "gateway.log", gateway_port, key, "model-1") as pid,
            httpx.Client(base_url=url, headers=headers, timeout=30) as client,
        ):

            def routed() -> dict[str, bool]:
                status = client.get("/admin/status").json()["endpoints"]
                return {one["endpoint"]: one["routed"] for one in status}

            def ask(model: str) -> int:
                body = {"model": model, "messages": []}
                return client.post("/v1/chat/completions", json=body).status_code

            proven_s = waited(lambda: sum(routed().values()) == endpoints)
            time.sleep(SETTLE_S)
            before, began = cpu_seconds(pid), time.monotonic()
            time.sleep(seconds)
            idle = (cpu_seconds(pid) - before) / (time.monotonic() - began)
            resident = Path(f"/proc/{pid}/statm").read_text().split()[1]

            registry.add("late", port)
            new_s = waited(lambda: ask("late") == 200)

            while engines.answered[mortal_port] == 0:
                ask("model-0")
            engines.close(mortal_port)
            registry.writers.remove(mortal)  # its agent has died with it: nobody says so
            statuses: list[int] = []

            def out() -> bool:
                statuses.extend(ask("model-0") for _ in range(20))
                return not routed().get(mortal.endpoint.key, False)

            dead_s = waited(out)
            statuses += [ask("model-0") for _ in range(200)]

            ended = registry.writers[5]
            registry.writers.remove(ended)
            ended.write(state=State.ENDED)
            ended_s = waited(lambda: not routed().get(ended.endpoint.key, False))
    return {
        "endpoints": endpoints,
        "models": models,
        "all_proven_after_s": round(proven_s, 2),
        "idle_cpu_percent": round(idle * 100, 2),
        "resident_mib": int(resident) * os.sysconf("SC_PAGE_SIZE") // 2**20,
        "new_routable_after_s": round(new_s, 2),
        "dead_out_after_s": round(dead_s, 2),
        "requests_meanwhile": len(statuses),
        "failed_meanwhile": sum(status != 200 for status in statuses),
        "ended_out_after_s": round(ended_s, 2),
    }


def main(argv: list[str] | None = None) -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endpoints", type=int, default=1000)
    parser.add_argument("--models", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=30.0, help="of watching it idle")
    options = parser.parse_args(argv)
    print(json.dumps(measure(options.endpoints, options.models, options.seconds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
