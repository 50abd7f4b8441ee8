"""Every claim in one figure: effects with intervals, here and in the paper, the margin of the rule, and the verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from excursions.findings import plotting
from excursions.findings.claims import FIGURES, REACH, VERDICTS, Claim
from excursions.findings.claims_page import HEADINGS

COLORS = dict(zip(VERDICTS, ("#1b7837", "#b2182b", "#8a6d3b", plotting.GREY), strict=True))
# Inches: one claim, one heading, the text on the left, the panel, the verdicts on the right, above and below.
ROW, GAP, TEXT, PANEL, SIDE, ABOVE, BELOW = 0.25, 0.36, 4.55, 4.6, 2.35, 1.0, 0.62


@plotting.styled
def forest(scale: str, claims: Sequence[Claim]) -> Figure:
    """The claims of one scale in the order of the paper, one row each; the shade is where the claim holds."""
    rows: list[tuple[float, Claim]] = []
    headings: list[tuple[float, str]] = []
    depth = 0.0
    for result in FIGURES:
        headings.append((depth + GAP / 2 + 0.04, HEADINGS[result]))
        depth += GAP
        for claim in (claim for claim in claims if claim.figure == result):
            rows.append((depth + ROW / 2, claim))
            depth += ROW
    width, height = TEXT + PANEL + SIDE, ABOVE + depth + BELOW
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((TEXT / width, BELOW / height, PANEL / width, depth / height))
    axes.set_xlim(-REACH, REACH)
    axes.set_ylim(depth, 0)  # in inches from the top
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.axvline(0, color="#999999", lw=0.8, zorder=1)
    axes.set_xlabel("effect in percentage points, 95% interval")
    for place, heading in headings:
        _text(axes, -TEXT + 0.15, place, heading, weight="bold", size=9)
    for place, claim in rows:
        _row(axes, place, claim)
    supported = sum(claim.verdict == "supported" for claim in claims)
    measured = sum(claim.verdict != "not measured" for claim in claims)
    title = f"{supported} of {measured} measured claims are supported at scale {scale}"
    title += f" ({len(claims)} claims in all)" if len(claims) > measured else ""
    figure.text(0.15 / width, 1 - 0.12 / height, title, fontsize=12, weight="bold", va="top")
    note = "Inconclusive also where the checkpoints disagree with their mean, or where one of several contrasts is."
    figure.text(0.15 / width, 0.08 / height, note, fontsize=7.5, color=plotting.GREY, va="bottom")
    _legend(figure, scale)
    for offset, name in ((PANEL + 0.15, "here"), (PANEL + 1.25, "paper")):
        _text(axes, offset, 0.04, name, weight="bold", size=8)
    return figure


def _row(axes: Axes, place: float, claim: Claim) -> None:
    _text(axes, -TEXT + 0.15, place, claim.id, size=7.5)
    seeds = f"{claim.n_seeds} seeds" if claim.effect is not None else ""
    _text(axes, -0.12, place, seeds, size=6.5, color=plotting.GREY, ha="right")
    if claim.region:
        ends, upper, lower = np.clip(claim.region, -REACH, REACH), place - ROW / 2 + 0.02, place + ROW / 2 - 0.02
        axes.fill_between(ends, upper, lower, color="#dcebdc", lw=0, zorder=0)
        axes.vlines([end for end in claim.region if math.isfinite(end)], upper, lower, color="#5a8a5a", lw=1, zorder=1)
    _interval(axes, place - 0.045, claim.effect, claim.ci_low, claim.ci_high, COLORS[claim.verdict], "o", True)
    theirs = (claim.published_effect, claim.published_ci_low, claim.published_ci_high)
    _interval(axes, place + 0.055, *theirs, COLORS[claim.published_verdict], "D", False)
    _text(axes, PANEL + 0.15, place, claim.verdict, size=7.5, color=COLORS[claim.verdict])
    _text(axes, PANEL + 1.25, place, claim.published_verdict, size=7.5, color=COLORS[claim.published_verdict])


def _interval(
    axes: Axes,
    place: float,
    effect: float | None,
    low: float | None,
    high: float | None,
    color: str,
    marker: str,
    filled: bool,
) -> None:
    if effect is None or low is None or high is None:
        return
    ends = [max(low, -REACH), min(high, REACH)]
    if ends[0] < ends[1]:
        axes.plot(ends, [place, place], color=color, lw=1.4 if filled else 0.9, zorder=2, solid_capstyle="butt")
    for end, beyond, arrow in ((-REACH, low < -REACH, "<"), (REACH, high > REACH, ">")):
        if beyond:
            axes.plot(end, place, arrow, color=color, ms=4, clip_on=False, zorder=3)
    if abs(effect) <= REACH:
        face = color if filled else "white"
        axes.plot(effect, place, marker, ms=4 if filled else 3.2, mec=color, mfc=face, mew=0.9, zorder=3)


def _text(axes: Axes, inches: float, place: float, text: str, **look: Any) -> None:
    """Text so many inches right of the panel's left edge."""
    axes.text(inches / PANEL, place, text, transform=axes.get_yaxis_transform(), va="center", clip_on=False, **look)


def _legend(figure: Figure, scale: str) -> None:
    width, height = figure.get_size_inches()
    grey: dict[str, Any] = {"color": "#444444", "mec": "#444444"}
    figure.legend(
        handles=[
            Line2D([], [], marker="o", ms=4, lw=1.4, label=f"this study ({scale})", **grey),
            Line2D([], [], marker="D", ms=3.2, lw=0.9, mfc="white", label="paper, published numbers", **grey),
            Patch(color="#dcebdc", label="where the claim holds, up to its margin"),
        ],
        loc="upper left",
        bbox_to_anchor=(0.05 / width, 1 - 0.36 / height),
        ncols=3,
        frameon=False,
        fontsize=8.5,
        columnspacing=1.6,
    )
