"""The figures of settings varied: the weight of RL in parallel averaging, rollouts, shots, epochs and KL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator

from excursions.findings import curves, headlines, reference
from excursions.findings.plotting import (
    SEEDS,
    Band,
    Look,
    curve,
    end_labels,
    nothing,
    page,
    share_y,
    styled,
    tokens_axis,
)
from excursions.results.tables import KS

SOLVED = "problems solved (%)"
PANELS = {
    ("easy", 1): "easy, pass@1",
    ("easy", 32): "easy, pass@32",
    ("hard", 1): "hard, pass@1",
    ("hard", 32): "hard, pass@32",
}


@styled
def combination(points: pd.DataFrame) -> Figure:
    """Beyond the paper: the weight of RL in parallel averaging, between SFT alone (0) and RL alone (1)."""
    scale = points["scale"].iloc[0] if len(points) else "nothing measured yet"
    note = (
        "One curve a checkpoint, in multiples of Chinchilla-optimal. 0 and 1 are SFT and RL by themselves, not "
        "parallel averaging at its ends: SFT takes other numbers of steps. "
    )
    if curves.FROM_0_TO_1 in set(points["value"]):
        note += "0 to 1: the weight grows while training. "
    note += "Shaded: 95% interval over questions and seeds. General benchmarks: accuracy minus base, mean of the six."
    multiples = curves.multiples(points).values()
    looks = [_sequence(len(multiples), number, label) for number, label in enumerate(multiples)]
    key = [Line2D([], [], color=look.color, marker=look.marker, label=look.label) for look in looks]
    bands = [Band(f"this study ({scale})", False, 5, 2.0, 0.6)]
    figure, (row,) = page(headlines.combination(points)[0], note, bands, (), [*key, SEEDS])
    for axes, (panel, name) in zip(row, (PANELS | {("general", 0): "general benchmarks"}).items(), strict=True):
        here = points[(points["role"] == panel[0]) & (points["k"] == panel[1])]
        _by_checkpoint(axes, here[here["value"] <= 1], points)
        axes.set_title(name, loc="left")
        axes.set_xlabel("weight of RL")
        axes.set_xlim(-0.05, 1.05)
        linear = here[here["value"] == curves.FROM_0_TO_1]
        if len(linear):
            _by_checkpoint(axes, linear, points)
            axes.set_xlim(-0.05, curves.FROM_0_TO_1 + 0.15)
            axes.set_xticks([0, 0.5, 1, curves.FROM_0_TO_1], ["0", "0.5", "1", "0 to 1"])
        share_y([axes], "minus base (points)" if panel[1] == 0 else SOLVED, from_zero=panel[1] > 0)
    return figure


@styled
def ablations(rollouts: pd.DataFrame, varied: Mapping[str, pd.DataFrame]) -> Figure:
    """What the settings do, beside the paper's curves: rollouts, shots of base, epochs of SFT, KL.

    rollouts: from `curves.rollouts`; varied: from `curves.varied`, for the keys shots, epochs and KL.
    """
    ours, theirs = "this study", "paper (OLMo2 1B, published)"
    bands = [
        Band(f"{ours}: rollouts a question, pass@1; trained and tested on easy problems, or on hard ones", False, 4),
        Band(f"{theirs}: rollouts; easy and hard are halves of its training questions, tested on GSM8K", True, 4),
        Band(f"{ours}: examples in the prompt of base, easy problems", False, 3),
        Band(f"{theirs}: examples in the prompt of base, GSM8K", True, 3),
        Band(f"{ours}: epochs of SFT and KL of RL, easy problems; one curve a checkpoint", False, 4, 1.5, 0.85, 0.55),
        Band(f"{theirs}: epochs of SFT (on several solutions per question), GSM8K", True, 3),
    ]
    note = (
        "Shaded: 95% interval over questions and, here, training seeds. Answers sampled are the paper's FLOPs. Curves "
        "along training are of the same questions at every step; epochs and KL have one where several values were run."
    )
    figure, rows = page(headlines.ablations(rollouts, varied)[0], note, bands, (), [SEEDS])
    _rollouts(rows[:2], rollouts)
    _shots(rows[2:4], varied["shots"])
    for axes, (name, k) in zip(rows[4], (("epochs", 1), ("epochs", 32), ("KL", 1), ("KL", 32)), strict=True):
        table = varied[name]
        values = sorted(set(table["value"]))
        here = table[(table["role"] == "easy") & (table["k"] == k)]
        here = here[here.groupby("checkpoint", observed=True)["value"].transform("nunique") > 1]
        ends = _by_checkpoint(axes, here.assign(value=here["value"].map(values.index).astype(float)), table)
        axes.set_xticks(range(len(values)), [f"{value:g}" for value in values])
        axes.set_title(f"{name}, pass@{k}", loc="left")
        axes.set_xlabel({"epochs": "epochs of SFT", "KL": "weight of the KL penalty"}[name])
        share_y([axes], SOLVED)
        end_labels(axes, ends)
    _epochs(rows[5])
    return figure


def _rollouts(rows: Sequence[Sequence[Axes]], ours: pd.DataFrame) -> None:
    theirs = reference.raw("rollouts")
    theirs = reference.finish(theirs[theirs["metric"] == "pass@1"]).rename(
        columns={"split": "role", "n_rollouts": "rollouts", "samples_seen": "questions", "flops_axis_value": "answers"}
    )
    for row, table, top in zip(rows, (ours, theirs), (0.95, 0.28), strict=True):  # the paper's curves run above
        for axes, (role, x) in zip(
            row, [(r, x) for r in ("easy", "hard") for x in ("questions", "answers")], strict=True
        ):
            here = table[table["role"] == role]
            values = sorted(set(here["rollouts"]))
            axes.set_title(f"{role}, by {x}", loc="left")
            axes.set_xlabel({"questions": "questions seen", "answers": "answers sampled"}[x])
            if x == "answers":
                axes.set_xscale("log")
                axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
                axes.xaxis.set_major_formatter(EngFormatter(sep=""))
                axes.xaxis.set_minor_locator(NullLocator())
            else:
                axes.xaxis.set_major_locator(MaxNLocator(3))
            for number, points in here.groupby("rollouts"):
                look = _sequence(len(values), values.index(number), f"{number:.0f} rollouts")
                curve(axes, points.assign(x=points[x].astype(float)), look, width=1)
            _key(axes, here, "rollouts", "{:.0f} rollouts", top)
    for columns in (slice(0, 2), slice(2, 4)):
        share_y([axes for row in rows for axes in row[columns]], SOLVED)


def _shots(rows: Sequence[Sequence[Axes]], ours: pd.DataFrame) -> None:
    theirs = reference.finish(reference.raw("shots")).rename(columns={"n_shots": "value"}).assign(role="easy")
    for row, points in zip(rows, (ours, theirs), strict=True):
        _over_tokens(row, points[points["role"] == "easy"], "{:.0f}-shot")
    for column in range(3):
        share_y([row[column] for row in rows], SOLVED)
    x = [points["chinchilla"].astype(float) for points in (ours, theirs) if len(points)]
    tokens_axis([axes for row in rows for axes in row], x)


def _epochs(row: Sequence[Axes]) -> None:
    table = reference.raw("curves")
    epochs = {"gsm8k_sft_5epoch_2026-02": 5, reference.FEBRUARY: 10}
    table = table[table["figure"].isin(epochs) & (table["recipe"] == "sft")]
    points = reference.finish(table).assign(value=table["figure"].map(epochs))
    _over_tokens(row, points, "{:.0f} epochs")
    share_y(row, SOLVED)
    tokens_axis(row, [points["chinchilla"]])


def _over_tokens(row: Sequence[Axes], points: pd.DataFrame, words: str) -> None:
    """pass@1, pass@8 and pass@32 over pretraining, one curve a value."""
    values = sorted(set(points["value"]))
    for axes, k in zip(row, KS, strict=True):
        axes.set_title(f"pass@{k}", loc="left")
        # the curves with the fewest points last, on top: another one may cover all they have
        for value, here in sorted(points[points["k"] == k].groupby("value"), key=lambda one: -len(one[1])):
            look = _sequence(len(values), values.index(value), words.format(value))
            mean = here[here["seed"].isna()] if "seed" in here.columns else here  # the seeds of base are one model
            # a line ends where a checkpoint was not measured, instead of crossing the others
            x = pd.Index(sorted({*points["chinchilla"].astype(float)}), name="x")
            curve(axes, mean.assign(x=mean["chinchilla"].astype(float)).set_index("x").reindex(x).reset_index(), look)
        _key(axes, points, "value", words)


def _by_checkpoint(axes: Axes, here: pd.DataFrame, everything: pd.DataFrame) -> list[tuple[pd.DataFrame, str, str]]:
    """One curve a checkpoint over the column value; returns the labels of their ends."""
    names, ends = curves.multiples(everything), []
    for number, (name, multiple) in enumerate(names.items()):
        points = here[here["checkpoint"] == name]
        if len(points):
            look = _sequence(len(names), number, name)
            curve(axes, points.assign(x=points["value"].astype(float)), look)
            mean = points[points["seed"].isna()].assign(x=lambda table: table["value"])
            ends.append((mean, multiple, look.color))
    if here.empty:
        nothing(axes)
    return ends


def _key(axes: Axes, points: pd.DataFrame, column: str, words: str, top: float = 0.95) -> None:
    """Which curve is which, inside the panel. top: where it begins, in shares of the panel's height."""
    values = sorted(set(points[column]))
    if not values:
        nothing(axes)
    for number, value in enumerate(reversed(values)):
        color = _sequence(len(values), len(values) - 1 - number, "").color
        place = (0.03, top - 0.11 * number)
        axes.text(*place, words.format(value), transform=axes.transAxes, size=7, color=color, va="top")


def _sequence(count: int, number: int, label: str) -> Look:
    """Looks of an ordered setting, from light to dark."""
    return Look(seaborn.color_palette("flare", max(count, 2)).as_hex()[number], "osD^vP"[number % 6], label)
