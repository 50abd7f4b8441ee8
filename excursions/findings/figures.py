"""One function for each figure: our measurements in the upper band, the paper's published curves under them.

Tables come from `results` (`pass_at_k_table`, `general_table`) and from `report.dynamics`, in percent; the
paper's from `reference`. `parameters` is the number of parameters of the suite's model; it turns
pretraining tokens into multiples of Chinchilla-optimal, the same axis for both. Every function returns a
matplotlib Figure for `plotting.save`, and raises UserError naming what a table lacks.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from excursions.findings import reference
from excursions.findings.estimates import chinchilla
from excursions.findings.plotting import (
    CONTINUED,
    DASHES,
    GREY,
    LOOKS,
    curve,
    end_labels,
    merge,
    page,
    paper,
    percent_axis,
    stage_axis,
    study,
    styled,
    tokens_axis,
)
from excursions.params import RECIPES, UserError
from excursions.results.tables import KS, ROLES

BENCHMARKS = {
    "lambada": "LAMBADA",
    "hellaswag": "HellaSwag",
    "arc_easy": "ARC-Easy",
    "arc_challenge": "ARC-Challenge",
    "piqa": "PIQA",
    "openbookqa": "OpenBookQA",
}
AVERAGE = {"average": "average of the six"}
SOLVED, ACCURACY = "problems solved (%)", "accuracy (%)"
INTERVALS = (
    "Shaded: 95% interval over test {items} and, where there are several, training seeds; "
    "for the paper, which prints none, over {items} only.\n"
    "Tokens of pretraining. Vertical dashes: Chinchilla-optimal, 20 tokens per parameter. "
)
NOTE = INTERVALS.format(items="questions") + "Base solves problems few-shot, all other recipes 0-shot. "
GENERAL_NOTE = INTERVALS.format(items="items")


@styled
def checkpoints(pass_at_k: pd.DataFrame, general: pd.DataFrame, parameters: int) -> Figure:
    """The suite before any post-training: base pass@k on both benchmarks, and the six general benchmarks."""
    ours = _measured(pass_at_k, parameters, ["base"], "checkpoints")
    ours_general = _measured(general, parameters, ["base"], "checkpoints")
    theirs, theirs_general = (table[table["recipe"] == "base"] for table in (_published(), _published_general()))
    bands = [study(_scale(pass_at_k)), paper()]
    title = "Checkpoints: what the base model can do along pretraining"
    figure, rows = page(title, NOTE, bands, columns=3, column_gap=0.95, right=0.85)
    tokens_axis(rows, [ours["x"], theirs["x"]])
    titles = [("easy problems", "hard problems"), ("GSM8K", "MATH")]
    for row, problems, other, names in zip(rows, (ours, theirs), (ours_general, theirs_general), titles, strict=True):
        for axes, role, name in zip(row, ("easy", "hard"), names, strict=False):
            look, ends = LOOKS["base"], []
            for k, points in problems[problems["role"] == role].groupby("k"):
                curve(axes, points, look.color, look.marker, DASHES[k])
                ends.append((points, f"pass@{k}", look.color))
            _finish(axes, name, SOLVED)
            end_labels(axes, ends)
        ends = []
        for (name, label), marker in zip((BENCHMARKS | AVERAGE).items(), "^v<>Dso", strict=True):
            points, main = other[other["benchmark"] == name], name in AVERAGE
            color = LOOKS["base"].color if main else GREY
            curve(row[2], points, color, marker, band=main, width=2 if main else 1)
            ends.append((points, "average" if main else label, color))
        _finish(row[2], "general benchmarks", ACCURACY, from_zero=False)
        end_labels(row[2], ends)
    return figure


@styled
def early_rl(pass_at_k: pd.DataFrame, parameters: int) -> Figure:
    """Result 1: base checkpoints and direct RL from each of them, on the easy and the hard benchmark."""
    title = "Early RL: base checkpoints, and RL started from each of them"
    bands = [(["base", "rl"], "easy"), (["base", "rl"], "hard")]
    return _recipes_along_pretraining("early_rl", title, pass_at_k, parameters, bands)


@styled
def scarce_demonstrations(pass_at_k: pd.DataFrame, parameters: int) -> Figure:
    """Result 2: RL against SFT on one gold solution per question (above) and on all of them (below)."""
    title = "Scarce demonstrations: RL against SFT on one or on all gold solutions"
    bands = [(["base", "rl", "sft", "sft_rl"], "easy"), (["base", "rl", "sft_gold", "sft_gold_rl"], "easy")]
    return _recipes_along_pretraining("scarce_demonstrations", title, pass_at_k, parameters, bands)


@styled
def suite(pass_at_k: pd.DataFrame, parameters: int) -> Figure:
    """Any suite of checkpoints: all recipes that were run from them, on the easy and the hard benchmark."""
    recipes = [recipe for recipe in RECIPES if recipe in set(pass_at_k["recipe"])]
    title = f"Suite {pass_at_k['suite'].iloc[0]}: all recipes from each of its checkpoints"
    bands = [(recipes, "easy"), (recipes, "hard")]
    return _recipes_along_pretraining("suite", title, pass_at_k, parameters, bands)


def _recipes_along_pretraining(
    name: str, title: str, pass_at_k: pd.DataFrame, parameters: int, pairs: list[tuple[list[str], str]]
) -> Figure:
    """Two pairs of bands (ours, the paper's): pass@1, pass@8 and pass@32 of some recipes on one benchmark."""
    recipes = list(dict.fromkeys(recipe for chosen, _ in pairs for recipe in chosen))
    ours, theirs = _measured(pass_at_k, parameters, recipes, name), _published()
    bands, contents = [], []
    for chosen, role in pairs:
        what = (
            ""
            if len({role for _, role in pairs}) > 1
            else ", all solutions"
            if "sft_gold" in chosen
            else ", one solution"
        )
        bands += [study(_scale(pass_at_k), f"{role} problems{what}")]
        bands += [paper({"easy": "GSM8K", "hard": "MATH"}[role] + what)]
        contents += [(ours, chosen, role), (theirs, chosen, role)]
    figure, rows = page(title, NOTE, bands, columns=len(KS), recipes=recipes)
    for row, (table, chosen, role) in zip(rows, contents, strict=True):
        for axes, k in zip(row, KS, strict=True):
            _curves(axes, table[(table["role"] == role) & (table["k"] == k)], chosen)
            _finish(axes, f"pass@{k}", SOLVED)
    tokens_axis(rows, [ours["x"], theirs["x"]])
    return figure


@styled
def sharpening_or_expansion(dynamics: pd.DataFrame) -> Figure:
    """Result 3: pass@1 and pass@32 along training on one checkpoint, with SFT before RL and without it.

    dynamics: from `report.dynamics`; the panels show stages and steps in equal distances, as the paper's do.
    """
    scale, checkpoint, multiple = dynamics.iloc[0][["scale", "checkpoint", "chinchilla"]]
    title = "Sharpening or expansion: pass@1 and pass@32 along training on one checkpoint"
    note = (
        f"All points of this study: the same {dynamics['n_questions'].iloc[0]} questions at every step. "
        "Shaded: 95% interval over them and, where there are several, training seeds.\n"
        "Open marker: the base model 0-shot, where RL starts. Base is few-shot, everything else 0-shot."
    )
    theirs = reference.dynamics().assign(
        zero_shot=False, ci_low=lambda t: t["estimate"], ci_high=lambda t: t["estimate"]
    )
    bands = [study(scale, f"checkpoint {checkpoint}, {multiple:.2f}× Chinchilla-optimal, easy problems")]
    bands += [paper("checkpoint of 14B tokens, 0.7× Chinchilla-optimal, GSM8K")]
    figure, rows = page(title, note, bands, columns=2, panel=(4.0, 1.9), right=0.75, column_gap=1.1)
    names = {"sft_rl": "pretraining → SFT → RL", "rl": "pretraining → RL"}
    for row, table in zip(rows, [dynamics, theirs], strict=True):
        for axes, (pipeline, name) in zip(row, names.items(), strict=True):
            percent_axis(axes, SOLVED, top=table["ci_high"].max())
            _stages(axes, table[table["pipeline"] == pipeline], LOOKS[pipeline].color)
            axes.set_title(name, loc="left")
    return figure


def _stages(axes: Axes, table: pd.DataFrame, color: str) -> None:
    """pass@1 and pass@32 over base, SFT and the steps of RL, in equal distances."""
    ranks = table["stage"].map({"base": 0, "sft": 1, "rl": 2})
    stages = sorted(set(zip(ranks, table["rl_step"], strict=True)))
    table = table.assign(x=[stages.index(stage) for stage in zip(ranks, table["rl_step"], strict=True)])
    stage_axis(axes, [("base", "SFT", str(step))[rank] for rank, step in stages])
    curves = list(table.groupby("k"))
    for k, points in curves:
        marker, dashes = ("o", "-") if k == 1 else ("D", "--")
        curve(axes, points[~points["zero_shot"]], color, marker, dashes)
        start = points[points["zero_shot"]]
        axes.plot(start["x"], start["estimate"], marker, mfc="white", mec=color, zorder=3)
        axes.vlines(start["x"], start["ci_low"], start["ci_high"], color=color, lw=1)
    end_labels(axes, [(points, f"pass@{k}", color) for k, points in curves], size=8)


@styled
def general_capabilities(general: pd.DataFrame, parameters: int) -> Figure:
    """Result 4: accuracy on the six general benchmarks, and on average, after each recipe."""
    recipes = ["base", "rl", "sft", "sft_gold"]
    ours, theirs = _measured(general, parameters, recipes, "general_capabilities"), _published_general()
    title = "General capabilities: six non-math benchmarks after RL and after SFT"
    bands = [study(_scale(general)), CONTINUED, paper(), CONTINUED]
    figure, rows = page(title, GENERAL_NOTE, bands, columns=4, panel=(2.2, 1.45), recipes=recipes)
    for upper, lower, table in ((rows[0], rows[1], ours), (rows[2], rows[3], theirs)):
        average = merge(upper[0], lower.pop(0))
        for axes, (name, label) in zip([average, *upper[1:], *lower], (AVERAGE | BENCHMARKS).items(), strict=True):
            _curves(axes, table[table["benchmark"] == name], recipes)
            _finish(axes, label, ACCURACY, from_zero=False)
    tokens_axis(rows, [ours["x"], theirs["x"]])
    return figure


@styled
def parallel_averaging(pass_at_k: pd.DataFrame, general: pd.DataFrame, parameters: int) -> Figure:
    """Result 5: RL and SFT updates averaged, against either alone and one after the other."""
    recipes = ["base", "rl", "sft", "sft_rl", "parallel"]
    name = "parallel_averaging"
    ours, theirs = _measured(pass_at_k, parameters, recipes, name), _published()
    ours_general = _measured(general, parameters, recipes, name)
    theirs_general = _published_general()
    title = "Parallel averaging: RL and SFT updates averaged at every step"
    note = NOTE + "\nThe paper's average here is of five (without ARC-Challenge) and has no SFT → RL."
    bands = [study(_scale(pass_at_k), "easy problems"), paper("GSM8K")]
    figure, rows = page(title, note, bands, columns=4, panel=(2.2, 1.7), recipes=recipes)
    general_rows = [
        (ours_general, "average", "average of six"),
        (theirs_general, "average5", "average of five"),
    ]
    for row, table, (other, mean, label) in zip(rows, [ours, theirs], general_rows, strict=True):
        for axes, k in zip(row, KS, strict=False):
            _curves(axes, table[(table["role"] == "easy") & (table["k"] == k)], recipes)
            _finish(axes, f"pass@{k}", SOLVED)
        _curves(row[3], other[other["benchmark"] == mean], recipes)
        _finish(row[3], "general benchmarks", f"accuracy, {label} (%)", from_zero=False)
    tokens_axis(rows, [ours["x"], theirs["x"]])
    return figure


def _curves(axes: Axes, table: pd.DataFrame, recipes: Sequence[str]) -> None:
    for recipe in recipes:
        points = table[table["recipe"] == recipe]
        if len(points):
            curve(axes, points, LOOKS[recipe].color, LOOKS[recipe].marker)
    if table.empty:  # k is larger than the number of samples
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=GREY)


def _finish(axes: Axes, title: str, label: str, from_zero: bool = True) -> None:
    axes.set_title(title, loc="left")
    percent_axis(axes, label, top=axes.dataLim.y1 if from_zero else None)


def _scale(table: pd.DataFrame) -> str:
    return table["scale"].iloc[0]


def _measured(table: pd.DataFrame, parameters: int, recipes: list[str], figure: str) -> pd.DataFrame:
    """Rows of a results table with x, and role for pass@k; checked to hold all that the figure shows."""
    scale = _scale(table) if len(table) else "?"
    found = set(table["recipe"])
    if lacking := [recipe for recipe in recipes if recipe not in found]:
        raise UserError(
            f"figure {figure}: the results of scale '{scale}' have no recipe {', '.join(lacking)}; "
            f"found: {', '.join(sorted(found)) or 'none'}. "
            "Add them to `recipes` in params.yaml and run `dvc repro`."
        )
    if "k" in table.columns:
        table = table.assign(role=table["benchmark"].map(ROLES))
    return table[table["recipe"].isin(recipes)].assign(x=chinchilla(table["tokens"], parameters))


def _published() -> pd.DataFrame:
    return reference.pass_at_k().assign(x=lambda table: table["chinchilla"])


def _published_general() -> pd.DataFrame:
    return reference.general().assign(x=lambda table: table["chinchilla"])
