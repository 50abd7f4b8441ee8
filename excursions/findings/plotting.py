"""How every figure looks: one style, one colour and marker per recipe, one page layout, stable bytes.

A page is a stack of bands of equal panels. Bands of "this study" come with the paper's band under them, so
that both are read side by side. Everything is placed in inches, without pyplot: nothing depends on a
window, a user's matplotlibrc or the order in which figures are made.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import matplotlib
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from excursions.files import whole_file

_PALETTE = seaborn.color_palette("colorblind").as_hex()


class Look(NamedTuple):
    """Colour, marker and name of a recipe, the same in every figure."""

    color: str
    marker: str
    label: str


LOOKS = {
    "base": Look("#333333", "o", "base"),
    "rl": Look(_PALETTE[0], "s", "RL"),
    "sft": Look(_PALETTE[1], "^", "SFT (one solution)"),
    "sft_rl": Look(_PALETTE[2], "D", "SFT → RL"),
    "sft_gold": Look(_PALETTE[3], "v", "SFT-Gold (all solutions)"),
    "sft_gold_rl": Look(_PALETTE[9], "P", "SFT-Gold → RL"),
    "parallel": Look(_PALETTE[4], "X", "parallel averaging"),
}
DASHES = {1: "-", 8: "--", 32: ":"}  # of pass@k, where curves of several k share a panel
GREY = "#777777"
TOKENS_LABEL = "tokens (× Chinchilla-optimal)"

_STYLE = {
    **seaborn.axes_style("whitegrid"),
    **seaborn.plotting_context("paper"),
    "font.family": "DejaVu Sans",  # comes with matplotlib, so no machine draws other letters
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 9,
    "axes.edgecolor": "#999999",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.bottom": True,
    "xtick.major.size": 2.5,
    "xtick.color": "#999999",
    "xtick.labelcolor": "#333333",
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "svg.fonttype": "path",
    "svg.hashsalt": "excursions",
    "savefig.dpi": 150,
}

# Inches: around the bands; above a band with and without heading; under a band's panels.
LEFT, TOP, BOTTOM = 0.62, 0.68, 0.45
HEADING, NO_HEADING, UNDER = 0.5, 0.25, 0.52


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draws in the project's style, whatever matplotlib was told before."""

    @functools.wraps(draw)
    def drawn(*arguments: object, **named: object) -> Figure:
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(_STYLE)
            return draw(*arguments, **named)

    return drawn


def save(figure: Figure, path: Path | str) -> None:
    """Writes path.svg and path.png, each whole or not at all; the same figure gives the same bytes."""
    path = Path(path)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        for kind, metadata in (("svg", {"Date": None, "Creator": None}), ("png", {"Software": None})):
            with whole_file(path.with_name(f"{path.name}.{kind}")) as temporary:
                figure.savefig(temporary, format=kind, metadata=metadata)


class Band(NamedTuple):
    """A row of panels: its heading, and whether the paper's numbers are in it."""

    heading: str
    paper: bool


CONTINUED = Band("", False)  # more panels of the band above


def study(scale: str, what: str = "") -> Band:
    """The band of our measurements at a scale."""
    return Band(f"this study ({scale})" + (f": {what}" if what else ""), False)


def paper(what: str = "") -> Band:
    """The band of the paper's published numbers."""
    return Band("paper (OLMo2 1B, published)" + (f": {what}" if what else ""), True)


def page(
    title: str,
    note: str,
    bands: Sequence[Band],
    columns: int,
    panel: tuple[float, float] = (2.75, 1.6),
    column_gap: float = 0.58,
    right: float = 0.2,
    recipes: Sequence[str] = (),
) -> tuple[Figure, list[list[Axes]]]:
    """An empty page: title and legend on top, the note at the bottom. Returns the panels of each band.

    Sizes are in inches: of a panel, between columns, and to the right of the last.
    """
    width, height = panel
    top_margin = TOP if recipes else TOP - 0.25
    heights = [(HEADING if band.heading else NO_HEADING) + height + UNDER for band in bands]
    total = (LEFT + columns * width + (columns - 1) * column_gap + right, top_margin + sum(heights) + BOTTOM)
    figure = Figure(figsize=total)
    figure.text(0.15 / total[0], 1 - 0.1 / total[1], title, fontsize=12, weight="bold", va="top")
    figure.text(0.15 / total[0], 0.1 / total[1], note, fontsize=7.5, color=GREY, va="bottom", linespacing=1.3)
    rows, top = [], total[1] - top_margin
    if recipes:
        _legend(figure, recipes)
    published = False
    for band, tall in zip(bands, heights, strict=True):
        published = band.paper or (published and band == CONTINUED)
        bottom = top - tall + UNDER
        if band.heading:
            color = "#8a6d3b" if published else "#111111"
            place = (0.15 / total[0], (top - 0.02) / total[1])
            figure.text(*place, band.heading, fontsize=9.5, weight="bold", color=color, va="top")
        row = []
        for column in range(columns):
            left = LEFT + column * (width + column_gap)
            axes = figure.add_axes((left / total[0], bottom / total[1], width / total[0], height / total[1]))
            axes.set_facecolor("#fbf8f0" if published else "white")
            row.append(axes)
        rows.append(row)
        top -= tall
    return figure, rows


def _legend(figure: Figure, recipes: Sequence[str]) -> None:
    looks = [LOOKS[recipe] for recipe in recipes]
    width, height = figure.get_size_inches()
    figure.legend(
        handles=[Line2D([], [], color=look.color, marker=look.marker, label=look.label) for look in looks],
        loc="upper left",
        bbox_to_anchor=(0.1 / width, 1 - 0.33 / height),
        ncols=len(looks),
        frameon=False,
        fontsize=8.5,
        borderpad=0.2,
        handlelength=2.2,
        columnspacing=1.6,
    )


def merge(upper: Axes, lower: Axes) -> Axes:
    """One tall panel in place of two, one above the other."""
    above, below = upper.get_position(), lower.get_position()
    lower.remove()
    upper.set_position((above.x0, below.y0, above.width, above.y1 - below.y0))
    return upper


def curve(
    axes: Axes,
    points: pd.DataFrame,
    color: str,
    marker: str,
    dashes: str = "-",
    band: bool = True,
    width: float = 1.5,
) -> None:
    """One curve over the column x: estimate as line and markers, ci_low to ci_high shaded (percent)."""
    points = points.sort_values("x")
    size = 6 if marker in "PX*" else 4.5  # thin shapes need more room
    look: dict[str, Any] = {"color": color, "marker": marker, "ms": size, "mec": "white", "mew": 0.5, "lw": width}
    axes.plot(points["x"], points["estimate"], dashes, zorder=3, **look)
    if not band:
        return
    if len(points) > 1:
        axes.fill_between(points["x"], points["ci_low"], points["ci_high"], color=color, alpha=0.15, lw=0, zorder=2)
    else:  # a band needs two points
        axes.vlines(points["x"], points["ci_low"], points["ci_high"], color=color, lw=1, zorder=2)


def end_labels(axes: Axes, labels: Sequence[tuple[pd.DataFrame, str, str]], size: float = 7) -> None:
    """Names curves at their ends: (points, text, color), moved apart vertically where they would touch.

    Call it when the limits of both axes are set.
    """
    inches = axes.get_position().height * cast(Figure, axes.figure).get_size_inches()[1]
    apart = size * 1.25 / 72 / inches  # all heights and places in shares of the panel
    ends = []
    for points, text, color in labels:
        last = points.sort_values("x").iloc[-1]
        place, height = axes.transAxes.inverted().transform(axes.transData.transform((last["x"], last["estimate"])))
        ends.append((height, place, text, color))
    ends.sort()
    heights = [height for height, *_ in ends]
    for _ in range(200):  # neighbours share what they are too near, until all are apart and in the panel
        for lower in range(len(heights) - 1):
            overlap = max(apart - (heights[lower + 1] - heights[lower]), 0)
            heights[lower] -= overlap / 2
            heights[lower + 1] += overlap / 2
        heights[0], heights[-1] = max(heights[0], 0.03), min(heights[-1], 1)
    for height, (_, place, text, color) in zip(heights, ends, strict=True):
        shown = axes.text(place + 0.025, height, text, transform=axes.transAxes, size=size, color=color, va="center")
        shown.set_bbox({"facecolor": axes.get_facecolor(), "edgecolor": "none", "pad": 0.5, "alpha": 0.8})


def tokens_axis(rows: Sequence[Sequence[Axes]], multiples: Sequence[pd.Series]) -> None:
    """The same logarithmic axis of Chinchilla multiples for all panels, with a line at 1."""
    low, high = min(m.min() for m in multiples) / 1.25, max(m.max() for m in multiples) * 1.25
    ticks = [base * 10**power for power in range(-4, 4) for base in (1, 2, 5)]
    for axes in (axes for row in rows for axes in row):
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        axes.xaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}×"))
        if low < 1 < high:
            axes.axvline(1, color="#aaaaaa", lw=1, dashes=(3, 2), zorder=1)
        axes.set_xlabel(TOKENS_LABEL)


def stage_axis(axes: Axes, names: Sequence[str]) -> None:
    """Stages and steps of training in equal distances; of many, only every second (third, ...) is named."""
    every = -(-len(names) // 10)
    shown = sorted({0, *range(len(names) - 1, 0, -every)})
    axes.set_xticks(shown, [names[number] for number in shown])
    axes.set_xlim(-0.3, len(names) - 0.7)
    axes.set_xlabel("stage of training, then RL steps")


def percent_axis(axes: Axes, label: str, top: float | None) -> None:
    """A vertical axis in percent, from zero to a little over `top`; None fits it to the curves."""
    axes.set_ylabel(label)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    if top is not None:
        axes.set_ylim(0, max(top * 1.06, 1))
