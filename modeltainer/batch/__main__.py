"""``python -m modeltainer.batch --config models.yaml``: carry out ordered batches.

A gateway runs it so while there is an open batch: a process of its own, since reading and writing
many rows must not hold its clients up. It ends when its standard input does, and of several, on
login nodes that share a registry, one works and the others wait.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

from modeltainer.companion import (
    LEASE_RENEW_S,
    LEASE_STALE_S,
    config_option,
    say,
    told_to_end,
)

if TYPE_CHECKING:
    import httpx

    from modeltainer.batch.orders import Order
    from modeltainer.gateway.address import GatewayAddress


def main(argv: list[str] | None = None) -> int:
    """Work until there is nothing to do; exit code 2: bad configuration, 3: no gateway here."""
    config_file = config_option("modeltainer.batch", __doc__, argv)

    from modeltainer.apptainer.lock import shared_lock
    from modeltainer.batch.orders import BatchBook
    from modeltainer.batch.service import BatchService
    from modeltainer.config.load import load
    from modeltainer.config.problems import ConfigError
    from modeltainer.gateway import address
    from modeltainer.registry.layout import Layout

    over = told_to_end()
    try:
        config = load(config_file)
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
            layout.batches / "batches.lock",
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


if __name__ == "__main__":
    sys.exit(main())
