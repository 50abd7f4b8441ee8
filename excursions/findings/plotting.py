"""How every figure looks: one style, one colour, marker and dash per recipe, one page layout, stable bytes.

A page is a stack of bands, each a row of equal panels. Everything is placed in inches, without pyplot: nothing depends
on a window, a user's matplotlibrc or the order in which figures are made.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import matplotlib.style
import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from PIL import Image

from excursions.files import whole_file
from excursions.recipes import RECIPES


class Look(NamedTuple):
    """Colour, marker, name and dash of a recipe, the same in every figure."""

    color: str
    marker: str
    label: str
    dashes: str = "-"
    filled: bool = True  # its markers


LOOKS = {recipe.name: Look(recipe.color, recipe.marker, recipe.label, recipe.dashes) for recipe in RECIPES.values()}
LOOKS["base_0shot"] = Look("#7f7f7f", "o", "base 0-shot", ":", filled=False)  # where every recipe starts
DASHES = {1: "-", 8: "--", 32: ":"}  # of pass@k, where curves of several k share a panel
GREY = "#777777"
PAPER = "#fbf8f0"  # the ground of the paper's panels
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

# Inches: left of the first panel, right of the last; above a band with its heading, under its panels.
LEFT, RIGHT, HEADING, UNDER = 0.66, 0.25, 0.5, 0.52
TITLE_LINE, LEGEND, NOTE_LINE = 0.21, 0.3, 0.135


styled = matplotlib.style.context(_STYLE, after_reset=True)  # what it decorates draws so, whatever was set before


@styled
def save(figure: Figure, path: Path | str) -> None:
    """Writes path.svg and path.png, each whole or not at all; the same figure gives the same bytes."""
    path = Path(path)
    with whole_file(path.with_name(f"{path.name}.svg")) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None, "Creator": None})
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", metadata={"Software": None})
    with whole_file(path.with_name(f"{path.name}.png")) as temporary, Image.open(drawn) as image:
        # 256 colours are enough for a chart, and a third of the bytes that each new figure adds to the repository
        few = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        few.save(temporary, "PNG", optimize=True)


class Band(NamedTuple):
    """A row of equal panels: its heading, whether the paper's numbers are in it, how many, how high (inches)."""

    heading: str
    paper: bool
    columns: int
    height: float = 1.5
    gap: float = 0.5  # between columns, and room for labels right of the last
    right: float = RIGHT


def page(
    title: str,
    note: str,
    bands: Sequence[Band],
    recipes: Sequence[str] = (),
    more: Sequence[Line2D] = (),
    width: float = 11.5,
) -> tuple[Figure, list[list[Axes]]]:
    """An empty page: title and legend on top, the note at the bottom. Returns the panels of each band.

    recipes: those in the legend; more: further entries of it. width: of the page, inches.
    """
    titles = textwrap.wrap(title.rstrip("."), int(width / 0.102))
    notes = [line for part in note.split("\n") for line in textwrap.wrap(part, int(width / 0.064))]
    top = 0.15 + TITLE_LINE * len(titles) + (LEGEND if recipes or more else 0)
    height = top + sum(HEADING + band.height + UNDER for band in bands) + 0.1 + NOTE_LINE * len(notes)
    figure = Figure(figsize=(width, height))
    figure.text(0.15 / width, 1 - 0.1 / height, "\n".join(titles), fontsize=12, weight="bold", va="top")
    figure.text(0.15 / width, 0.1 / height, "\n".join(notes), fontsize=7.5, color=GREY, va="bottom", linespacing=1.3)
    _legend(figure, recipes, more, 1 - (top - LEGEND) / height)
    rows, edge = [], height - top
    for band in bands:
        color, place = "#8a6d3b" if band.paper else "#111111", (0.15 / width, (edge - 0.02) / height)
        figure.text(*place, band.heading, fontsize=9.5, weight="bold", color=color, va="top")
        panel = (width - LEFT - band.right - (band.columns - 1) * band.gap) / band.columns
        bottom, row = edge - HEADING - band.height, []
        for column in range(band.columns):
            left = LEFT + column * (panel + band.gap)
            axes = figure.add_axes((left / width, bottom / height, panel / width, band.height / height))
            axes.set_facecolor(PAPER if band.paper else "white")
            row.append(axes)
        rows.append(row)
        edge = bottom - UNDER
    return figure, rows


def _legend(figure: Figure, recipes: Sequence[str], more: Sequence[Line2D], top: float) -> None:
    looks = [LOOKS[recipe] for recipe in recipes]
    handles = [
        Line2D([], [], color=look.color, marker=look.marker, ls=look.dashes, mfc=_face(look, "white"), label=look.label)
        for look in looks
    ]
    entries = [*handles, *more]
    if entries:
        figure.legend(
            handles=entries,
            loc="upper left",
            bbox_to_anchor=(0.1 / figure.get_figwidth(), top),
            ncols=len(entries),
            frameon=False,
            fontsize=8 if len(entries) < 9 else 7,
            borderpad=0.1,
            handlelength=2.1,
            columnspacing=1.0,
        )


SEEDS = Line2D([], [], color=GREY, lw=0.6, label="one seed")
FLOOR = Line2D([], [], color="#b2182b", lw=0.9, ls=(0, (1, 1.5)), label="guessing")
BEST_OF_4 = Line2D([], [], color=LOOKS["rl"].color, marker="s", mfc="white", lw=0, label="best of 4")


def _face(look: Look, ground: str) -> str:
    return look.color if look.filled else ground


def curve(axes: Axes, points: pd.DataFrame, look: Look, band: bool = True, width: float = 1.5) -> None:
    """One curve over the column x: estimate as line and markers, ci_low to ci_high shaded (percent).

    Rows with a `seed` are single training runs, one per x: thin lines under the mean.
    """
    points = points.sort_values("x")
    if "seed" in points.columns:
        single = points.dropna(subset="seed").pivot(index="x", columns="seed", values="estimate")
        for seed in single:  # a line ends where a seed has no run, and a dot shows what stands alone
            axes.plot(single.index, single[seed], ".-", ms=2, color=look.color, lw=0.6, alpha=0.45, zorder=2.5)
        points = points[points["seed"].isna()]
    size = 6 if look.marker in "PX*" else 4.5  # thin shapes need more room
    edge = "white" if look.filled else look.color
    axes.plot(
        points["x"], points["estimate"], look.dashes, color=look.color, marker=look.marker, ms=size,
        mfc=_face(look, axes.get_facecolor()), mec=edge, mew=0.7, lw=width, zorder=3,
    )  # fmt: skip
    if not band:
        return
    if len(points) > 1:
        low, high = points["ci_low"].astype(float), points["ci_high"].astype(float)
        axes.fill_between(points["x"], low, high, color=look.color, alpha=0.15, lw=0, zorder=2)
    else:  # a band needs two points
        axes.vlines(points["x"], points["ci_low"], points["ci_high"], color=look.color, lw=1, zorder=2)


def end_labels(axes: Axes, labels: Sequence[tuple[pd.DataFrame, str, str]], size: float = 7) -> None:
    """Names curves at their ends: (points, text, color), moved apart vertically where they would touch.

    Call it when the limits of both axes are set.
    """
    if not labels:
        return
    inches = axes.get_position().height * cast(Figure, axes.figure).get_figheight()
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
    for height, (own, place, text, color) in zip(heights, ends, strict=True):
        if abs(height - own) > apart / 2:  # a label that was moved points to its curve
            axes.plot(
                [place, place + 0.03], [own, height], transform=axes.transAxes, color=color, lw=0.5, clip_on=False
            )
        shown = axes.text(place + 0.03, height, text, transform=axes.transAxes, size=size, color=color, va="center")
        shown.set_bbox({"facecolor": axes.get_facecolor(), "edgecolor": "none", "pad": 0.5, "alpha": 0.8})


def tokens_axis(panels: Iterable[Axes], multiples: Sequence[pd.Series]) -> None:
    """The same logarithmic axis of Chinchilla multiples for all panels, with a line at 1 and at most six ticks."""
    x = pd.concat(multiples)
    low, high = x.min() / 1.25, x.max() * 1.25
    for steps, every in (((1, 2, 5), 1), ((1, 3), 1), ((1,), 1), ((1,), 2), ((1,), 3)):
        ticks = [step * 10.0**power for power in range(-9, 10, every) for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= 6:
            break
    for axes in panels:
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}×"))
        if low < 1 < high:
            axes.axvline(1, color="#aaaaaa", lw=1, dashes=(3, 2), zorder=1)
        axes.set_xlabel(TOKENS_LABEL)


def stage_axis(axes: Axes, names: Sequence[str]) -> None:
    """Stages and steps of training in equal distances; of many, only every second (third, ...) is named."""
    every = -(-len(names) // 8)
    shown = sorted({0, *range(len(names) - 1, 0, -every)})
    axes.set_xticks(shown, [names[number] for number in shown])
    axes.set_xlim(-0.3, len(names) - 0.7)
    axes.set_xlabel("stage of training, then RL steps")


def share_y(panels: Sequence[Axes], label: str, from_zero: bool = True) -> None:
    """One vertical axis for all these panels, wide enough for what each of them shows.

    from_zero: levels in percent, from 0 on; else changes, with a line at 0.
    """
    drawn = [axes for axes in panels if np.isfinite(axes.dataLim.intervaly).all()]
    low = min((axes.dataLim.y0 for axes in drawn), default=0)
    high = max((axes.dataLim.y1 for axes in drawn), default=1)
    if from_zero:
        low, high = 0, max(high, 1)
    else:
        low, high = min(low, -1), max(high, 1)
    room = 0.05 * (high - low)  # so that no marker at an end is cut in half
    for axes in panels:
        axes.set_ylim(low - room, high + room)
        axes.set_ylabel(label)
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        if not from_zero:
            axes.axhline(0, color=LOOKS["base"].color, lw=0.9, zorder=1.5)


def nothing(axes: Axes) -> None:
    """Says that a panel has no data yet."""
    axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=GREY)
    axes.xaxis.set_major_locator(NullLocator())
