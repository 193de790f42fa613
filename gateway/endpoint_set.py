"""The endpoints as the event loop knows them: whose identity is proven, and what they do now."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from modeltainer.gateway.body import Body
from modeltainer.gateway.breaker import Breaker
from modeltainer.gateway.identity import IdentityError, verify
from modeltainer.gateway.log import JsonLog
from modeltainer.gateway.pool import Pool
from modeltainer.gateway.registry_follower import Snapshot
from modeltainer.gateway.routing import Table, Target, calm, choose, lasting, table
from modeltainer.gateway.settings import GatewaySettings
from modeltainer.tls import pinned

PROBE_PAUSES_S = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
"""Between two looks at an endpoint that does not prove itself; the last one repeats."""
PROBES_AT_ONCE = 32
LONGEST_NEED_S = 600.0
"""Of one answer, as far as it matters where the job of its endpoint ends: most are far shorter than
their request lets them be."""
LONGEST_REST_S = 30.0
"""An endpoint that asks to be left alone for longer is asked again nevertheless."""


class LiveEndpoint:
    """One endpoint: its target, its connections, its requests in flight."""

    def __init__(self, target: Target, settings: GatewaySettings) -> None:
        self.target = target
        self.pool = Pool(
            target.host,
            target.port,
            limit=settings.max_connections,
            connect_timeout=settings.connect_timeout,
            pool_timeout=settings.pool_timeout,
            tls=pinned(target.certificate) if target.certificate is not None else None,
        )
        self.breaker = Breaker()
        self.outstanding = 0
        self.requests = 0
        self.verified = False
        self.probed = False
        """It was asked at least once."""
        self.reason = "not probed yet"
        self.probe: asyncio.Task[None] | None = None

    def retire(self) -> None:
        """No new requests; running ones keep their connections until they end."""
        self.verified = False
        if self.probe is not None:
            self.probe.cancel()
        self.pool.close()


class EndpointSet:
    """Follows snapshots of the registry; routes only to endpoints that have proven themselves."""

    def __init__(
        self,
        settings: GatewaySettings,
        log: JsonLog,
        token_s: Callable[[str], float] = lambda model: 0.0,
    ) -> None:
        """``token_s``: seconds that a model was seen to take for a token; 0 when not known."""
        self._settings, self._log, self._token_s = settings, log, token_s
        self._live: dict[str, LiveEndpoint] = {}
        self._leaving: list[LiveEndpoint] = []
        """Retired, with requests under way."""
        self._turns: dict[str, int] = {}
        self._turn = 0
        self._resting: dict[str, float] = {}
        """Until when endpoints have asked to be left alone (monotonic seconds), by key."""
        self._models: Mapping[str, tuple[str, ...]] = {}
        self._splits: Mapping[str, Mapping[str, int]] = {}
        self._probing = asyncio.Semaphore(PROBES_AT_ONCE)
        self._first_end_unix = math.inf
        """When the first job of those in the table ends."""
        self.snapshot: Snapshot | None = None
        self.read_at = time.monotonic()
        """When the registry was last read, or this was made (monotonic clock)."""
        self.table = Table()
        self.changed = asyncio.Event()
        """Set, and replaced by a new one, when the table changes."""
        self.looked = asyncio.Event()
        """Set, and replaced by a new one, when the registry was read."""

    def set_models(
        self,
        models: Mapping[str, tuple[str, ...]],
        splits: Mapping[str, Mapping[str, int]] | None = None,
    ) -> None:
        """Names and aliases of models.yaml, and the names that are split among models."""
        self._models, self._splits = models, splits or {}
        self._rebuild()

    def update(self, snapshot: Snapshot) -> None:
        """Take over what the registry says now."""
        if snapshot.listed:
            self.read_at = time.monotonic()
        if self.snapshot is None or snapshot.problems != self.snapshot.problems:
            for name, problem in snapshot.problems.items():
                self._log.warning("registry_problem", file=name, message=problem)
        known, self.snapshot = self.snapshot, snapshot
        if known is None or known.targets != snapshot.targets:
            self._take_over(snapshot)
        looked, self.looked = self.looked, asyncio.Event()
        looked.set()

    def _take_over(self, snapshot: Snapshot) -> None:
        targets = {target.key: target for target in snapshot.targets}
        for key in [key for key in self._live if key not in targets]:
            self._retire(self._live.pop(key))
            self._turns.pop(key, None)
            self._resting.pop(key, None)
            self._log.info("endpoint_gone", endpoint=key)
        for key, target in targets.items():
            live = self._live.get(key)
            if live is not None and _same_server(live.target, target):
                live.target = target
                continue
            if live is not None:
                self._retire(live)
            self._live[key] = LiveEndpoint(target, self._settings)
            self._start_probe(self._live[key])
        self._rebuild()

    def _retire(self, live: LiveEndpoint) -> None:
        live.retire()
        self._leaving = [one for one in (*self._leaving, live) if one.outstanding]

    def pick(
        self, model: str, failed: set[str], body: Body, affinity: bytes | None = None
    ) -> LiveEndpoint | None:
        """The endpoint for one more attempt; None when there is none left."""
        left = [one for one in self._open(model) if one.key not in failed]
        if len(left) == 1:
            target: Target | None = left[0]
        else:
            if self._resting:
                left = [one for one in left if not self._rests(one)] or left
            outstanding = {one.key: self._live[one.key].outstanding for one in left}
            target = choose(
                self._lasting(left, outstanding, model, body),
                outstanding=outstanding,
                last_turn=self._turns,
                affinity=affinity,
            )
        if target is None:
            return None
        self._turn += 1
        self._turns[target.key] = self._turn
        return self._live[target.key]

    def _lasting(
        self, left: Sequence[Target], outstanding: Mapping[str, int], model: str, body: Body
    ) -> Sequence[Target]:
        """Those whose jobs last for long enough, as far as there are such; all that last for the
        reserve where those that last for the answer are overloaded."""
        now, reserve_s = time.time(), self._settings.walltime_reserve
        found = lasting(left, now + reserve_s)
        if now + LONGEST_NEED_S > self._first_end_unix:
            need_s = min(body.max_tokens * self._token_s(model), LONGEST_NEED_S)
            if need_s > reserve_s:
                enough = lasting(found, now + need_s)
                some = len(enough) < len(found)
                if not some or not set(enough).isdisjoint(calm(found, outstanding)):
                    return enough
        return found

    def has_other(self, model: str, failed: set[str]) -> bool:
        """Whether :meth:`pick` would find one that has not asked to be left alone."""
        return any(one.key not in failed and not self._rests(one) for one in self._open(model))

    def leave_alone(self, live: LiveEndpoint, seconds: float) -> None:
        """The server there has asked for no requests for so long; it gets some only where no other
        can serve."""
        self._resting[live.target.key] = time.monotonic() + min(seconds, LONGEST_REST_S)

    def _rests(self, target: Target) -> bool:
        until = self._resting.get(target.key)
        if until is None or time.monotonic() < until:
            return until is not None
        del self._resting[target.key]
        return False

    def opens_in(self, model: str) -> float | None:
        """Seconds until the first of a model's endpoints is let have a request again; None when
        that is not what keeps it from one."""
        now = time.monotonic()
        candidates = self.table.candidates(model)
        if not candidates or self._open(model):
            return None
        return min(self._live[one.key].breaker.opens_in(now) for one in candidates)

    def _open(self, model: str) -> list[Target]:
        now = time.monotonic()
        candidates = self.table.candidates(model)
        return [one for one in candidates if self._live[one.key].breaker.admits(now)]

    def suspect(self, live: LiveEndpoint, reason: str) -> None:
        """The server there could not be reached, or refused the key: it has to prove itself
        again before it gets another request."""
        if self._live.get(live.target.key) is not live or not live.verified:
            return
        live.verified, live.reason = False, reason
        live.pool.drop_idle()
        self._log.warning("endpoint_suspect", endpoint=live.target.key, reason=reason)
        self._start_probe(live)
        self._rebuild()

    def is_new(self, model: str) -> bool:
        """Whether an endpoint of the model was found that nobody has asked for its identity yet."""
        return any(one.target.model == model and not one.probed for one in self._live.values())

    @property
    def all(self) -> list[LiveEndpoint]:
        """Every ready endpoint, proven or not, ordered by key."""
        return [self._live[key] for key in sorted(self._live)]

    @property
    def leaving(self) -> list[LiveEndpoint]:
        """Those that get no more requests and have some under way; several may have one key, and
        that may be a ready one's, too."""
        return [one for one in self._leaving if one.outstanding]

    def in_flight(self) -> dict[str, int]:
        """Requests under way by launch. May be called from any thread."""
        counts: dict[str, int] = {}
        for live in (*list(self._live.values()), *self._leaving):
            name = live.target.launch_id
            counts[name] = counts.get(name, 0) + live.outstanding
        return counts

    def close(self) -> None:
        """Stop probing and close kept connections."""
        for live in self._live.values():
            live.retire()
        self._live.clear()
        self._rebuild()

    def _rebuild(self) -> None:
        proven = [live.target for live in self.all if live.verified]
        self.table = table(proven, self._models, self._splits)
        ends = [one.ends_unix for one in proven if one.ends_unix is not None]
        self._first_end_unix = min(ends, default=math.inf)
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    def _start_probe(self, live: LiveEndpoint) -> None:
        live.probe = asyncio.get_running_loop().create_task(self._prove(live))

    async def _prove(self, live: LiveEndpoint) -> None:
        said = ""
        for attempt in itertools.count():
            try:
                async with self._probing:
                    await verify(live.target, connect_timeout=self._settings.connect_timeout)
            except IdentityError as error:
                live.probed, live.reason = True, str(error)
                if live.reason != said:
                    said = live.reason
                    self._log.warning("endpoint_unproven", endpoint=live.target.key, reason=said)
                await asyncio.sleep(PROBE_PAUSES_S[min(attempt, len(PROBE_PAUSES_S) - 1)])
            else:
                live.probed = live.verified = True
                live.reason = ""
                self._log.info(
                    "endpoint_ready",
                    endpoint=live.target.key,
                    model=live.target.model,
                    address=live.target.address,
                )
                self._rebuild()
                return


def _same_server(one: Target, other: Target) -> bool:
    """Equal but for what may change while a server runs."""
    return replace(one, aliases=(), ends_unix=None) == replace(other, aliases=(), ends_unix=None)
