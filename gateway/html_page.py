"""Pages for a browser: plain HTML without scripts, and nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from starlette.responses import HTMLResponse

_STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif }
body { margin: 2rem auto; max-width: 72rem; padding: 0 1rem }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #8884 }
th { font-weight: 600 } td.n { font-variant-numeric: tabular-nums }
.ready { color: #2a8a3a } .bad { color: #c0392b } .wait { color: #b07800 }
""".strip()


_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


class Html(str):
    """Text that is markup already."""


class Page(HTMLResponse):
    """A page that can load and run nothing, whatever a name in it says."""

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        """As Starlette's; with the policy."""
        super().init_headers({**(headers or {}), "content-security-policy": _POLICY})


def page(title: str, body: str, *, reload_s: int | None = None) -> str:
    """The whole document; ``reload_s``: the browser asks again after so many seconds."""
    again = "" if reload_s is None else f'<meta http-equiv="refresh" content="{reload_s}">'
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">{again}'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>{body}</body></html>"
    )


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are escaped unless they are :class:`Html`."""
    top = "".join(f"<th>{one}</th>" for one in heads)
    body = "".join(
        "<tr>" + "".join(f'<td class="n">{markup(one)}</td>' for one in row) + "</tr>"
        for row in rows
    )
    return f"<table><tr>{top}</tr>{body}</table>"


def markup(text: str) -> str:
    """Escaped, unless it is :class:`Html`."""
    return text if isinstance(text, Html) else escape(text)
