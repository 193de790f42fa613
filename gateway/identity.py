"""Is the server at an endpoint's address the one its launch started?

Ports are reused: by the next job on the node, or by a stranger. Only this launch's engine takes the
launch's key and lists the launch's nonce among its model names, and only then is it given requests.

The key itself is not shown to whatever listens: the first question is asked without it. An engine
that lists its models to everybody (llama-server) has to name the nonce there; one that refuses
(vLLM) answers 401, and only then is the key sent. A stranger who imitates that refusal learns a key
whose engine no longer has this port, and which opens nothing else.
"""

from __future__ import annotations

from typing import Any

import msgspec

from modeltainer.gateway.routing import Target
from modeltainer.gateway.upstream import UpstreamError, connect
from modeltainer.tls import pinned

MAX_LIST_BYTES = 1024 * 1024
_STRANGER = "another server answers there (the launch's nonce is not served)"


class IdentityError(Exception):
    """The server at the address is not (yet) the launch's engine; the message says why."""


async def verify(target: Target, *, connect_timeout: float, timeout: float = 5.0) -> None:
    """Ask ``GET /v1/models``, without the launch's key and then with it.

    Raises:
        IdentityError: no answer, the key is refused, or the nonce or the served name is missing.
    """
    status, names = await _list(target, "", connect_timeout, timeout)
    if status == 200 and target.nonce not in names:
        raise IdentityError(_STRANGER)
    if status not in (200, 401, 403):
        raise IdentityError(f"GET /v1/models answered {status}")
    key = f"Authorization: Bearer {target.api_key}\r\n"
    status, names = await _list(target, key, connect_timeout, timeout)
    if status != 200:
        raise IdentityError(f"GET /v1/models answered {status}")
    if target.nonce not in names:
        raise IdentityError(_STRANGER)
    if target.served_name not in names:
        raise IdentityError(f"it does not serve {target.served_name!r}")


async def _list(
    target: Target, key: str, connect_timeout: float, timeout: float
) -> tuple[int, frozenset[str]]:
    """Status and model names of one ``GET /v1/models``, on a connection of its own."""
    request = (
        f"GET /v1/models HTTP/1.1\r\nHost: {target.address}\r\n{key}"
        "Accept: application/json\r\nAccept-Encoding: identity\r\nConnection: close\r\n\r\n"
    ).encode("latin-1")
    try:
        tls = pinned(target.certificate) if target.certificate is not None else None
        connection = await connect(target.host, target.port, connect_timeout, tls)
        try:
            await connection.send((request,), timeout)
            head = await connection.head(timeout)
            answer = bytearray()
            while (chunk := await connection.chunk(timeout)) is not None:
                answer += chunk
                if len(answer) > MAX_LIST_BYTES:
                    raise IdentityError("its model list is too long")
        finally:
            connection.close()
    except UpstreamError as error:
        raise IdentityError(str(error)) from error
    return head.status, served_names(bytes(answer))


def served_names(answer: bytes) -> frozenset[str]:
    """Every id and alias in an engine's model list (llama-server has ``aliases`` beside ``id``,
    vLLM one entry per served name)."""
    try:
        listed: Any = msgspec.json.decode(answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return frozenset()
    entries = listed.get("data") if isinstance(listed, dict) else None
    names: set[str] = set()
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict):
            aliases = entry.get("aliases")
            found = [entry.get("id"), *(aliases if isinstance(aliases, list) else ())]
            names.update(name for name in found if isinstance(name, str))
    return frozenset(names)
