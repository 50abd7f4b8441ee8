"""The figures along training: RL step by step from every checkpoint."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from excursions.findings import curves, headlines, reference
from excursions.findings.curves import ZERO_SHOT
from excursions.findings.plotting import (
    DASHES,
    GREY,
    LOOKS,
    SEEDS,
    Band,
    curve,
    end_labels,
    nothing,
    page,
    share_y,
    stage_axis,
    styled,
    tokens_axis,
)

SOLVED = "problems solved (%)"
PAPERS_MULTIPLE = 0.7  # of Chinchilla-optimal: the checkpoint of the paper's figure, 14B tokens
LOGGED = ("reward", "entropy")
NAMES = {"sft_rl": "pretraining → SFT → RL", "rl": "pretraining → RL"}
PASS = [Line2D([], [], color=GREY, ls=DASHES[k], label=f"pass@{k}") for k in (1, 32)]


@styled
def sharpening_or_expansion(dynamics: pd.DataFrame, logs: pd.DataFrame, changes: pd.DataFrame) -> Figure:
    """Result 3: pass@1 and pass@32 along training, with SFT before RL and without it.

    Above, the checkpoint nearest to the paper's own, stages and steps in equal distances as the paper has them; below,
    every checkpoint, with reward and entropy.
    """
    names = curves.multiples(dynamics)
    multiple = dynamics.groupby(dynamics["checkpoint"].astype(str))["chinchilla"].first()
    focus = (multiple - PAPERS_MULTIPLE).abs().idxmin() if names else ""
    here = dynamics[dynamics["checkpoint"] == focus]
    scale = here["scale"].iloc[0] if names else "nothing measured yet"
    asked = f" (here {here['n_questions'].max():.0f})" if names else ""
    note = (
        f"All points of a checkpoint: the same questions at every step{asked}. Shaded: 95% interval over "
        "them and training seeds. Base is few-shot, 0-shot is where direct RL starts. The paper's SFT here is on "
        "several solutions per question. Below: RL steps from 0; open circles at the left: base few-shot. "
    )
    about = f": checkpoint {focus}, {multiple[focus]:.2f}× Chinchilla-optimal, easy problems" if names else ""
    bands = [Band(f"this study ({scale}){about}", False, 2, 1.9, 1.1, 0.75)]
    bands += [
        Band("paper (OLMo2 1B): checkpoint of 14B tokens, 0.7× Chinchilla-optimal, GSM8K", True, 2, 1.9, 1.1, 0.75)
    ]
    columns = max(len(names), 1)
    bands += [Band(f"this study ({scale}): every checkpoint, easy problems", False, columns, 1.4, 0.45)]
    bands += [Band(f"this study ({scale}): {what} while training", False, columns, 0.9, 0.45) for what in LOGGED]
    title = headlines.sharpening_or_expansion(changes)[0]
    figure, rows = page(title, note, bands, list(NAMES)[::-1], [*PASS, SEEDS])
    theirs = reference.dynamics().assign(ci_low=lambda t: t["estimate"], ci_high=lambda t: t["estimate"])
    ends = []
    for row, table in zip(rows[:2], (here, theirs), strict=True):
        for axes, (pipeline, name) in zip(row, NAMES.items(), strict=True):
            ends.append((axes, _stages(axes, table[table["pipeline"] == pipeline], pipeline)))
            axes.set_title(name, loc="left")
    share_y([axes for row in rows[:2] for axes in row], SOLVED)
    for axes, labels in ends:
        end_labels(axes, labels, size=8)
    for column, (name, label) in enumerate(names.items()):
        _steps(rows[2][column], dynamics[dynamics["checkpoint"] == name])
        rows[2][column].set_title(label, loc="left")
        for row, what in zip(rows[3:], LOGGED, strict=True):
            _log(row[column], logs[logs["checkpoint"] == name], what)
    for axes in [] if names else [row[0] for row in rows[2:]]:
        nothing(axes)
    for row, label in zip(rows[2:], (SOLVED, "reward (%)", "entropy (nats)"), strict=True):
        share_y(row, label)
        for axes in row:
            axes.set_xlabel("RL step")
            if axes is not row[0]:
                axes.set_ylabel("")
    top = max((axes.dataLim.y1 for axes in rows[4] if np.isfinite(axes.dataLim.y1)), default=1)
    for axes in rows[4]:  # nats are below one
        axes.set_ylim(0, top * 1.05)
    return figure


def _stages(axes: Axes, table: pd.DataFrame, pipeline: str) -> list[tuple[pd.DataFrame, str, str]]:
    """pass@1 and pass@32 over base, SFT and the steps of RL, in equal distances; returns the labels of their ends."""
    if table.empty:
        nothing(axes)
        return []
    rank = table["stage"].map({"base": 0, ZERO_SHOT: 1, "sft": 1, "rl": 2})
    stages = sorted(set(zip(rank, table["stage"], table["rl_step"], strict=True)))
    place = {(stage, step): number for number, (_, stage, step) in enumerate(stages)}
    table = table.assign(x=[place[key] for key in zip(table["stage"], table["rl_step"], strict=True)])
    words = {"base": "base", ZERO_SHOT: "0-shot", "sft": "SFT"}
    stage_axis(axes, [words.get(stage, f"{step:.0f}") for _, stage, step in stages])
    labels = []
    for k, points in table.groupby("k"):
        curve(axes, points, LOOKS[pipeline]._replace(dashes=DASHES[k]))
        mean = points[points["seed"].isna()] if "seed" in points.columns else points
        labels.append((mean, f"pass@{k}", LOOKS[pipeline].color))
    return labels


def _steps(axes: Axes, table: pd.DataFrame) -> None:
    """pass@1 and pass@32 of both pipelines over RL steps at one checkpoint; what they start from is at step 0."""
    width = table["rl_step"].max() or 1
    for (pipeline, k), points in table.groupby(["pipeline", "k"]):
        look = LOOKS[pipeline]._replace(dashes=DASHES[k])
        curve(axes, points[points["stage"] != "base"].assign(x=points["rl_step"]), look)
        base = points[(points["stage"] == "base") & points["seed"].isna()]
        axes.plot([-0.08 * width] * len(base), base["estimate"], "o", mfc="white", mec=LOOKS["base"].color, ms=4)
    axes.set_xlim(-0.16 * width, 1.06 * width)
    axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))


def _log(axes: Axes, log: pd.DataFrame, what: str) -> None:
    for recipe, points in log.dropna(subset=[what]).groupby("recipe"):
        for seed, run in points.assign(seed=points["seed"].fillna(-1)).groupby("seed"):
            width, alpha = (1.4, 1.0) if seed == -1 else (0.6, 0.45)
            axes.plot(run["rl_step"], run[what].astype(float), color=LOOKS[recipe].color, lw=width, alpha=alpha)
    if not axes.lines:
        nothing(axes)


STARTS = {
    "0-shot": "direct RL, change from the base checkpoint 0-shot, where it starts",
    "few-shot": "direct RL, change from the base checkpoint few-shot",
    "SFT": "RL after SFT, change from the SFT model",
}
KIND_COLORS = ("#1b9e77", "#d95f02", "#e6ab02", "#dddddd")
KIND_LETTERS = ("E", "S", "1", "")  # for whom the colours are alike


@styled
def phase_map(phases: pd.DataFrame) -> Figure:
    """Beyond the paper: where RL expands and where it sharpens, over checkpoint and RL step."""
    scale = phases["scale"].iloc[0] if len(phases) else "nothing measured yet"
    note = (
        "Easy problems, all questions that both models answered, paired; after the last step there are more of them, "
        "and so narrower intervals, than before it. Numbers: points (entropy: nats). Bold: the 95% interval is on one "
        "side of 0. Expands: pass@1 and pass@32 rise; sharpens: pass@1 rises and pass@32 falls. Of the few-shot base "
        "no entropy is known."
    )
    marks = [
        Line2D([], [], marker="s", lw=0, ms=8, color=color, label=f"{letter}: {kind}" if letter else kind)
        for kind, color, letter in zip(headlines.KINDS, KIND_COLORS, KIND_LETTERS, strict=True)
    ]
    bands = [Band(f"this study ({scale}): {words}", False, 4, 1.7, 0.75) for words in STARTS.values()]
    figure, rows = page(headlines.phase_map(phases)[0], note, bands, (), marks)
    points = phases[phases["measure"] != "entropy"]["estimate"].abs().max()
    nats = phases[phases["measure"] == "entropy"]["estimate"].abs().max()
    for row, start in zip(rows, STARTS, strict=True):
        here = phases[phases["start"] == start]
        panels = {"pass@1": row[0], "pass@32": row[1], "entropy": row[3]}
        if start == "few-shot" and len(here):
            panels.pop("entropy").remove()
        for measure, axes in panels.items():
            _map(axes, here[here["measure"] == measure], nats if measure == "entropy" else points)
            axes.set_title(f"change of {measure}", loc="left")
        _kind_map(row[2], headlines.phase_kinds(here))
        row[2].set_title("what RL does", loc="left")
    return figure


def _grid(axes: Axes, table: pd.DataFrame, column: str) -> pd.DataFrame:
    """A table checkpoint x step, with the axes of its map."""
    wide = table.assign(chinchilla=table["chinchilla"].astype(float).round(6)).pivot(
        index="chinchilla", columns="rl_step", values=column
    )
    every = -(-wide.shape[1] // 4)
    shown = range(wide.shape[1] - 1, -1, -every) if every else []
    axes.set_xticks(list(shown), [f"{wide.columns[number]:.0f}" for number in shown])
    axes.set_yticks(range(len(wide)), [f"{multiple:.2g}×" for multiple in wide.index])
    axes.set_xlabel("RL step")
    axes.set_ylabel("checkpoint")
    axes.grid(False)
    return wide


def _map(axes: Axes, table: pd.DataFrame, reach: float) -> None:
    """A change in each cell, with its number; the same colour is the same change in all maps of one reach."""
    wide = _grid(axes, table, "estimate")
    if wide.empty:
        nothing(axes)
        return
    _cells(axes, wide, cmap="RdBu", vmin=-reach, vmax=reach)
    low, high = (_grid(axes, table, end).to_numpy(float) for end in ("ci_low", "ci_high"))
    small = 6.5 if wide.shape[1] <= 6 else 5
    for (y, x), value in np.ndenumerate(wide.to_numpy(float)):
        if np.isfinite(value):
            text = f"{value:+z.1f}" if reach > 2 else f"{value:+z.2f}"
            weight = "bold" if low[y, x] > 0 or high[y, x] < 0 else "normal"
            color = "white" if abs(value) > 0.57 * reach else "#222222"
            axes.text(x, y, text, ha="center", va="center", size=small, weight=weight, color=color)


def _kind_map(axes: Axes, kinds: pd.DataFrame) -> None:
    wide = _grid(axes, kinds.assign(number=kinds["kind"].map(headlines.KINDS.index)), "number")
    if wide.empty:
        nothing(axes)
    else:
        _cells(axes, wide, cmap=ListedColormap(KIND_COLORS), vmin=-0.5, vmax=3.5)
        for (y, x), number in np.ndenumerate(wide.to_numpy(float)):
            if np.isfinite(number):
                axes.text(x, y, KIND_LETTERS[int(number)], ha="center", va="center", size=6.5, color="#222222")


def _cells(axes: Axes, wide: pd.DataFrame, **colors: Any) -> None:
    height, width = wide.shape
    edges = np.arange(width + 1) - 0.5, np.arange(height + 1) - 0.5
    axes.pcolormesh(*edges, wide.to_numpy(float), edgecolor="white", linewidth=0.8, **colors)
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(-0.5, height - 0.5)


@styled
def reward_gaming(points: pd.DataFrame) -> Figure:
    """Beyond the paper: right answers against derived ones, for every recipe, and along RL at every checkpoint."""
    scale = points["scale"].iloc[0] if len(points) else "nothing measured yet"
    names, recipes = curves.multiples(points), [name for name in LOOKS if name in set(points["recipe"])]
    note = (
        "Right: the final answer is, which is what the reward sees. Derived: right, and every equation is true, every "
        "operand told or derived, and the last results the answer. Shaded above: 95% interval over questions and "
        "training seeds; shaded below: right but not derived, a guess or a lucky error. Easy problems, pass@1. "
    )
    along, last = points[~points["is_end"]], points[points["is_end"]]
    asked = "Along training all points of a checkpoint are of the same questions, fewer than after it. "
    note += (asked if len(along) else "") + curves.missing(last, recipes)
    bands = [Band(f"this study ({scale}): after training", False, 3, 1.8)]
    bands += [Band("along direct RL: right and derived", False, max(len(names), 1), 1.3, 0.45)]
    bands += [Band("along RL after SFT: right and derived", False, max(len(names), 1), 1.3, 0.45)]
    dashes = [Line2D([], [], color=GREY, ls=ls, label=label) for ls, label in (("-", "right"), (":", "derived"))]
    figure, rows = page(headlines.reward_gaming(points)[0], note, bands, recipes, [*dashes, SEEDS])
    last = last.assign(x=lambda table: table["chinchilla"].astype(float))
    gap = last[(last["measure"] == "gap")].merge(
        last.loc[(last["measure"] == "correct") & last["seed"].isna(), ["checkpoint", "recipe", "estimate"]],
        on=["checkpoint", "recipe"], suffixes=("", "_right"),
    )  # fmt: skip
    gap = gap[(gap["estimate_right"] > 0) & gap["seed"].isna()]
    for end in ("estimate", "ci_low", "ci_high"):
        gap[end] = (100 * gap[end] / gap["estimate_right"]).clip(upper=100)
    tables = {
        "right": last[last["measure"] == "correct"],
        "derived": last[last["measure"] == "valid"],
        "right, not derived": gap,
    }
    for axes, (name, table) in zip(rows[0], tables.items(), strict=True):
        axes.set_title(name, loc="left")
        for recipe in recipes:
            here = table[table["recipe"] == recipe]
            if len(here):
                curve(axes, here, LOOKS[recipe])
        if table.empty:
            nothing(axes)
    share_y(rows[0][:2], "samples (%)")
    share_y(rows[0][2:], "of right ones (%)")
    if len(last):
        tokens_axis(rows[0], [last["x"]])
    for row, recipe in zip(rows[1:], ("rl", "sft_rl"), strict=True):
        for axes, name in zip(row, names, strict=False):
            _right_and_derived(axes, along[(along["checkpoint"] == name) & (along["recipe"] == recipe)], recipe)
            axes.set_title(names[name], loc="left")
        share_y(row, "samples (%)")
        for axes in row:
            axes.set_xlabel("RL step")
    return figure


def _right_and_derived(axes: Axes, table: pd.DataFrame, recipe: str) -> None:
    mean = table[table["seed"].isna()].sort_values("rl_step")
    if mean.empty:
        nothing(axes)
        return
    right, derived = (table[table["measure"] == name].assign(x=table["rl_step"]) for name in ("correct", "valid"))
    curve(axes, right, LOOKS[recipe], band=False)
    curve(axes, derived, LOOKS[recipe]._replace(dashes=":"), band=False)
    above, below = (mean[mean["measure"] == name] for name in ("correct", "valid"))
    x = above["rl_step"].astype(float)
    axes.fill_between(x, below["estimate"], above["estimate"], color=LOOKS[recipe].color, alpha=0.15, lw=0)
