"""Talking to the gateway from here: over its Unix socket or TCP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from modeltainer.cli.exit_codes import GATEWAY_UNREACHABLE, NO_MATCH
from modeltainer.cli.failures import Failure

if TYPE_CHECKING:
    import ssl

    import httpx

    from modeltainer.gateway.address import GatewayAddress
    from modeltainer.registry.layout import Layout
    from modeltainer.registry.records import Endpoint, LaunchSecret


@dataclass(frozen=True)
class Door:
    """One way to a gateway."""

    url: str
    """Base URL, without ``/v1``; its host means nothing with a socket."""
    socket: str | None = None
    key: str = ""
    certificate: str | None = None
    """PEM; an engine of this user's own that has this certificate and no other."""

    @property
    def name(self) -> str:
        """For people."""
        return f"unix:{self.socket}" if self.socket else self.url

    @property
    def verify(self) -> ssl.SSLContext | bool:
        """Whom to trust over https, as httpx takes it."""
        if self.certificate is None:
            return True
        from modeltainer.tls import pinned

        return pinned(self.certificate)

    @contextmanager
    def client(self, read_timeout_s: float) -> Iterator[httpx.Client]:
        """An HTTP client whose requests go through this door with its key.

        Args:
            read_timeout_s: longest wait between two pieces of an answer.
        """
        import httpx

        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        # trust_env off: a proxy set for the web must not get requests for the login node.
        with httpx.Client(
            base_url=self.url,
            headers=headers,
            transport=httpx.HTTPTransport(uds=self.socket) if self.socket else None,
            timeout=httpx.Timeout(5.0, read=read_timeout_s),
            verify=self.verify,
            trust_env=False,
        ) as client:
            yield client


def own_door(layout: Layout) -> Door:
    """The door to this registry's gateway, with the key that it keeps for its owner.

    Raises:
        Failure: none runs, or it runs where it cannot be reached from.
    """
    from modeltainer.gateway import address

    found = address.read(layout)
    if found is None or found.alive is False:
        raise Failure(
            "no gateway runs", "start one with: mt-submit gateway start", GATEWAY_UNREACHABLE
        )
    return door_of(found)


def door_of(found: GatewayAddress) -> Door:
    """The door of one gateway.

    Raises:
        Failure: it has a Unix socket on another host, or listens on another host's loopback.
    """
    if not found.here and (found.socket or "//127." in found.url or "//[::1]" in found.url):
        raise Failure(
            f"the gateway runs on {found.host} and can only be reached from there",
            f"log in to {found.host}, or run: mt-submit tunnel",
            GATEWAY_UNREACHABLE,
        )
    return Door(found.url, found.socket, found.token)


def chosen_door(layout: Callable[[], Layout], url: str | None, key: str | None) -> Door:
    """The door that ``--url`` and ``--key`` name; without a URL this registry's own gateway's.

    Args:
        url: ``http://host:port`` (with or without ``/v1``) or ``unix:/path``. Behind ``https://``
            is an engine of this registry's, with the certificate that it pins, or else any server
            that the web's authorities vouch for.

    Raises:
        Failure: no URL is given, and no gateway runs.
    """
    if url is None:
        own = own_door(layout())
        return Door(own.url, own.socket, key or own.key)
    if url.startswith("unix:"):
        return Door("http://localhost", url.removeprefix("unix:"), key or "")
    certificate = certificate_at(layout, url)
    return Door(url.rstrip("/").removesuffix("/v1"), None, key or "", certificate)


def certificate_at(layout: Callable[[], Layout], url: str) -> str | None:
    """The certificate (PEM) of this registry's endpoint at an ``https://`` URL; None where the URL
    is another server's, or there is no configuration that names a registry.

    Raises:
        Failure: the endpoint is this registry's, and its launch's secret cannot be read.
    """
    parts = urlsplit(url)
    if parts.scheme != "https":
        return None
    from modeltainer.config.problems import ConfigError

    try:
        known = layout()
        place = parts.hostname, parts.port
        newest = _newest(known, lambda one: ((one.host or "").lower(), one.port) == place)
    except (ConfigError, ValueError):
        return None
    if newest is None:
        return None
    try:
        return _secret_of(known, newest).certificate
    except ValueError as error:
        raise Failure(
            f"{url} is an endpoint of yours, and its certificate cannot be read: {error}",
            "go through the gateway instead: leave out --url",
        ) from error


def engine_door(layout: Layout, model: str) -> Door:
    """The door to a ready engine of this registry itself, the newest one of a model.

    Args:
        model: its name; an alias is the gateway's.

    Raises:
        Failure: none is ready, or its launch's secret cannot be read.
    """
    from modeltainer.registry.records import State

    newest = _newest(layout, lambda one: one.state is State.READY and one.model == model)
    if newest is None or newest.url is None:
        raise Failure(
            f"no engine of {model} is ready", "mt-submit ls shows what there is", NO_MATCH
        )
    try:
        secret = _secret_of(layout, newest)
    except ValueError as error:
        raise Failure(f"the key of {newest.launch_id} cannot be read: {error}") from error
    return Door(newest.url, None, secret.key, secret.certificate)


def _newest(layout: Layout, wanted: Callable[[Endpoint], bool]) -> Endpoint | None:
    """Of this registry's endpoints that are wanted: a killed launch may have left its record, and
    its port to the next one."""
    from modeltainer.registry.endpoints import EndpointReader

    found = [seen.endpoint for seen in EndpointReader(layout).poll()]
    return max(filter(wanted, found), key=lambda one: one.started_unix, default=None)


def _secret_of(layout: Layout, endpoint: Endpoint) -> LaunchSecret:
    """Its launch's secret.

    Raises:
        ValueError: it cannot be read; the message says why.
    """
    from modeltainer.registry.launches import read_secret

    try:
        return read_secret(layout.launch(endpoint.launch_id))
    except OSError as error:
        raise ValueError(str(error)) from error


def answers(door: Door, path: str = "/health") -> bool:
    """Whether the gateway answers ``path`` with 200, within two seconds."""
    import httpx

    try:
        with door.client(read_timeout_s=2.0) as client:
            return client.get(path).status_code == 200
    except (httpx.HTTPError, OSError):
        return False


def status(layout: Layout) -> dict[str, Any] | None:
    """The gateway's own account of itself; None where none can be reached from here."""
    import httpx

    try:
        with own_door(layout).client(read_timeout_s=2.0) as client:
            answer = client.get("/admin/status")
            found: Any = answer.json() if answer.status_code == 200 else None
    except (Failure, httpx.HTTPError, OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def requests_in_flight(layout: Layout) -> dict[str, int]:
    """Running requests by launch id; empty without a gateway."""
    from modeltainer.gateway import address

    found = address.read(layout)
    if found is None or found.alive is False:
        return {}  # the common case on a fresh login, and it must not cost httpx's import
    counts = (status(layout) or {}).get("in_flight_by_launch")
    return counts if isinstance(counts, dict) else {}
