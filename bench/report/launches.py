"""What launches have cost and who used them: ``mt-submit ls --json`` and ``usage --json``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from modeltainer.bench.report.drawing import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

_STAGES = (
    ("queue_s", "in the queue", "white", "////"),
    ("pulling_s", "fetching the image", "#c8c8c8", ""),
    ("staging_s", "copying to the node", "#8a8a8a", ""),
    ("loading_s", "loading the model", "#4a4a4a", ""),
)
_ON_THE_NODE = ("pulling_s", "staging_s", "loading_s", "serving_s")
_COLUMNS = ("launch_id", "model", "state", "node", "queue_s", *_ON_THE_NODE)


def launches_frame(rows: Sequence[dict[str, Any]]) -> DataFrame:
    """One row per launch: its clocks in seconds, ``gpus`` (a MIG slice counts as one, a shared GPU
    by its part), and ``job_hours`` and ``gpu_hours`` since its job began."""
    import pandas as pd

    frame = pd.DataFrame([{name: row[name] for name in _COLUMNS} for row in rows], columns=_COLUMNS)
    clocks = [name for name in _COLUMNS if name.endswith("_s")]
    frame[clocks] = frame[clocks].astype(float).fillna(0.0)
    frame["gpus"] = [float(row["gpus"]) for row in rows]
    frame["job_hours"] = frame[list(_ON_THE_NODE)].sum(axis=1) / 3600
    frame["gpu_hours"] = frame["job_hours"] * frame["gpus"]
    return frame


def startup_split(launches: DataFrame) -> Figure | None:
    """Where the time from mt-submit up to the first token went, a bar per launch."""
    if launches.empty:
        return None
    figure, axes = new_figure(1, 1, 8, 1.4 + 0.4 * len(launches))
    axis = axes[0][0]
    left = [0.0] * len(launches)
    for name, label, colour, hatch in _STAGES:
        widths = launches[name].tolist()
        axis.barh(
            launches["launch_id"],
            widths,
            left=left,
            label=label,
            color=colour,
            hatch=hatch,
            edgecolor="black",
            height=0.6,
        )
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axis.invert_yaxis()
    axis.set_xlabel("time (s)")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    figure.suptitle("From mt-submit up to the first token", fontsize=11)
    return figure


def tokens_by(usage: Sequence[dict[str, Any]], by: str) -> Figure | None:
    """Tokens of prompts and of answers, a bar for each of ``by`` (key, model, day or user)."""
    if not usage:
        return None
    from matplotlib.ticker import EngFormatter

    figure, axes = new_figure(1, 1, 8, 1.4 + 0.4 * len(usage))
    axis = axes[0][0]
    names = [str(row[by]) for row in usage]
    prompts = [row["prompt_tokens"] for row in usage]
    answers = [row["completion_tokens"] for row in usage]
    axis.barh(names, prompts, label="prompts", color="#c8c8c8", edgecolor="black", height=0.6)
    axis.barh(
        names,
        answers,
        left=prompts,
        label="answers",
        color="#4a4a4a",
        edgecolor="black",
        height=0.6,
    )
    axis.invert_yaxis()
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.set_xlabel("tokens")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    figure.suptitle(f"Tokens by {by}", fontsize=11)
    return figure
