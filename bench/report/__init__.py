"""Plots and one self-contained page of a run. Needs pandas and matplotlib (extra ``bench``)."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from modeltainer.bench.store import load


def write_report(folder: Path) -> Path:
    """Draw everything of the run in ``folder`` into it; gives the page's path.

    Raises:
        StoreError: no run there.
        OSError: it cannot be written.
    """
    from modeltainer.bench.metrics import Slo
    from modeltainer.bench.report.frames import points_frame, requests_frame
    from modeltainer.bench.report.page import page
    from modeltainer.bench.report.plots import all_plots
    from modeltainer.bench.unfinished import unfinished

    summary, records = load(folder)
    if summary["ended_early"]:  # a crash or a full disk: the rows say what there was
        summary["points"] += unfinished(records, summary["points"], Slo(**summary["slo"]))
    drawn = []
    if summary["points"]:
        requests, points = requests_frame(records, summary), points_frame(summary)
        for name, (caption, draw) in all_plots(requests, points, records, summary).items():
            figure = draw()
            if figure is None:
                continue
            buffer = BytesIO()
            figure.savefig(buffer, format="png")
            (folder / f"{name}.png").write_bytes(buffer.getvalue())
            drawn.append((name, caption, buffer.getvalue()))
    made = folder / "report.html"
    made.write_text(page(summary, drawn))
    return made
