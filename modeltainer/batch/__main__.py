"""``python -m modeltainer.batch --config models.yaml``: carry out ordered batches.

A gateway runs it so while there is an open batch: a process of its own, since reading and writing
many rows must not hold its clients up. It ends when its standard input does, and of several, on
login nodes that share a registry, one works and the others wait.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx

    from modeltainer.batch.orders import Order
    from modeltainer.gateway.address import GatewayAddress

LEASE_RENEW_S, LEASE_STALE_S = 3.0, 30.0


def main(argv: list[str] | None = None) -> int:
    """Work until there is nothing to do; exit code 2: bad configuration, 3: no gateway here."""
    parser = argparse.ArgumentParser(prog="python -m modeltainer.batch", description=__doc__)
    parser.add_argument("--config", type=Path, help="models.yaml; found as mt-submit does if unset")
    options = parser.parse_args(argv)

    from modeltainer.apptainer.lock import shared_lock
    from modeltainer.batch.orders import BatchBook
    from modeltainer.batch.service import BatchService
    from modeltainer.config.load import load
    from modeltainer.config.problems import ConfigError
    from modeltainer.gateway import address
    from modeltainer.registry.layout import Layout

    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: over.set())

    def until_closed() -> None:
        while os.read(0, 4096):
            pass
        over.set()

    threading.Thread(target=until_closed, name="stdin", daemon=True).start()
    try:
        config = load(options.config)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    layout = Layout(config.site.registry)
    book = BatchBook(layout)
    gateway = address.read(layout)
    if gateway is None:
        print("no gateway serves this registry", file=sys.stderr)
        return 3

    os.umask(0o077)  # answers are for the key that has asked

    def nothing_to_do() -> bool:
        return over.is_set() or not book.anything_open()

    try:
        with shared_lock(
            layout.open_batches.parent / "batches.lock",
            cancelled=nothing_to_do,
            renew_s=LEASE_RENEW_S,
            stale_s=LEASE_STALE_S,
        ) as ours:
            service = BatchService(
                layout, config.gateway.batches, lambda order: client(gateway, order), say
            )
            asyncio.run(service.serve(lambda: over.is_set() or not ours()))
    except KeyboardInterrupt:  # another one has done it all
        return 0
    return 0


def client(gateway: GatewayAddress, order: Order) -> httpx.AsyncClient:
    """A client of the gateway that asks as the key of an order."""
    import httpx

    async def refused(response: httpx.Response) -> None:
        if response.status_code == 401:  # another gateway has come, and gateways have own tokens
            raise httpx.ConnectError("the gateway does not know this process", request=None)

    return httpx.AsyncClient(
        base_url=gateway.url,
        headers={
            "Authorization": f"Bearer {gateway.token}",
            "X-ModelTainer-For": order.key_id,
        },
        transport=httpx.AsyncHTTPTransport(
            uds=gateway.socket, limits=httpx.Limits(max_connections=None)
        ),
        timeout=httpx.Timeout(10.0, read=None, pool=None),
        event_hooks={"response": [refused]},
        trust_env=False,
    )


def say(line: str) -> None:
    """One line with the time, flushed."""
    print(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
