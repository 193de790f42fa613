"""From a sweep to a number of replicas: how many users can be served within the objectives."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

from modeltainer.bench.report.drawing import INK, from_zero, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame


@dataclass(frozen=True)
class Capacity:
    """What one replica carries."""

    requests: int
    """In flight at once, with the objectives kept."""
    answer_s: float
    """Median time of a whole answer at that load, in seconds."""


class NoCapacityError(Exception):
    """A sweep does not say what one replica carries; the message says why."""


def measured(points: DataFrame, share: float = 0.95) -> Capacity:
    """The heaviest load of a closed-loop sweep up to which every point keeps the objectives.

    Args:
        points: of :func:`modeltainer.bench.report.frames.points_frame`, side a.
        share: of the requests that must be within the objectives (the goodput).

    Loads between the points were not measured and are not guessed.

    Raises:
        NoCapacityError: there is no such point, or even the lightest load misses the objectives or
            is not valid.
    """
    best = None
    why = "no point at a fixed number of requests: sweep with --concurrency"
    for _, point in points[points["closed"] & (points["target"] == "a")].iterrows():
        if not point["valid"]:
            why = f"the lightest load is not valid: {point['problems']}"
            break
        if point["goodput"] < share:
            why = f"at the lightest load, {point['goodput']:.0%} of the answers keep the objectives"
            break
        best = Capacity(int(point["load"]), float(point["e2e_s_p50"]))
    if best is None:
        raise NoCapacityError(why)
    return best


def requests_in_flight(
    users: int, answer_s: float, think_s: float, confidence: float = 0.95
) -> float:
    """Requests in flight at once that are exceeded only ``1 - confidence`` of the time.

    Each user waits ``answer_s`` for an answer and then thinks for ``think_s``, so that a share
    p = answer / (answer + think) of them waits at any moment (Little's law). Independent users make
    that number binomial; its quantile is taken from the normal distribution.
    """
    busy = answer_s / (answer_s + think_s)
    spread = math.sqrt(users * busy * (1 - busy))
    return min(users, users * busy + NormalDist().inv_cdf(confidence) * spread)


def replicas(users: int, one: Capacity, think_s: float, confidence: float = 0.95) -> int:
    """Replicas that so many users need."""
    at_once = requests_in_flight(users, one.answer_s, think_s, confidence)
    return max(1, math.ceil(at_once / one.requests))


def replicas_over_users(
    one: Capacity,
    think_s: float,
    users: int,
    gpus_each: int = 1,
    confidence: float = 0.95,
) -> Figure:
    """Steps of GPUs over users, with the wanted number marked."""
    figure, axes = new_figure(1, 1, 6.5, 4)
    axis = axes[0][0]
    most = max(2, round(users * 1.6))
    counts = sorted({max(1, round(most * part / 400)) for part in range(1, 401)} | {users})
    steps = [gpus_each * replicas(count, one, think_s, confidence) for count in counts]
    axis.step(counts, steps, where="post", color="black", linewidth=1.6)
    wanted = gpus_each * replicas(users, one, think_s, confidence)
    axis.plot([users], [wanted], "o", color=INK, markersize=8)
    axis.annotate(
        f"{users} users: {wanted} GPU{'s' if wanted != 1 else ''}",
        (users, wanted),
        textcoords="offset points",
        xytext=(-8, 8),
        ha="right",
        fontweight="bold",
        color=INK,
    )
    axis.set_xlabel(f"users who think {think_s:g} s between an answer and the next question")
    axis.set_ylabel("GPUs")
    axis.set_xlim(0, most)
    from_zero(axis)
    axis.yaxis.get_major_locator().set_params(integer=True)
    axis.set_title(
        f"GPUs that are enough {confidence:.0%} of the time; "
        f"a replica carries {one.requests} at once",
        fontsize=10,
    )
    return figure
