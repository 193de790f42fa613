"""What more replicas bring: the same sweep, run over one replica, two, four."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modeltainer.bench.report.drawing import INK, from_zero, line_style, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class ScalingError(Exception):
    """These runs do not show how a model scales; the message says why."""


@dataclass(frozen=True)
class Scaled:
    """A run's best point: of those that are valid, the one with the highest throughput."""

    replicas: int
    load: float
    """Users at once, or requests per second."""
    tokens_per_s: float
    """Output tokens per second, all replicas together."""
    ttft_s: float | None
    """Median; seconds."""


def scaled(summaries: Iterable[dict[str, Any]]) -> list[Scaled]:
    """The best point of each run, by number of replicas; of two with the same number, the better.

    Raises:
        ScalingError: runs of different models, not through a gateway, without a valid point, or all
            with as many replicas.
    """
    best: dict[int, Scaled] = {}
    models = set()
    for summary in summaries:
        server = summary["servers"][0]
        listed = server.get("listed") or {}
        count = listed.get("replicas")
        if not isinstance(count, int) or count < 1:
            raise ScalingError(
                f"the run of {server['model']} at {server['url']} does not say how many replicas "
                "there were: measure through the gateway"
            )
        models.add(listed.get("alias_of") or server["model"])
        found = _best(count, summary)
        if count not in best or found.tokens_per_s > best[count].tokens_per_s:
            best[count] = found
    if len(models) > 1:
        raise ScalingError(f"these are runs of several models: {', '.join(sorted(models))}")
    if len(best) < 2:
        raise ScalingError("runs with different numbers of replicas are needed: mt-submit up again")
    return [best[count] for count in sorted(best)]


def _best(replicas: int, summary: dict[str, Any]) -> Scaled:
    valid = [
        point
        for point in summary["points"]
        if point["valid"] and point["targets"]["a"]["output_tokens_per_s"] > 0
    ]
    if not valid:
        raise ScalingError(f"the run with {replicas} replicas has no valid point")
    point = max(valid, key=lambda one: float(one["targets"]["a"]["output_tokens_per_s"]))
    side = point["targets"]["a"]
    return Scaled(
        replicas,
        point["concurrency"] or point["rate"],
        side["output_tokens_per_s"],
        side["ttft_s"].get("p50"),
    )


def efficiency(one: Scaled, first: Scaled) -> float:
    """Of what so many replicas would bring if each brought as much as those of ``first``."""
    return one.tokens_per_s / one.replicas * first.replicas / first.tokens_per_s


def over_replicas(found: list[Scaled]) -> Figure:
    """Throughput and median time to the first token against the number of replicas."""
    figure, axes = new_figure(1, 2, 10.5, 4.0)
    first, counts = found[0], [one.replicas for one in found]
    throughput, wait = axes[0]
    throughput.plot(
        [0, counts[-1]],
        [0, first.tokens_per_s / first.replicas * counts[-1]],
        label="each as much as the first",
        **line_style(3),
    )
    tokens = [one.tokens_per_s for one in found]
    throughput.plot(counts, tokens, marker="o", markersize=5, label="measured", **line_style(0))
    for one in found[1:]:
        throughput.annotate(
            f"{efficiency(one, first):.0%}",
            (one.replicas, one.tokens_per_s),
            textcoords="offset points",
            xytext=(0, -14),
            ha="center",
            fontsize=8,
            color=INK,
        )
    throughput.set_ylabel("output tokens per second, all users together")
    throughput.legend(frameon=False, fontsize=8, loc="upper left")
    known = [one for one in found if one.ttft_s is not None]
    wait.plot(
        [one.replicas for one in known],
        [1000 * (one.ttft_s or 0) for one in known],
        marker="o",
        markersize=5,
        **line_style(0),
    )
    wait.set_ylabel("median time to first token there (ms)")
    for axis in (throughput, wait):
        axis.set_xlabel("replicas")
        axis.set_xlim(0, counts[-1] * 1.1)
        axis.set_xticks(counts)
        from_zero(axis)
    figure.suptitle("What more replicas bring, each at its best valid load", fontsize=11)
    return figure
