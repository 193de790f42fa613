"""The plots of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from modeltainer.bench.record import Record
from modeltainer.bench.report.drawing import INK, MARKERS, SHADE, from_zero, line_style, new_figure
from modeltainer.bench.report.frames import knee
from modeltainer.bench.window import in_flight

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

MAX_TIMELINES = 6
SPANS = 150


def _smoothed(series: list[tuple[float, int]]) -> tuple[list[float], list[float]]:
    """Means over short spans: the moment between two requests of a user is not of interest."""
    begin, end = series[0][0], series[-1][0]
    width = max(1e-6, (end - begin) / SPANS)
    sums = [0.0] * SPANS
    for (moment, count), (until, _) in pairwise(series):
        place = min(SPANS - 1, int((moment - begin) / width))
        start = moment
        while start < until and place < SPANS:
            edge = begin + (place + 1) * width
            sums[place] += count * (min(until, edge) - start)
            start, place = edge, place + 1
    return [begin + (n + 0.5) * width for n in range(SPANS)], [total / width for total in sums]


def _name(frame: DataFrame, target: str) -> str:
    return f"{target}: {frame['model'].iloc[0]}"


def throughput_latency(points: DataFrame) -> Figure | None:
    """What a user waits against what all get, one marker per load."""
    if points.empty or len(points["point"].unique()) < 2:
        return None
    figure, axes = new_figure(1, 2, 10.5, 4.2)
    panels: tuple[tuple[Axes, str, float, str], ...] = (
        (axes[0][0], "ttft_s", 1000, "time to first token (ms)"),
        (axes[0][1], "tpot_s", 1000, "time per output token (ms)"),
    )
    for axis, metric, scale, label in panels:
        for number, (target, side) in enumerate(points.groupby("target")):
            known = side.dropna(subset=[f"{metric}_p50"])
            if known.empty:
                continue
            x = known["output_tokens_per_s"].tolist()
            y = [value * scale for value in known[f"{metric}_p50"]]
            name = f"{_name(side, str(target))}, median" if len(points) > len(side) else "median"
            axis.plot(x, y, marker=MARKERS[number], label=name, markersize=5, **line_style(number))
            upper = known.dropna(subset=[f"{metric}_p95"])
            if not upper.empty:
                axis.plot(
                    upper["output_tokens_per_s"],
                    upper[f"{metric}_p95"] * scale,
                    marker=MARKERS[number],
                    markerfacecolor="white",
                    label=name.replace("median", "95th percentile"),
                    markersize=5,
                    **{**line_style(number), "linestyle": ":"},
                )
            at = knee(x, y)
            top = max([*y, *(upper[f"{metric}_p95"] * scale)])
            for place, beside in _apart(x, y, at).items():
                words = ", ".join(
                    f"{known['load'].iloc[one]:g}" + (" (knee)" if one == at else "")
                    for one in sorted(beside)
                )
                low = y[place] < 0.06 * top  # below it there is only the axis
                rightmost = x[place] > min(x) + 0.9 * (max(x) - min(x))
                if place == at and rightmost:
                    offset, anchor = (-2, -18), "center"
                else:
                    offset = (7, -3) if rightmost else (5, 7 if low else -11)
                    anchor = "left"
                axis.annotate(
                    words,
                    (x[place], y[place]),
                    textcoords="offset points",
                    xytext=offset,
                    ha=anchor,
                    fontsize=8,
                    fontweight="bold" if place == at else "normal",
                    color=INK,
                )
            if at is not None:
                axis.plot([x[at]], [y[at]], "o", markersize=13, fillstyle="none", color=INK)
        axis.set_xlabel("output tokens per second, all users together")
        axis.set_ylabel(label)
        from_zero(axis)
        axis.margins(x=0.1)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False, fontsize=8)
    figure.suptitle(f"Throughput against latency; numbers are {_load_word(points)}", fontsize=11)
    return figure


def _apart(x: Sequence[float], y: Sequence[float], first: int | None) -> dict[int, list[int]]:
    """Points whose labels do not lie on each other, each with those beside it that it names too;
    ``first`` has the right of way."""
    width = (max(x) - min(x)) or 1.0
    height = max(y) or 1.0
    kept: dict[int, list[int]] = {} if first is None else {first: [first]}
    for place in range(len(x)):
        near = (
            other
            for other in kept
            if abs(x[place] - x[other]) < 0.07 * width and abs(y[place] - y[other]) < 0.06 * height
        )
        if place != first:
            kept.setdefault(next(near, place), []).append(place)
    return kept


def _load_word(points: DataFrame) -> str:
    return "users at once" if bool(points["closed"].iloc[0]) else "requests per second"


def percentiles_over_load(points: DataFrame) -> Figure | None:
    """Latency percentiles against load; those with too few samples are left out."""
    if points.empty or len(points["point"].unique()) < 2:
        return None
    first = points[points["target"] == "a"]
    figure, axes = new_figure(1, 3, 12, 3.8)
    metrics = (
        ("ttft_s", "time to first token (ms)", 1000),
        ("tpot_s", "time per output token (ms)", 1000),
        ("e2e_s", "whole answer (s)", 1),
    )
    for axis, (metric, label, scale) in zip(axes[0], metrics, strict=True):
        for number, percent in enumerate(("p50", "p90", "p95", "p99")):
            known = first.dropna(subset=[f"{metric}_{percent}"])
            if known.empty:
                continue
            axis.plot(
                known["load"],
                known[f"{metric}_{percent}"] * scale,
                marker=MARKERS[number],
                markersize=5,
                label=percent,
                **line_style(number),
            )
        axis.set_xlabel(_load_word(points))
        axis.set_ylabel(label)
        from_zero(axis)
        if bool(points["closed"].iloc[0]):
            axis.set_xscale("log", base=2)
        axis.set_xticks(sorted(first["load"].unique()))
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.minorticks_off()
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False, fontsize=8)
    figure.suptitle("Latency over load", fontsize=11)
    return figure


def cumulative(requests: DataFrame) -> Figure | None:
    """Share of the requests that were answered within a time, a line per point."""
    steady = requests[requests["steady"] & requests["ok"]] if len(requests) else requests
    if steady.empty:
        return None
    figure, axes = new_figure(1, 3, 12, 3.8)
    metrics = (
        ("ttft_s", "time to first token (ms)", 1000),
        ("tpot_s", "time per output token (ms)", 1000),
        ("e2e_s", "whole answer (s)", 1),
    )
    for axis, (metric, label, scale) in zip(axes[0], metrics, strict=True):
        for number, ((point, target), rows) in enumerate(
            steady.groupby(["point", "target"], sort=False)
        ):
            values = sorted(rows[metric].dropna() * scale)
            if not values:
                continue
            shares = [100 * (place + 1) / len(values) for place in range(len(values))]
            paired = steady["target"].nunique() > 1
            axis.step(
                values,
                shares,
                where="post",
                label=f"{point} {target}" if paired else str(point),
                **line_style(number),
            )
        axis.set_xlabel(label)
        axis.set_ylim(0, 101)
        axis.set_xlim(0, axis.get_xlim()[1] * 1.05)
    axes[0][0].set_ylabel("share of requests (%)")
    handles, labels = axes[0][2].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.suptitle("How many were answered within what time", fontsize=11)
    return figure


def timelines(records: Sequence[Record], summary: dict[str, Any]) -> Figure | None:
    """Requests in flight over each point, the part that counts shaded."""
    measured = {one.point for one in records if not one.warmup}  # none where the warm-up was all
    shown = [one for one in summary["points"] if one["point"] in measured][:MAX_TIMELINES]
    if not shown:
        return None
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure, axes = new_figure(rows, columns, 4 * columns, 2.7 * rows + 0.4)
    for axis, point in zip(axes.flat, shown, strict=False):
        own = [one for one in records if one.point == point["point"] and not one.warmup]
        times, counts = _smoothed(in_flight(own))
        window = point["targets"]["a"]["window"]
        axis.axvspan(window["start_s"], window["end_s"], color=SHADE, zorder=0)
        axis.plot(times, counts, color="black", linewidth=1.2)
        failed = [one.ended_s for one in own if not one.ok]
        if failed:
            axis.plot(failed, [0] * len(failed), "x", color="black", markersize=5, clip_on=False)
        axis.set_title(point["point"] + ("" if window["steady"] else " (never steady)"), fontsize=9)
        axis.set_xlabel("time (s)")
        axis.set_ylabel("requests in flight")
        from_zero(axis)
        axis.yaxis.get_major_locator().set_params(integer=True)
    for axis in list(axes.flat)[len(shown) :]:
        axis.set_axis_off()
    figure.suptitle("Requests in flight; shaded: the part that counts; x: a failure", fontsize=11)
    return figure


def differences(requests: DataFrame, summary: dict[str, Any]) -> Figure | None:
    """Side b minus side a, pair by pair, with the median and its interval."""
    points = [point for point in summary["points"] if point.get("paired", {}).get("pairs")]
    if not points:
        return None
    metrics = (("ttft_s", "TTFT"), ("tpot_s", "TPOT"), ("e2e_s", "whole answer"))
    figure, axes = new_figure(len(points), 3, 12, 2.6 * len(points) + 0.6)
    for row, point in zip(axes, points, strict=True):
        own = requests[requests["point"] == point["point"]]
        for axis, (metric, label) in zip(row, metrics, strict=True):
            wide = own.pivot_table(index="index", columns="target", values=metric)
            if not {"a", "b"} <= set(wide.columns):
                axis.set_visible(False)
                continue
            apart = (wide["b"] - wide["a"]).dropna() * 1000
            axis.hist(apart, bins=min(40, max(8, len(apart) // 5)), color="#c8c8c8", edgecolor="k")
            found = point["paired"].get(metric)
            if found is not None:
                middle = found["median"] * 1000
                axis.axvline(middle, color=INK, linewidth=1.8)
                words = f"median {middle:+.2f} ms"
                if found["interval"]:
                    low, high = (1000 * bound for bound in found["interval"])
                    axis.axvspan(low, high, color=INK, alpha=0.2)
                    words += f" (95 %: {low:+.2f} to {high:+.2f})"
                axis.set_title(words, fontsize=8)  # in the panel it would lie on the bars
            axis.axvline(0, color="black", linestyle=":", linewidth=1.2)
            axis.xaxis.get_major_locator().set_params(nbins=6)
            axis.set_xlabel(f"{label}, b - a (ms)")
        row[0].set_ylabel(f"pairs\n{point['point']}")
    sides = summary["points"][0]["targets"]
    who = ", ".join(f"{name} = {side['model']} at {side['url']}" for name, side in sides.items())
    figure.suptitle(f"Differences of pairs: {who}", fontsize=10)
    return figure


Draw = Callable[[], "Figure | None"]


def all_plots(
    requests: DataFrame, points: DataFrame, records: Sequence[Record], summary: dict[str, Any]
) -> dict[str, tuple[str, Draw]]:
    """File name to (caption, what draws it), in the order of the page."""
    return {
        "throughput-latency": (
            "What each user waits against what all users get together. The knee is where more "
            "load begins to cost more latency than it gives throughput.",
            lambda: throughput_latency(points),
        ),
        "percentiles": (
            "A percentile is left out where there are too few requests for it "
            "(p90: 50, p95: 100, p99: 500).",
            lambda: percentiles_over_load(points),
        ),
        "cumulative": (
            "Requests of the steady part that came whole.",
            lambda: cumulative(requests),
        ),
        "in-flight": (
            "Warm-up and tail are cut where fewer requests are in flight than on the plateau.",
            lambda: timelines(records, summary),
        ),
        "differences": (
            "Each pair is two prompts of equal length, one to each side, one after the other, in "
            "an order that is drawn.",
            lambda: differences(requests, summary),
        ),
    }
