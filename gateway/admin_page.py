"""``/admin``: the state of everything, for a browser. Plain HTML that reloads itself."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif }
body { margin: 2rem auto; max-width: 72rem; padding: 0 1rem }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #8884 }
th { font-weight: 600 } td.n { font-variant-numeric: tabular-nums }
.ready { color: #2a8a3a } .bad { color: #c0392b } .wait { color: #b07800 }
""".strip()


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
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="refresh" content="5"><title>ModelTainer gateway</title>'
        f"<style>{_STYLE}</style></head><body><h1>ModelTainer gateway: {_state(word)}</h1>"
        f"<p>{status['in_flight']} requests under way, {status['keys']} keys, "
        f"registry read {status['registry_age_s']:.0f} s ago</p>{told}"
        f"{_table('Models', ('Name', 'State', 'Replicas', 'Alias of'), models)}"
        f"{_table('Endpoints', _ENDPOINT_HEADS, endpoints)}"
        f"{_table('Queue', ('Model', 'State', 'Partition', 'Reason', 'Launch'), queue)}"
        "</body></html>"
    )


_ENDPOINT_HEADS = (
    *("Model", "State", "Node", "Address", "Under way", "Requests"),
    *("Breaker", "Time left", "Why not"),
)


class _Html(str):
    """Text that is markup already."""


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return f"<h2>{title}</h2><p>none</p>"
    top = "".join(f"<th>{one}</th>" for one in heads)
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="n">{one if isinstance(one, _Html) else escape(one)}</td>' for one in row
        )
        + "</tr>"
        for row in rows
    )
    return f"<h2>{title}</h2><table><tr>{top}</tr>{body}</table>"


def _state(word: str) -> _Html:
    kind = {"ready": "ready", "not-ready": "bad", "not routed": "bad"}.get(word, "wait")
    return _Html(f'<span class="{kind}">{escape(word)}</span>')


def _left(ends_unix: float | None, now: float) -> str:
    if ends_unix is None:
        return ""
    minutes = max(0, int((ends_unix - now) / 60))
    return f"{minutes // 60} h {minutes % 60:02} min"
