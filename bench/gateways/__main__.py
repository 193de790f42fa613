"""Cost of a gateway, in interleaved rounds beside others, on one engine with known timing.

    python -m modeltainer.bench.gateways --router-venv ~/routers --json gateways.json

The engine alone (``none``), ours, a proxy in Python that does nothing else (:mod:`.bare`), nginx,
vllm-router and sglang-router (those that are installed) get the same load one after the other,
round after round, in changing order. CPU time is the gateway's processes' own, from /proc;
latencies are what the clients see, above the engine's known times. Medians over the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import random
import secrets
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from modeltainer.bench.gateways import contenders
from modeltainer.bench.gateways.contenders import AbsentError, Running
from modeltainer.bench.gateways.cost import cpu_s, memory_kib
from modeltainer.bench.gateways.engine import GAP_S, STREAM_S, TTFT_S
from modeltainer.bench.gateways.load import Seen, load

JSON_CONNECTIONS = 32


@dataclass(frozen=True)
class Figures:
    """One contender under one load."""

    gateway: str
    load: str
    requests: int
    failed: int
    per_s: float
    cpu_us: float | None
    """Of the gateway's own, per request: where they stream, per stream."""
    ttft_p50_ms: float | None = None
    """Above the engine's."""
    ttft_p99_ms: float | None = None
    gap_p50_ms: float | None = None
    gap_p99_ms: float | None = None
    kib_per_stream: float | None = None
    """Growth of resident memory, by the streams that were open."""


async def measure(
    gateway: Running, streams: int, seconds: float, idle_kib: int, *, settled: bool = False
) -> Figures:
    """Load a gateway with so many streams at once; 0: with short JSON requests. ``settled``: count
    CPU time from when all connections are open to the end of ``seconds``."""
    connections = streams or JSON_CONNECTIONS
    seen, loop = Seen(), asyncio.get_running_loop()

    def spent() -> tuple[float, int]:
        return (cpu_s(gateway.pid) if gateway.pid is not None else 0.0), seen.requests

    async def until(second: float) -> None:
        await asyncio.sleep(began + second - loop.time())

    began, first = loop.time(), spent()
    running = asyncio.ensure_future(
        load(gateway.port, connections, seconds, stream=bool(streams), key=gateway.key, seen=seen)
    )
    if settled:
        await until(STREAM_S + 0.5)
        first = spent()
    await until(seconds / 2)
    grown = memory_kib(gateway.pid) - idle_kib if gateway.pid is not None else 0
    if settled:
        await until(seconds)
        last = spent()
        await running
    else:
        await running
        last = spent()
    took = loop.time() - began
    used, counted = last[0] - first[0], last[1] - first[1]
    return Figures(
        gateway=gateway.name,
        load=f"{streams} streams" if streams else f"JSON, {JSON_CONNECTIONS} connections",
        requests=seen.requests,
        failed=seen.failed,
        per_s=round(seen.requests / took, 1),
        cpu_us=round(used / counted * 1e6, 1) if gateway.pid is not None and counted else None,
        **(_latencies(seen) if streams else {}),
        kib_per_stream=round(grown / streams, 1) if streams and gateway.pid else None,
    )


def _latencies(seen: Seen) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, values, truth in (("ttft", seen.ttft_s, TTFT_S), ("gap", seen.gap_s, GAP_S)):
        ordered = sorted(values)
        for percent in (50, 99):
            value = ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]
            found[f"{name}_p{percent}_ms"] = round((value - truth) * 1000, 2)
    return found


def middle(rounds: Sequence[Figures]) -> Figures:
    """Medians over the rounds."""
    first, values = rounds[0], [asdict(one) for one in rounds]
    merged: dict[str, object] = {}
    for name, value in asdict(first).items():
        numbers = [one[name] for one in values if isinstance(one[name], (int, float))]
        merged[name] = statistics.median(numbers) if numbers else value
    return Figures(**merged)  # type: ignore[arg-type]


def table(figures: Sequence[Figures], versions: Mapping[str, str]) -> str:
    """The figures as a Markdown table a load."""
    lines = []
    for shown in dict.fromkeys(one.load for one in figures):
        streams = "streams" in shown
        unit = "stream" if streams else "request"
        lines += ["", f"### {shown}", "", f"| gateway | {unit}s/s | failed | CPU µs/{unit} |"]
        lines[-1] += " TTFT p50 / p99, ms | gap p50 / p99, ms | KiB a stream |" if streams else ""
        lines.append("|---|---|---|---|" + ("---|---|---|" if streams else ""))
        for one in figures:
            if one.load != shown:
                continue
            cpu = "-" if one.cpu_us is None else f"{one.cpu_us:.0f}"
            name = f"{one.gateway} {versions[one.gateway]}".strip()
            rate = f"{one.per_s:.{1 if streams else 0}f}"
            line = f"| {name} | {rate} | {one.failed:.0f} | {cpu} |"
            if streams:
                memory = "-" if one.kib_per_stream is None else f"{one.kib_per_stream:.0f}"
                line += f" {one.ttft_p50_ms:.1f} / {one.ttft_p99_ms:.1f} |"
                line += f" {one.gap_p50_ms:.1f} / {one.gap_p99_ms:.1f} | {memory} |"
            lines.append(line)
    return "\n".join(lines[1:])


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, and write the JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m modeltainer.bench.gateways",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--streams", default="1,32,256,1000", help="loads: how many at once")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each load")
    parser.add_argument(
        "--settled", action="store_true", help="CPU time once all connections are open (over 5 s)"
    )
    parser.add_argument("--router-venv", type=Path, help="has vllm-router and sglang-router")
    parser.add_argument("--json", type=Path, dest="json_file", help="write all rounds there")
    options = parser.parse_args(argv)
    levels = [0, *(int(one) for one in options.streams.split(","))]
    contenders.raise_file_limit()
    rounds: dict[tuple[str, int], list[Figures]] = {}
    with tempfile.TemporaryDirectory(prefix="gateways-") as name, ExitStack() as stack:
        folder, nonce = Path(name), secrets.token_hex(8)
        port = stack.enter_context(contenders.engine(nonce))
        running = [Running("none", "", port, None)]
        others = (
            contenders.ours(folder, port, nonce),
            contenders.bare(folder, port),
            contenders.nginx(folder, port),
            contenders.router("vllm-router", folder, port, options.router_venv),
            contenders.router("sglang-router", folder, port, options.router_venv),
        )
        for other in others:
            try:
                running.append(stack.enter_context(other))
            except AbsentError as error:
                print(f"left out: {error}", file=sys.stderr)
        idle = {one.name: memory_kib(one.pid) if one.pid else 0 for one in running}
        for number in range(options.rounds):
            for level in levels:
                for one in random.sample(running, len(running)):
                    found = asyncio.run(
                        measure(
                            one, level, options.seconds, idle[one.name], settled=options.settled
                        )
                    )
                    rounds.setdefault((one.name, level), []).append(found)
                    print(f"round {number + 1}: {found}", file=sys.stderr)
        versions = {one.name: one.version for one in running}
        figures = [middle(rounds[one.name, level]) for level in levels for one in running]
    machine = f"{contenders.cores()} cores, {platform.machine()}, Python {sys.version.split()[0]}"
    print(f"{machine}; medians of {options.rounds} rounds of {options.seconds:g} s\n")
    print(table(figures, versions))
    if options.json_file is not None:
        document = {
            "machine": machine,
            "versions": versions,
            "rounds": [asdict(one) for found in rounds.values() for one in found],
        }
        options.json_file.write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
