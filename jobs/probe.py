"""Does the engine truly answer? One HTTP exchange at a time, with the standard library."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any

from modeltainer.tls import pinned


class NotYetError(RuntimeError):
    """The engine does not answer as it should, yet; says how."""


@dataclass(frozen=True)
class Target:
    """Where and as whom to ask."""

    host: str
    port: int
    key: str
    served_name: str
    nonce: str
    certificate: str | None = None
    """PEM of the only certificate that is trusted there; None: plain HTTP."""

    def get(self, path: str, timeout_s: float = 5.0) -> tuple[int, bytes]:
        """Status and body of a GET.

        Raises:
            NotYetError: no connection or no whole answer.
        """
        return self._exchange("GET", path, None, timeout_s)

    def post(self, path: str, body: dict[str, Any], timeout_s: float) -> tuple[int, bytes]:
        """Status and body of a POST of JSON. Raises as :meth:`get`."""
        return self._exchange("POST", path, json.dumps(body).encode(), timeout_s)

    def _exchange(
        self, method: str, path: str, body: bytes | None, timeout_s: float
    ) -> tuple[int, bytes]:
        connection = (
            http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)
            if self.certificate is None
            else http.client.HTTPSConnection(
                self.host, self.port, timeout=timeout_s, context=pinned(self.certificate)
            )
        )
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read(1024 * 1024)
        except (OSError, http.client.HTTPException) as error:
            raise NotYetError(f"{method} {path}: {error or type(error).__name__}") from error
        finally:
            connection.close()


def model_ids(body: bytes) -> set[str]:
    """Every name a ``/v1/models`` answer lists, aliases of llama-server included; empty when the
    answer is of another form."""
    try:
        entries = json.loads(body)["data"]
        names = {str(entry["id"]) for entry in entries}
        for entry in entries:
            names.update(str(alias) for alias in entry.get("aliases") or ())
    except (ValueError, KeyError, TypeError, AttributeError):
        return set()
    return names


def check_identity(target: Target) -> None:
    """The server at the port is the one that this agent started.

    Raises:
        NotYetError: it is not up yet, or it is a stranger's: it does not list our nonce.
    """
    status, body = target.get("/health")
    if status != 200:
        raise NotYetError(f"/health answers {status}")
    status, body = target.get("/v1/models")
    if status != 200:
        raise NotYetError(f"/v1/models answers {status}")
    if target.nonce not in model_ids(body):
        raise NotYetError("another server answers on this port")


def check_answers(target: Target, timeout_s: float = 120.0) -> None:
    """One token (or one embedding, for a model that does not generate) comes back.

    Raises:
        NotYetError: with what came instead.
    """
    status, body = target.post(
        "/v1/completions",
        {"model": target.served_name, "prompt": "Hello", "max_tokens": 1},
        timeout_s,
    )
    if status == 200:
        return
    if status in {400, 404, 405, 422, 500, 501}:  # how engines refuse generation, by version
        refused = status, body
        status, body = target.post(
            "/v1/embeddings", {"model": target.served_name, "input": "Hello"}, timeout_s
        )
        if status == 200:
            return
        status, body = refused
    raise NotYetError(f"the one-token probe got {status}: {body[:300].decode(errors='replace')}")
