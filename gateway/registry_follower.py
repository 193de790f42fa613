"""Follows the registry from a thread of its own: shared filesystems may hang, the loop must not."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from modeltainer.gateway.routing import Target
from modeltainer.registry.endpoints import EndpointReader, Sighting
from modeltainer.registry.keys import KeyRing
from modeltainer.registry.launches import read_secret
from modeltainer.registry.layout import Layout
from modeltainer.registry.records import BadRecordError, Endpoint, LaunchSecret, State
from modeltainer.tls import pinned

KEYS_INTERVAL_S = 1.0
"""At most this long until a revoked key is refused."""
LEAST_PAUSE_S = 0.2
"""Between two looks, however many clients ask for one at once."""


@dataclass(frozen=True)
class Snapshot:
    """The registry at one look; never changed afterwards."""

    targets: tuple[Target, ...] = ()
    """Endpoints that are ready, alive and not draining, ordered by key."""
    endpoints: tuple[Sighting, ...] = ()
    """All endpoint files, for the status page."""
    problems: dict[str, str] = field(default_factory=dict)
    """Files that are left out, and why."""
    began: float = 0.0
    """When the look began (monotonic clock): what was written before is in it."""
    listed: bool = True
    """The folder of endpoints could be read."""


class RegistryFollower:
    """Polls endpoint files and keys, and hands each look to ``publish`` (called in the thread)."""

    def __init__(
        self,
        layout: Layout,
        ring: KeyRing,
        publish: Callable[[Snapshot], None],
        *,
        interval_s: float,
        warn: Callable[[str], None],
    ) -> None:
        self._layout, self._ring, self._publish = layout, ring, publish
        self._reader = EndpointReader(layout)
        self._interval_s, self._warn = interval_s, warn
        self._targets: dict[str, tuple[Endpoint, Target, LaunchSecret]] = {}
        """By endpoint file; the reader gives the same record again while the file stays."""
        self._stop, self._wake = threading.Event(), threading.Event()
        self._wanted = False
        self._thread = threading.Thread(target=self._run, name="registry", daemon=True)

    def start(self) -> None:
        """Begin; the first look is published soon after."""
        self._thread.start()

    def stop(self) -> None:
        """End soon; a look that hangs on the filesystem is not waited for."""
        self._stop.set()
        self._wake.set()

    def look_soon(self) -> None:
        """Have a look begun now, and not at the end of the interval."""
        self._wanted = True
        self._wake.set()

    def look(self) -> Snapshot:
        """Read the registry once, in the calling thread."""
        began = time.monotonic()
        sightings = tuple(self._reader.poll())
        problems = dict(self._reader.problems)
        targets: dict[str, tuple[Endpoint, Target, LaunchSecret]] = {}
        for seen in sightings:
            if not seen.alive or seen.endpoint.state is not State.READY:
                continue
            endpoint = seen.endpoint
            key = endpoint.key
            known = self._targets.get(key)
            if known is None or known[0] is not endpoint:
                try:
                    known = (endpoint, *self._target(seen, known))
                except (OSError, BadRecordError, ValueError) as error:
                    problems[f"{key}.json"] = str(error)
                    continue
            targets[key] = known
        self._targets = targets
        return Snapshot(
            tuple([one[1] for one in targets.values()]),
            sightings,
            problems,
            began,
            listed=self._reader.listed,
        )

    def _target(
        self, seen: Sighting, known: tuple[Endpoint, Target, LaunchSecret] | None
    ) -> tuple[Target, LaunchSecret]:
        endpoint = seen.endpoint
        if endpoint.host is None or endpoint.port is None:
            raise BadRecordError("says it is ready, but has no address")
        if known is not None and _identity(known[0]) == _identity(endpoint):
            secret = known[2]  # its lease was renewed, no more
        else:
            secret = self._secret(seen)
        target = Target(
            key=endpoint.key,
            launch_id=endpoint.launch_id,
            model=endpoint.model,
            aliases=endpoint.aliases,
            host=endpoint.host,
            port=endpoint.port,
            served_name=endpoint.served_name or endpoint.model,
            job_id=endpoint.job_id,
            node=endpoint.node,
            started_unix=endpoint.started_unix,
            api_key=secret.key,
            nonce=secret.nonce,
            certificate=secret.certificate,
            ends_unix=endpoint.ends_unix,
        )
        return target, secret

    def _secret(self, seen: Sighting) -> LaunchSecret:
        folder = self._layout.launch(seen.endpoint.launch_id)
        if os.lstat(folder).st_uid != seen.uid:
            raise BadRecordError("its launch folder belongs to another user")
        secret = read_secret(folder)
        if not secret.key.isascii() or not secret.key.isprintable() or not secret.nonce:
            raise BadRecordError("its launch's key cannot be used in a header")
        if secret.certificate is not None:
            pinned(secret.certificate)
        return secret

    def _run(self) -> None:
        interval = min(self._interval_s, KEYS_INTERVAL_S)
        rounds = max(1, round(self._interval_s / interval))
        count = 0
        while not self._stop.is_set():
            try:
                self._ring.refresh()
                wanted, self._wanted = self._wanted, False
                if wanted or count % rounds == 0:
                    self._publish(self.look())
            except RuntimeError:
                return  # the event loop is closed: the gateway has ended
            except Exception as error:  # a fault here must not end the following
                self._warn(f"registry: {type(error).__name__}: {error}")
            ended = time.monotonic()
            count += 1
            if self._wake.wait(interval):
                self._stop.wait(ended + LEAST_PAUSE_S - time.monotonic())
                self._wake.clear()


def _identity(endpoint: Endpoint) -> tuple[str, float]:
    return endpoint.launch_id, endpoint.started_unix
