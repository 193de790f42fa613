"""Who has used how much: one JSON line per request, one file per day and gateway host."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from modeltainer.registry.days import DAY_S, day_end, day_of
from modeltainer.registry.layout import Layout

_FILE = re.compile(r"(\d{4}-\d{2}-\d{2})\.[A-Za-z0-9._-]+\.jsonl")
By = Literal["key", "model", "day", "user"]


class UsageRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One request that reached an engine. In files, fields at their defaults are left out."""

    unix: float
    key_id: str
    key_name: str
    model: str
    route: str
    status: int
    seconds: float
    prompt_tokens: int | None = None
    """As the engine counts them; None where it never said (the answer broke off before)."""
    completion_tokens: int | None = None
    events: int = 0
    """Events of a stream that were passed on: about its tokens, where there is no count."""
    whole: bool = True
    """The answer came to its end."""
    user: str | None = None
    """``user`` of the request, as the client gave it."""
    request_id: str = ""


@dataclass
class Total:
    """Sums over some requests."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    uncounted: int = 0
    """Requests whose tokens no engine has counted in full."""
    uncounted_events: int = 0
    """Events of those streams: about the tokens that are missing above."""

    def add(self, record: UsageRecord) -> None:
        """Count one more."""
        self.requests += 1
        self.prompt_tokens += record.prompt_tokens or 0
        self.completion_tokens += record.completion_tokens or 0
        if record.prompt_tokens is None or record.completion_tokens is None:
            self.uncounted += 1
            self.uncounted_events += record.events


def append(layout: Layout, host: str, records: Sequence[UsageRecord]) -> None:
    """Add lines to the host's file of each record's day (UTC); one host, one writer.

    Raises:
        OSError: the registry cannot be written.
    """
    by_day: dict[str, list[bytes]] = {}
    day, ends_unix = "", 0.0
    for record in records:
        if not ends_unix - DAY_S <= record.unix < ends_unix:
            day, ends_unix = day_of(record.unix), day_end(record.unix)
        by_day.setdefault(day, []).append(msgspec.json.encode(record) + b"\n")
    layout.usage.mkdir(mode=0o700, parents=True, exist_ok=True)
    for day, lines in by_day.items():
        file = layout.usage / f"{day}.{host}.jsonl"
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "ab") as out:
            out.write(b"".join(lines))


def read(layout: Layout, since_unix: float = 0.0) -> Iterable[UsageRecord]:
    """Every record from a time on; lines that are damaged or cut off are left out."""
    first = day_of(since_unix)
    try:
        names = sorted(os.listdir(layout.usage))
    except FileNotFoundError:
        return
    for name in names:
        match = _FILE.fullmatch(name)
        if match is None or match[1] < first:
            continue
        with (layout.usage / name).open("rb") as lines:
            for line in lines:
                try:
                    record = msgspec.json.decode(line, type=UsageRecord)
                except (msgspec.MsgspecError, UnicodeDecodeError):
                    continue
                if record.unix >= since_unix:
                    yield record


def totals(records: Iterable[UsageRecord], by: By) -> dict[str, Total]:
    """Sums by key (its name and id), model, day (UTC) or user, ordered by name."""
    found: dict[str, Total] = {}
    for record in records:
        if by == "key":
            name = f"{record.key_name} ({record.key_id})"
        elif by == "model":
            name = record.model
        elif by == "user":
            name = record.user or "-"
        else:
            name = day_of(record.unix)
        found.setdefault(name, Total()).add(record)
    return dict(sorted(found.items()))
