"""The comparison of gateways: what it measures of one, and that its table shows all of it."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path

from modeltainer.bench.gateways import contenders
from modeltainer.bench.gateways.__main__ import Figures, measure, middle, table
from modeltainer.bench.gateways.cost import memory_kib

STREAMS = Figures("ours", "32 streams", 80, 0, 9.9, 1832.0, 1.21, 3.14, 0.43, 1.29, 943.2)


def test_the_table_has_every_figure() -> None:
    plain = Figures("ours", "JSON, 32 connections", 9000, 0, 12178.2, 81.4)
    alone = Figures("none", "1 streams", 2, 0, 0.3, None, 0.1, 0.2, 0.0, 0.1)
    lines = table([plain, STREAMS, alone], {"ours": "1.2", "none": ""}).splitlines()
    assert "| gateway | requests/s | failed | CPU µs/request |" in lines
    assert "| ours 1.2 | 12178 | 0 | 81 |" in lines
    assert (
        "| gateway | streams/s | failed | CPU µs/stream | TTFT p50 / p99, ms | gap p50 / p99, ms"
        " | KiB a stream |"
    ) in lines
    assert "| ours 1.2 | 9.9 | 0 | 1832 | 1.2 / 3.1 | 0.4 / 1.3 | 943 |" in lines
    assert "| none | 0.3 | 0 | - | 0.1 / 0.2 | 0.0 / 0.1 | - |" in lines


def test_the_median_of_three_rounds_is_of_each_figure() -> None:
    rounds = [
        Figures("ours", "1 streams", 2, 0, 1.0, cpu, ttft, 9.0, gap, 9.0, kib)
        for cpu, ttft, gap, kib in (
            (1.0, 5.0, 9.0, 7.0),
            (2.0, 4.0, 8.0, 1.0),
            (9.0, 1.0, 1.0, 2.0),
        )
    ]
    found = middle(rounds)
    assert (found.cpu_us, found.ttft_p50_ms, found.gap_p50_ms) == (2.0, 4.0, 8.0)
    assert found.kib_per_stream == 2.0


def test_one_stream_and_many_are_measured_on_our_gateway(tmp_path: Path) -> None:
    nonce = secrets.token_hex(8)
    with contenders.engine(nonce) as port, contenders.ours(tmp_path, port, nonce) as ours:
        assert ours.pid is not None
        idle = memory_kib(ours.pid)
        for streams in (1, 8):
            found = asyncio.run(measure(ours, streams, 1.0, idle))
            assert (found.load, found.failed) == (f"{streams} streams", 0)
            assert found.requests >= streams
            figures = (found.ttft_p50_ms, found.ttft_p99_ms, found.gap_p50_ms, found.gap_p99_ms)
            assert None not in (*figures, found.cpu_us, found.kib_per_stream)
