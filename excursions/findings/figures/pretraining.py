"""The figures over pretraining: every recipe from every checkpoint, as levels and as gains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from excursions.findings import curves, headlines, reference
from excursions.findings.curves import ZERO_SHOT
from excursions.findings.plotting import (
    BEST_OF_4,
    DASHES,
    FLOOR,
    LOOKS,
    SEEDS,
    Band,
    curve,
    end_labels,
    nothing,
    page,
    share_y,
    styled,
    tokens_axis,
)
from excursions.results.tables import KS

Floors = Mapping[tuple[str, int], float]
BENCHMARKS = {
    "average": "average of the six",
    "lambada": "LAMBADA",
    "hellaswag": "HellaSwag",
    "arc_easy": "ARC-Easy",
    "arc_challenge": "ARC-Challenge",
    "piqa": "PIQA",
    "openbookqa": "OpenBookQA",
}
TASKS = {"easy": "GSM8K", "hard": "MATH"}
SOLVED, GAIN, CHANGE = "problems solved (%)", "minus base (points)", "accuracy minus base (points)"
NOTE = (
    "Shaded: 95% interval over test questions and training seeds; for the paper, which prints none, over questions "
    "only. Vertical dashes: Chinchilla-optimal, 20 tokens per parameter. Base few-shot, everything else 0-shot. "
)
GENERAL_NOTE = NOTE.replace("test questions", "test items").replace("over questions", "over items")
BEST = (
    "Open squares: in the paper's panels early points of RL that are the best of 4 seeds; in ours the best of the "
    "first four, where there are four, beside the mean of all, which the curve is. "
)


@styled
def early_rl(points: pd.DataFrame, changes: pd.DataFrame, floors: Floors) -> Figure:
    """Result 1: base checkpoints and direct RL from each of them, on the easy and the hard benchmark."""
    recipes = ["base", ZERO_SHOT, "rl"]
    title = headlines.early_rl(changes)[0]
    return _levels_and_gains(title, points, changes, floors, [(recipes, "easy", ""), (recipes, "hard", "")])


@styled
def scarce_demonstrations(points: pd.DataFrame, changes: pd.DataFrame, floors: Floors) -> Figure:
    """Result 2: RL against SFT on one gold solution per question (above) and on all of them (below)."""
    blocks = [(["base", ZERO_SHOT, "rl", "sft", "sft_rl"], "easy", ", one solution per question")]
    blocks += [(["base", ZERO_SHOT, "rl", "sft_gold", "sft_gold_rl"], "easy", ", all solutions of every question")]
    return _levels_and_gains(headlines.scarce_demonstrations(changes)[0], points, changes, floors, blocks)


@styled
def suite(points: pd.DataFrame, changes: pd.DataFrame, floors: Floors) -> Figure:
    """Any suite of checkpoints: all recipes that were run from them, on the easy and the hard benchmark."""
    recipes = [recipe for recipe in curves.ORDER if recipe in set(points["recipe"])]
    title = headlines.suite(points, changes)[0]
    return _levels_and_gains(title, points, changes, floors, [(recipes, role, "") for role in TASKS])


def _levels_and_gains(
    title: str,
    points: pd.DataFrame,
    changes: pd.DataFrame,
    floors: Floors,
    blocks: Sequence[tuple[list[str], str, str]],
) -> Figure:
    """For each block (recipes, role, words) ours above the paper's: three levels, and two gains over base."""
    recipes = [recipe for recipe in curves.ORDER if any(recipe in chosen for chosen, _, _ in blocks)]
    ours, theirs = _with_x(points), _published()
    our_gains, their_gains = _with_x(changes[changes["other"] == "base"]), _published_gains()
    bands = []
    for _, role, words in blocks:
        bands += [Band(f"this study ({_scale(points)}): {role} problems{words}", False, 5)]
        bands += [Band(f"paper (OLMo2 1B, published): {TASKS[role]}{words}", True, 5)]
    note = NOTE + BEST + curves.missing(points, [recipe for recipe in recipes if recipe != ZERO_SHOT])
    figure, rows = page(title, note, bands, recipes, [SEEDS, FLOOR, BEST_OF_4])
    for (chosen, role, _), first in zip(blocks, range(0, len(rows), 2), strict=True):
        pair = rows[first : first + 2]
        for column, k in enumerate(KS):
            for axes, table in zip((row[column] for row in pair), (ours, theirs), strict=True):
                _curves(axes, table[(table["role"] == role) & (table["k"] == k)], chosen, f"pass@{k}")
            _floor(pair[0][column], floors.get((role, k)))
            share_y([row[column] for row in pair], SOLVED if k == 1 else "")
        for column, k in ((3, 1), (4, 32)):
            for axes, table in zip((row[column] for row in pair), (our_gains, their_gains), strict=True):
                here = table[(table["role"] == role) & (table["k"] == k)]
                _curves(
                    axes, here, [recipe for recipe in chosen if recipe not in ("base", ZERO_SHOT)], f"gain, pass@{k}"
                )
        share_y([row[column] for row in pair for column in (3, 4)], "", from_zero=False)
        for row in pair:
            row[3].set_ylabel(GAIN)
    tokens_axis([axes for row in rows for axes in row], [ours["x"], theirs["x"]])
    return figure


@styled
def checkpoints(points: pd.DataFrame, general: pd.DataFrame, floors: Floors) -> Figure:
    """The suite before any post-training: base pass@k on both benchmarks, and the six general benchmarks."""
    ours, theirs = _with_x(points), _published()
    pairs = [(ours, _with_x(general)), (theirs, reference.general().assign(x=lambda table: table["chinchilla"]))]
    bands = [Band(f"this study ({_scale(points)})", False, 3, 1.9, 0.95, 0.95)]
    bands += [Band("paper (OLMo2 1B, published)", True, 3, 1.9, 0.95, 0.95)]
    note = NOTE + curves.missing(points, ["base"])
    figure, rows = page(headlines.checkpoints(points, general)[0], note, bands, ["base", ZERO_SHOT], [FLOOR])
    tokens_axis([axes for row in rows for axes in row], [ours["x"], theirs["x"]])
    names = [{"easy": "easy problems", "hard": "hard problems"}, TASKS]
    labels: list[tuple[Axes, list]] = []
    for row, (problems, other), words in zip(rows, pairs, names, strict=True):
        for axes, (role, name) in zip(row, words.items(), strict=False):
            axes.set_title(name, loc="left")
            ends = []
            for (recipe, k), here in problems[problems["role"] == role].groupby(["recipe", "k"], observed=True):
                if recipe == "base":
                    curve(axes, here, LOOKS["base"]._replace(dashes=DASHES[k]))
                    ends.append((here[here["seed"].isna()] if "seed" in here else here, f"pass@{k}", "#222222"))
                elif recipe == ZERO_SHOT:
                    curve(axes, here, LOOKS[ZERO_SHOT], band=False, width=0.9)
            for k in KS if row is rows[0] else ():
                _floor(axes, floors.get((role, k)))
            labels.append((axes, ends))
        ends = []
        for (name, label), marker in zip(BENCHMARKS.items(), "o^v<>Ds", strict=True):
            here, main = other[(other["benchmark"] == name) & (other["recipe"] == "base")], name == "average"
            look = (
                LOOKS["base"]._replace(marker=marker) if main else LOOKS[ZERO_SHOT]._replace(marker=marker, dashes="-")
            )
            if len(here):
                curve(row[2], here, look, band=main, width=2 if main else 1)
                ends.append((here, "average" if main else _stand_in(label, row is rows[0], points), look.color))
        row[2].set_title("general benchmarks", loc="left")
        labels.append((row[2], ends))
    for column in range(2):
        share_y([row[column] for row in rows], SOLVED)
    share_y([row[2] for row in rows], "accuracy (%)")
    for axes, ends in labels:
        end_labels(axes, ends)
    return figure


@styled
def general_capabilities(general: pd.DataFrame, changes: pd.DataFrame) -> Figure:
    """Result 4: accuracy minus that of base on the six general benchmarks, and on average, after each recipe."""
    few, all_of_them = ["rl", "sft", "sft_gold"], ["rl", "sft", "sft_gold", "sft_rl", "sft_gold_rl", "parallel"]
    shown = [recipe for recipe in all_of_them if recipe in set(changes["recipe"])] or few
    bands = [Band(f"this study ({_scale(general)}): stand-ins in a synthetic language", False, 4), Band("", False, 4)]
    if _scale(general) == "paper":
        bands[0] = bands[0]._replace(heading="this study (paper)")
    bands += [Band("paper (OLMo2 1B, published)", True, 4), Band("", True, 4)]
    note = GENERAL_NOTE + "In brackets: accuracy of base at the first and the last checkpoint; the line at 0 is base. "
    note += "Single benchmarks: RL and SFT alone; the average: all recipes. "
    note += curves.missing(general, ["base", *few])
    figure, rows = page(headlines.general_capabilities(changes)[0], note, bands, shown)
    for last in (rows[1], rows[3]):
        last.pop().remove()  # seven panels in two rows
    ours, theirs = _with_x(changes), _published_general_gains()
    levels = (_with_x(general), reference.general().assign(x=lambda table: table["chinchilla"]))
    for panels, table, level in zip((rows[0] + rows[1], rows[2] + rows[3]), (ours, theirs), levels, strict=True):
        for axes, (name, label) in zip(panels, BENCHMARKS.items(), strict=True):
            recipes = all_of_them if name == "average" else few
            base = level[(level["benchmark"] == name) & (level["recipe"] == "base")].sort_values("x")["estimate"]
            words = name if name == "average" else _stand_in(label, table is ours, general)
            if len(base):
                words += f" ({base.iloc[0]:.0f} to {base.iloc[-1]:.0f}%)"
            _curves(axes, table[table["benchmark"] == name], recipes, words)
    averages = [rows[0][0], rows[2][0]]  # nearer to 0 than single benchmarks
    share_y(averages, "", from_zero=False)
    share_y([axes for row in rows for axes in row if axes not in averages], "", from_zero=False)
    for row in rows:
        row[0].set_ylabel(GAIN)
    tokens_axis([axes for row in rows for axes in row], [ours["x"], theirs["x"]])
    return figure


@styled
def parallel_averaging(
    points: pd.DataFrame, general_changes: pd.DataFrame, changes: pd.DataFrame, floors: Floors
) -> Figure:
    """Result 5: RL and SFT updates averaged, against either alone and one after the other."""
    recipes = ["base", "rl", "sft", "sft_rl", "parallel"]
    bands = [Band(f"this study ({_scale(points)}): easy problems", False, 4, 1.8)]
    bands += [Band("paper (OLMo2 1B, published): GSM8K", True, 4, 1.8)]
    note = NOTE + BEST + "The paper's general average here is of five (without ARC-Challenge) and has no SFT → RL. "
    note += curves.missing(points, recipes)
    title = headlines.parallel_averaging(changes, general_changes)[0]
    figure, rows = page(title, note, bands, recipes, [SEEDS, FLOOR, BEST_OF_4])
    ours, theirs = _with_x(points), _published()
    others = (_with_x(general_changes), _published_general_gains())
    for row, table, other, mean in zip(rows, (ours, theirs), others, ("average", "average5"), strict=True):
        for axes, k in zip(row, KS, strict=False):
            _curves(axes, table[(table["role"] == "easy") & (table["k"] == k)], recipes, f"pass@{k}")
            _floor(axes, floors.get(("easy", k)) if row is rows[0] else None)
        _curves(row[3], other[other["benchmark"] == mean], recipes[1:], "general benchmarks")
    for column, k in enumerate(KS):
        share_y([row[column] for row in rows], SOLVED if k == 1 else "")
    share_y([row[3] for row in rows], CHANGE, from_zero=False)
    tokens_axis([axes for row in rows for axes in row], [ours["x"], theirs["x"]])
    return figure


def _curves(axes: Axes, table: pd.DataFrame, recipes: Sequence[str], title: str) -> None:
    """One panel: the curves of these recipes that there are."""
    axes.set_title(title, loc="left")
    for recipe in recipes:
        here = table[table["recipe"] == recipe]
        if len(here):
            curve(axes, here, LOOKS[recipe], band=recipe != ZERO_SHOT, width=1.0 if recipe == ZERO_SHOT else 1.5)
            _best_of_4(axes, here, recipe)
    if not table["recipe"].isin(recipes).any():
        nothing(axes)


def _best_of_4(axes: Axes, here: pd.DataFrame, recipe: str) -> None:
    """Open markers: the paper's points that are a best of 4, and of ours, where there are as many seeds, the best."""
    if "note" in here.columns:
        best = here[
            here["note"].str.contains("best of 4") & (here["chinchilla"] <= reference.EARLY_B / reference.CHINCHILLA_B)
        ]
    elif "seed" in here.columns and recipe == "rl":
        runs = here[here["seed"].notna() & (here["seed"] < 4)].sort_values("estimate")
        of_four = runs.groupby("x")["seed"].transform("nunique") == 4
        best = runs[of_four].groupby("x", as_index=False).last()
    else:
        return
    face = axes.get_facecolor() if "note" in here.columns else "none"  # ours stand on the curve of the mean
    axes.plot(best["x"], best["estimate"], "s", mfc=face, mec=LOOKS[recipe].color, ms=4.5, mew=1, zorder=4)


def _floor(axes: Axes, percent: float | None) -> None:
    """What guessing scores."""
    if percent is not None:
        axes.axhline(percent, color=FLOOR.get_color(), lw=0.9, ls=(0, (1, 1.5)), zorder=1.6)


def _stand_in(label: str, ours: bool, table: pd.DataFrame) -> str:
    return f"{label}-like" if ours and _scale(table) != "paper" else label


def _scale(table: pd.DataFrame) -> str:
    return str(table["scale"].iloc[0]) if len(table) else "nothing measured yet"


def _with_x(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(x=table["chinchilla"].astype(float))


def _published() -> pd.DataFrame:
    """The paper's curves, with base 0-shot on GSM8K."""
    table = reference.pass_at_k()
    shots = reference.raw("shots")
    zero = reference.finish(shots[shots["n_shots"] == 0]).assign(recipe=ZERO_SHOT, role="easy", note="")
    return pd.concat([table, zero[[name for name in table.columns if name in zero]]]).assign(
        x=lambda t: t["chinchilla"]
    )


def _published_gains() -> pd.DataFrame:
    return _minus_base(reference.pass_at_k(), ["role", "k", "checkpoint"])


def _published_general_gains() -> pd.DataFrame:
    return _minus_base(reference.general(), ["benchmark", "checkpoint"])


def _minus_base(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Points minus base's, unpaired: question-level data is not public."""
    base = table[table["recipe"] == "base"][[*keys, "estimate", "half_width"]]
    both = table[table["recipe"] != "base"].merge(base, on=keys, suffixes=("", "_base"))
    half = np.hypot(both["half_width"], both["half_width_base"])
    change = both["estimate"] - both["estimate_base"]
    return both.assign(estimate=change, ci_low=change - half, ci_high=change + half, x=both["chinchilla"])
