"""``/admin``: the state of everything, for a browser. Plain HTML that reloads itself."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from modeltainer.gateway.html_page import Html, page, table


def admin_page(status: dict[str, Any], cards: Iterable[Any], rows: Iterable[Any]) -> str:
    """The page.

    Args:
        status: as ``/admin/status`` gives it.
        cards: model cards of ``/v1/models``.
        rows: launches as ``mt-submit ls`` shows them.
    """
    now = time.time()
    models = [
        (card.id, _state(card.state), str(card.replicas), card.alias_of or "") for card in cards
    ]
    endpoints = [
        (
            one["model"],
            _state(one["state"] if one["routed"] or one["state"] != "ready" else "not routed"),
            one["node"],
            one["address"] or "",
            str(one["in_flight"]),
            str(one["requests"]),
            one["breaker"],
            _left(one["ends_unix"], now),
            one["reason"],
        )
        for one in status["endpoints"]
    ]
    queue = [
        (row.model, _state(row.state.value), row.partition or "", row.reason or "", row.launch_id)
        for row in rows
        if row.state.value in ("queued", "submitted")
    ]
    problems = [
        status["config_problem"],
        status["scheduler_problem"],
        status["usage_problem"],
        *(f"{file}: {problem}" for file, problem in status["registry_problems"].items()),
    ]
    told = "".join(f'<p class="bad">{escape(one)}</p>' for one in problems if one)
    word = "draining" if status["draining"] else "ready" if status["ready"] else "starting"
    return page(
        "ModelTainer gateway",
        f"<h1>ModelTainer gateway: {_state(word)}</h1>"
        f"<p>{status['in_flight']} requests under way, {status['keys']} keys, "
        f"registry read {status['registry_age_s']:.0f} s ago</p>{told}"
        f"{_part('Models', ('Name', 'State', 'Replicas', 'Alias of'), models)}"
        f"{_part('Endpoints', _ENDPOINT_HEADS, endpoints)}"
        f"{_part('Queue', ('Model', 'State', 'Partition', 'Reason', 'Launch'), queue)}",
        reload_s=5,
    )


_ENDPOINT_HEADS = (
    *("Model", "State", "Node", "Address", "Under way", "Requests"),
    *("Breaker", "Time left", "Why not"),
)


def _part(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return f"<h2>{title}</h2>{table(heads, rows) if rows else '<p>none</p>'}"


def _state(word: str) -> Html:
    kind = {"ready": "ready", "not-ready": "bad", "not routed": "bad"}.get(word, "wait")
    return Html(f'<span class="{kind}">{escape(word)}</span>')


def _left(ends_unix: float | None, now: float) -> str:
    if ends_unix is None:
        return ""
    minutes = max(0, int((ends_unix - now) / 60))
    return f"{minutes // 60} h {minutes % 60:02} min"
