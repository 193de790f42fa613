"""What a key may use: requests and tokens a minute, and requests at once.

Pure: time comes in. A request reserves what it may need in one step, so that requests that arrive
together cannot all see the same room; when it is over it is settled with what it did need.
Each rate is a bucket that holds one minute's worth and fills steadily.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from modeltainer.registry.keys import KeyRecord

BYTES_PER_TOKEN = 4
"""Of a prompt, roughly; the engine's own count is put in its place in the end."""


@dataclass(frozen=True)
class Refusal:
    """Which limit a request is over."""

    limit: str
    """``requests``, ``tokens`` or ``concurrent``; ``keys``: there is no room to count its key's."""
    allowed: int
    retry_after_s: float


@dataclass
class Reservation:
    """What one running request has been promised; :attr:`tokens` is 0 without a token limit."""

    tokens: int


class Levels(NamedTuple):
    """What is in a key's buckets, and when that was so."""

    requests: float
    requests_at: float
    tokens: float
    tokens_at: float


class Bucket:
    """Holds ``per_minute`` at most, and gains as much each minute; debts are allowed."""

    def __init__(self, per_minute: int, now: float) -> None:
        self.per_minute = per_minute
        self._level, self._at = float(per_minute), now

    @property
    def state(self) -> tuple[float, float]:
        """Its level, and when it had that."""
        return self._level, self._at

    @state.setter
    def state(self, found: tuple[float, float]) -> None:
        self._level, self._at = found

    def level(self, now: float) -> float:
        """What is there."""
        gained = max(0.0, now - self._at) * self.per_minute / 60
        return min(float(self.per_minute), self._level + gained)

    def take(self, amount: float, now: float) -> None:
        """Take, or with a negative amount give back."""
        self._level, self._at = min(float(self.per_minute), self.level(now) - amount), now

    def wait_s(self, amount: float, now: float) -> float:
        """Seconds until ``amount`` is there; 0 when it is."""
        return max(0.0, amount - self.level(now)) * 60 / self.per_minute


def is_full(rpm: int, tpm: int, levels: Levels, now: float) -> bool:
    """Whether buckets of these sizes, with no limit where that is 0, are full again."""
    return (
        levels.requests + max(0.0, now - levels.requests_at) * rpm / 60 >= rpm
        and levels.tokens + max(0.0, now - levels.tokens_at) * tpm / 60 >= tpm
    )


class Limits(Protocol):
    """One key's limits, wherever their state is."""

    def reserve(self, tokens: int | None, now: float) -> Reservation | Refusal:
        """Let a request in that may need up to ``tokens`` (None: it uses none), or say why not."""
        ...

    def settle(self, reservation: Reservation, tokens: int, now: float) -> None:
        """A request is over and has needed ``tokens``; to be called once."""
        ...


class AnyLimiter(Protocol):
    """The limits of all keys."""

    def of(self, key: KeyRecord, now: float) -> Limits | None:
        """A key's limits; None when it has none."""
        ...


class KeyLimits:
    """The state of one key's limits."""

    def __init__(self, key: KeyRecord, now: float) -> None:
        self._requests = Bucket(key.rpm, now) if key.rpm else None
        self._tokens = Bucket(key.tpm, now) if key.tpm else None
        self._concurrent = key.concurrent
        self.running = 0

    @property
    def levels(self) -> Levels:
        """What is in the buckets."""
        requests, tokens = self._requests, self._tokens
        return Levels(
            *(requests.state if requests is not None else (0.0, 0.0)),
            *(tokens.state if tokens is not None else (0.0, 0.0)),
        )

    @levels.setter
    def levels(self, found: Levels) -> None:
        if self._requests is not None:
            self._requests.state = found.requests, found.requests_at
        if self._tokens is not None:
            self._tokens.state = found.tokens, found.tokens_at

    def reserve(self, tokens: int | None, now: float) -> Reservation | Refusal:
        """Let a request in that may need up to ``tokens`` (None: it uses none), or say why not.

        One that may need more than a minute's worth has to wait for a full bucket.
        """
        if self._concurrent is not None and self.running >= self._concurrent:
            return Refusal("concurrent", self._concurrent, 1.0)
        if self._requests is not None and (wait := self._requests.wait_s(1, now)) > 0:
            return Refusal("requests", self._requests.per_minute, wait)
        wanted = 0
        if self._tokens is not None and tokens is not None:
            wanted = min(tokens, self._tokens.per_minute)
            if (wait := self._tokens.wait_s(wanted, now)) > 0:
                return Refusal("tokens", self._tokens.per_minute, wait)
            self._tokens.take(wanted, now)
        if self._requests is not None:
            self._requests.take(1, now)
        self.running += 1
        return Reservation(wanted)

    def settle(self, reservation: Reservation, tokens: int, now: float) -> None:
        """A request is over and has needed ``tokens``; to be called once."""
        self.running -= 1
        if self._tokens is not None:
            self._tokens.take(tokens - reservation.tokens, now)


class Limiter:
    """The limits of all keys that have some."""

    def __init__(self) -> None:
        self._by_key: dict[str, KeyLimits] = {}

    def of(self, key: KeyRecord, now: float) -> KeyLimits | None:
        """A key's state; None when it has no limits. Key files never change, so an id's limits do
        not either."""
        if not key.limited:
            return None
        found = self._by_key.get(key.id)
        if found is None:
            found = self._by_key[key.id] = KeyLimits(key, now)
        return found
