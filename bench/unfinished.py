"""A point's entry in the summary out of its rows alone, where the run did not get to its end."""

from __future__ import annotations

from typing import Any

from modeltainer.bench.metrics import Slo, paired, summarise
from modeltainer.bench.record import Record
from modeltainer.bench.store import UNFINISHED


def rate_of(label: str) -> float:
    """The rate in a point's label."""
    return float(label.partition("=")[2].partition("#")[0])


def guessed_tokens(sides: dict[str, Any]) -> list[str]:
    """What to say of answers whose tokens the server has not counted itself."""
    found = []
    for side in sides.values():
        guesses = {
            name: count for name, count in side["token_sources"].items() if "usage" not in name
        }
        if guesses:
            named = ", ".join(f"{name}: {count}" for name, count in sorted(guesses.items()))
            found.append(
                f"tokens of {sum(guesses.values())} answers of {side['model']} are a "
                f"guess ({named}), and with them tokens/s and TPOT"
            )
    return found


def unfinished(
    records: list[Record], points: list[dict[str, Any]], slo: Slo
) -> list[dict[str, Any]]:
    """Entries of points that have rows but whose end was never written: a crash, a full disk."""
    known = {point["point"] for point in points}
    rows: dict[str, list[Record]] = {}
    for one in records:
        if one.point not in known and not one.warmup:
            rows.setdefault(one.point, []).append(one)
    return [_unfinished(label, own, slo) for label, own in rows.items()]


def _unfinished(label: str, rows: list[Record], slo: Slo) -> dict[str, Any]:
    sides: dict[str, Any] = {}
    for name in sorted({one.target for one in rows}):
        own = [one for one in rows if one.target == name]
        sides[name] = {**summarise(own, slo), "model": own[0].model, "url": ""}
    kind = label.partition("=")[0]
    return {
        "point": label,
        "concurrency": int(rate_of(label)) if kind == "concurrency" else None,
        "rate": rate_of(label) if kind == "rate" else None,
        "client_processes": len({one.worker for one in rows}),
        "workers": [],
        "targets": sides,
        "floor": None,
        "ended_early": UNFINISHED,
        "valid": False,
        "client_bound": False,
        "problems": ["the run ended before this point did"],
        "warnings": guessed_tokens(sides),
    } | ({"paired": paired(rows)} if len(sides) == 2 else {})
