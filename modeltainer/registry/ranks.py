"""What the nodes of one launch say to each other, in files of its launch folder.

A launch over several nodes has one agent on each. That of rank 0, the head, writes the rendezvous
and is the only one that registers an endpoint. Each other keeps a file of its own with a lease, as
endpoints have, and with the cause once its part has ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from modeltainer.registry.atomic import read_bounded, write_whole
from modeltainer.registry.endpoints import LEASE_PERIODS
from modeltainer.registry.layout import Layout
from modeltainer.registry.records import (
    MAX_RECORD_BYTES,
    BadRecordError,
    Cause,
    RankRecord,
    Rendezvous,
    decode,
    encode,
)


def write_rendezvous(layout: Layout, launch_id: str, rendezvous: Rendezvous) -> None:
    """Tell the other ranks where to meet.

    Raises:
        OSError: the registry cannot be written.
    """
    layout.ranks(launch_id).mkdir(mode=0o700, exist_ok=True)
    write_whole(layout.rendezvous(launch_id), encode(rendezvous))


def read_rendezvous(layout: Layout, launch_id: str) -> Rendezvous | None:
    """Where to meet; None while the head has not said so."""
    try:
        data, _ = read_bounded(layout.rendezvous(launch_id), MAX_RECORD_BYTES)
        return decode(data, Rendezvous)
    except (OSError, BadRecordError):
        return None


def write_rank(layout: Layout, launch_id: str, record: RankRecord) -> None:
    """Publish one rank's word.

    Raises:
        OSError: the registry cannot be written.
    """
    write_whole(layout.rank(launch_id, record.rank), encode(record))


def read_ranks(layout: Layout, launch_id: str, nodes: int) -> dict[int, RankRecord]:
    """The words of the ranks that have spoken, by rank (the head, rank 0, has none)."""
    found = {}
    for rank in range(1, nodes):
        try:
            data, _ = read_bounded(layout.rank(launch_id, rank), MAX_RECORD_BYTES)
            found[rank] = decode(data, RankRecord)
        except (OSError, BadRecordError):
            continue
    return found


@dataclass(frozen=True)
class Heard:
    """One rank, as the head has heard of it."""

    record: RankRecord
    moved: float
    """When its counter last moved, on the head's monotonic clock (seconds)."""


def listen(
    before: Mapping[int, Heard], records: Mapping[int, RankRecord], now: float
) -> dict[int, Heard]:
    """What is known of each rank after one more look; one that was heard once stays known."""
    heard = dict(before)
    for rank, record in records.items():
        known = before.get(rank)
        moved = now if known is None or known.record.counter != record.counter else known.moved
        heard[rank] = Heard(record, moved)
    return heard


def lost(heard: Mapping[int, Heard], now: float) -> Cause | None:
    """Why the launch cannot go on: a rank has ended, or is silent. None: nothing is known to be
    wrong."""
    for rank, one in sorted(heard.items()):
        record, where = one.record, f"rank {rank} on {one.record.node}"
        if record.cause is not None:
            return replace(record.cause, message=f"{where}: {record.cause.message}")
        silent_s = now - one.moved
        if silent_s >= LEASE_PERIODS * record.period_s:
            return Cause(
                "rank-lost",
                f"{where} has not been heard of for {silent_s:.0f} s",
                "its node or its agent is gone; mt-submit up starts all ranks again",
            )
    return None
