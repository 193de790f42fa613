"""Whether the gateway grows: its resident memory while a great many requests pass through it.

    python -m modeltainer.bench.gateways.growth --requests 1000000

Rounds of short JSON requests on 32 connections, each round with new connections and a few streams
besides, on the scripted engine; after each round the gateway's memory, and what is open in it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from modeltainer.bench.gateways import contenders
from modeltainer.bench.gateways.contenders import Running
from modeltainer.bench.gateways.cost import memory_kib
from modeltainer.bench.gateways.load import load

CONNECTIONS, STREAMS = 32, 8


async def one_round(gateway: Running, seconds: float) -> tuple[int, int]:
    """Requests that were answered, and those that failed."""
    seen = await asyncio.gather(
        load(gateway.port, CONNECTIONS, seconds, stream=False, key=gateway.key),
        load(gateway.port, STREAMS, seconds / 2, stream=True, key=gateway.key),
    )
    return sum(one.requests for one in seen), sum(one.failed for one in seen)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a line a round: requests so far, failed, MiB, open descriptors."""
    parser = argparse.ArgumentParser(
        prog="python -m modeltainer.bench.gateways.growth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=30.0, help="of a round")
    options = parser.parse_args(argv)
    contenders.raise_file_limit()
    nonce, done, failed = secrets.token_hex(8), 0, 0
    with (
        tempfile.TemporaryDirectory(prefix="growth-") as name,
        contenders.engine(nonce) as port,
        contenders.ours(Path(name), port, nonce) as gateway,
    ):
        assert gateway.pid is not None
        print(f"{'requests':>9}  failed     MiB  descriptors")
        while True:
            memory = memory_kib(gateway.pid) / 1024
            descriptors = len(os.listdir(f"/proc/{gateway.pid}/fd"))
            print(f"{done:9}  {failed:6}  {memory:6.1f}  {descriptors:11}", flush=True)
            if done >= options.requests:
                return 0
            answered, lost = asyncio.run(one_round(gateway, options.seconds))
            done, failed = done + answered, failed + lost
            if not answered:
                print("the gateway answers no more", file=sys.stderr)
                return 1


if __name__ == "__main__":
    sys.exit(main())
