"""How all pictures look: readable in black and white, lines differ in grey, dash and marker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P")
GREYS = ("#000000", "#4a4a4a", "#787878", "#9a9a9a")
INK = "#1f4e79"
SHADE = "#dfe8f1"


def new_figure(rows: int, columns: int, width: float, height: float) -> tuple[Figure, Any]:
    """A figure of so many inches, and its axes by row and column."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=150)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.grid(True, color="#e4e4e4", linewidth=0.6)
        axis.set_axisbelow(True)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    return figure, axes


def line_style(number: int) -> dict[str, Any]:
    """Of the line with this number in its picture."""
    return {
        "linestyle": DASHES[number % len(DASHES)],
        "color": GREYS[number % len(GREYS)],
        "linewidth": 1.6,
    }


def from_zero(axis: Axes) -> None:
    """Lengths can be compared by eye, and the highest point is not on the frame."""
    axis.set_ylim(0, axis.dataLim.y1 * 1.12 or 1)
