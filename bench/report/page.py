"""The report as one HTML file: plots inside, no script, nothing fetched."""

from __future__ import annotations

import base64
import json
from html import escape
from typing import Any

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #111; max-width: 1080px; margin: 2em auto;
       padding: 0 1em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
td, th { padding: .3em .7em; text-align: right; border-bottom: 1px solid #ddd; }
td:first-child, th:first-child { text-align: left; }
img { max-width: 100%; } figure { margin: 1.5em 0; } figcaption { color: #444; }
.bad { border-left: 4px solid #000; padding-left: .8em; }
pre { background: #f5f5f5; padding: 1em; overflow-x: auto; font-size: 12px; }
@media print { body { margin: 0; } figure { break-inside: avoid; } }
"""
_HEADS = (
    "point",
    "requests",
    "failed",
    "requests/s",
    "tokens/s",
    "TTFT p50",
    "TTFT p95",
    "TPOT p50",
    "tokens/s per user",
    "E2E p50",
    "goodput",
    "steady",
    "tokens by",
    "floor",
)


def page(summary: dict[str, Any], plots: list[tuple[str, str, bytes]]) -> str:
    """The whole document.

    Args:
        summary: of the run.
        plots: name, caption, PNG.
    """
    servers = summary["servers"]
    title = "Benchmark of " + " and ".join(dict.fromkeys(one["model"] for one in servers))
    client = summary["client"]
    where = ", ".join(dict.fromkeys(one["url"] for one in servers))
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(where)}, measured {escape(client['started'])} from {escape(client['host'])}"
        f" with ModelTainer {escape(client['modeltainer'])}.</p>",
        _warnings(summary),
        _table(summary),
    ]
    for name, caption, png in plots:
        data = base64.b64encode(png).decode()
        parts.append(
            f'<figure><img alt="{escape(name)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )
    rest = {name: value for name, value in summary.items() if name != "points"}
    parts.append(
        "<h2>How it was measured</h2><p>Latencies run from the moment that a request was to start. "
        "Tokens are those of the server's own usage where “tokens by” says so; chunks are a guess: "
        "one a chunk. Failures and answers that were cut off are "
        "misses of the goodput. The floor is the harness's own error of TTFT at that load.</p>"
        f"<pre>{escape(json.dumps(rest, indent=2, ensure_ascii=False))}</pre></html>"
    )
    return "\n".join(parts)


def _warnings(summary: dict[str, Any]) -> str:
    lines = [
        f"{point['point']}: {problem}"
        for point in summary["points"]
        for problem in (*point["problems"], *point.get("warnings", ()))
    ]
    if summary["ended_early"]:
        lines.insert(0, f"The run ended early: {summary['ended_early'].replace('_', ' ')}.")
    if not lines:
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<div class=bad><p>Not all of this can be relied on:</p><ul>{items}</ul></div>"


def _table(summary: dict[str, Any]) -> str:
    rows = []
    for point in summary["points"]:
        for name, side in point["targets"].items():
            label = f"{point['point']} {name}" if len(point["targets"]) > 1 else point["point"]
            floor = point["floor"]
            cells = [
                label,
                str(side["requests"]),
                str(side["failed"]),
                f"{side['requests_per_s']:.2f}",
                f"{side['output_tokens_per_s']:.0f}",
                _ms(side["ttft_s"].get("p50")),
                _ms(side["ttft_s"].get("p95")),
                _ms(side["tpot_s"].get("p50")),
                _number(side["tokens_per_s_per_user"].get("p50")),
                _ms(side["e2e_s"].get("p50")),
                f"{side['goodput']['fraction']:.0%}",
                "yes" if side["window"]["steady"] else "no",
                ", ".join(sorted(side["token_sources"])) or "-",
                _ms(floor["ttft_s"] if floor else None),
            ]
            rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    heads = "".join(f"<th>{escape(head)}</th>" for head in _HEADS)
    return f"<table><tr>{heads}</tr>{''.join(rows)}</table>"


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:,.1f} ms"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
