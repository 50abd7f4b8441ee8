"""What the notebooks show besides figures: the tables behind them, every number with its interval.

Nothing here is estimated by hand: tables come from `results`, intervals from `statistics`, the paper's
numbers from `reference`.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from IPython.display import HTML
from matplotlib.figure import Figure

from excursions import params
from excursions.findings import estimates, plotting, statistics
from excursions.findings.claims import Claim, claims_table
from excursions.params import UserError
from excursions.results import tables as results

NAMES = {
    "recipe": lambda recipe: plotting.LOOKS[recipe].label,
    "k": lambda k: f"pass@{k}",
    "chinchilla": lambda multiple: f"{multiple:.2f}×",
}
PIPELINES = {"sft_rl": ("base", "sft", "sft_rl"), "rl": ("base", "rl")}


def pass_at_k(tables: results.Tables, recipes: Sequence[str] = params.RECIPES) -> pd.DataFrame:
    """`estimates.pass_at_k_table` of the main suite, with the column chinchilla (multiples of optimal)."""
    return with_multiples(estimates.pass_at_k_table(_main(tables.outcomes, recipes)), tables.parameters["main"])


def general(tables: results.Tables, recipes: Sequence[str] = params.RECIPES) -> pd.DataFrame:
    """`estimates.general_table` of the main suite, with the column chinchilla."""
    return with_multiples(estimates.general_table(_main(tables.general, recipes)), tables.parameters["main"])


def with_multiples(rows: pd.DataFrame, parameters: int) -> pd.DataFrame:
    """A table with the column chinchilla: its tokens in multiples of optimal for so many parameters."""
    return rows.assign(chinchilla=estimates.chinchilla(rows["tokens"], parameters))


def show(figure: Figure, root: Path | str, scale: str, name: str) -> HTML:
    """Saves a figure as figures/<scale>/<name>.svg and .png, and shows the SVG."""
    path = Path(root) / "figures" / scale / name
    plotting.save(figure, path)
    svg = path.with_name(f"{name}.svg").read_text(encoding="utf-8")
    image = svg[svg.index("<svg") :]
    width, title = round(figure.get_size_inches()[0] * 96), html.escape(name.replace("_", " "))
    style = f"max-width: {width}px"
    return HTML(f'<div class="figure" role="img" aria-label="{title}" style="{style}">{image}</div>')


def table(rows: pd.DataFrame, index: list[str], columns: list[str], caption: str) -> HTML:
    """A tidy table of estimates as HTML, each cell "estimate [low, high]", in the order of the rows.

    rows: columns estimate, ci_low, ci_high (percent or points; estimate alone will do), and those of index
    and columns.
    """
    shown = rows.assign(shown=[_interval(row) for row in rows.to_dict("records")])
    for column in {*index, *columns} & {"recipe", "k", "chinchilla"}:
        shown[column] = shown[column].map(NAMES[column])
    wide = shown.set_index([*index, *columns])["shown"].unstack(columns, sort=False, fill_value="")
    wide.columns.names = [None] * len(columns)
    return frame(wide, caption)


def frame(rows: pd.DataFrame, caption: str) -> HTML:
    """Any table as HTML."""
    made = rows.to_html(border=0, float_format=lambda value: f"{value:.3g}", na_rep="", justify="left")
    return HTML(made.replace("<thead>", f"<caption>{html.escape(caption)}</caption><thead>", 1))


def verdicts(claims: list[Claim]) -> HTML:
    """The claims, what was measured here, and what the same check gives on the published numbers."""
    rows = claims_table(claims)
    rows.insert(2, "seeds", [claim.n_seeds for claim in claims])
    rows["measured on"] = [claim.note for claim in claims]
    return frame(rows, "Effects in percentage points with 95% intervals; the rule of each verdict is in CLAIMS.md")


def dynamics(tables: results.Tables, checkpoint: str) -> pd.DataFrame:
    """pass@1 and pass@32 on easy problems along training, for `figures.sharpening_or_expansion`.

    Evaluations between the first and the last step may have fewer questions; here all points are the
    questions that every one of them has, so that a change along the curve is not a change of questions.
    Columns: scale, checkpoint, chinchilla, pipeline (rl: base then RL; sft_rl: base, SFT, RL), stage (base,
    sft, rl), rl_step, zero_shot (the base model 0-shot, where RL starts), k, n_seeds, n_questions,
    estimate, ci_low, ci_high (percent). Raises UserError when the checkpoint or a recipe is missing.
    """
    rows = _main(tables.outcomes, params.RECIPES)
    rows = rows[rows["benchmark"].map(results.ROLES) == "easy"]
    params.one_of(checkpoint, list(rows["checkpoint"].unique()), "checkpoint in the results")
    rows = rows[rows["checkpoint"] == checkpoint]
    if lacking := [name for name in ("base", "rl", "sft", "sft_rl") if name not in set(rows["recipe"])]:
        raise UserError(
            f"checkpoint {checkpoint} has no results of {', '.join(lacking)}. "
            "Add them to `recipes` in params.yaml and run `dvc repro`, or choose another checkpoint."
        )
    ends = estimates.last_step(rows)
    ends = ends[ends["recipe"].isin(["base", "sft"])]  # of these only the result
    rows = pd.concat([ends, rows[(rows["recipe"] == "rl") | ((rows["recipe"] == "sft_rl") & (rows["step"] > 0))]])
    multiple = estimates.chinchilla(rows["tokens"].iloc[0], tables.parameters["main"])
    found = []
    for k in (k for k in (1, 32) if k <= rows["n"].min()):
        values = estimates.per_question(rows, k, ["recipe", "step", "seed"])
        for (recipe, step), value_sq in values.groupby(level=["recipe", "step"]):
            measured = statistics.mean_interval(value_sq.to_numpy())
            for pipeline, stages in PIPELINES.items():
                if recipe in stages:
                    point = {
                        "scale": rows["scale"].iloc[0],
                        "checkpoint": checkpoint,
                        "chinchilla": multiple,
                        "pipeline": pipeline,
                        "stage": recipe if recipe in ("base", "sft") else "rl",
                        "rl_step": 0 if recipe in ("base", "sft") else step,
                        "zero_shot": recipe == "rl" and step == 0,
                        "k": k,
                        "n_seeds": value_sq.shape[0],
                        "n_questions": value_sq.shape[1],
                    }
                    found.append(point | estimates.percent(measured))
    return pd.DataFrame(found)


def gains(outcomes: pd.DataFrame, recipe: str, other: str = "base") -> pd.DataFrame:
    """pass@k of one recipe minus another at each checkpoint that has both, paired on the questions.

    Columns: suite, checkpoint, tokens, benchmark, k, n_seeds, estimate, ci_low, ci_high (percentage points).
    """
    rows = estimates.last_step(outcomes)
    rows = rows[rows["recipe"].isin([recipe, other])]
    found = []
    keys = ["suite", "tokens", "checkpoint", "benchmark"]
    for names, group in rows.groupby(keys):
        if group["recipe"].nunique() < 2:
            continue
        for k in (k for k in results.KS if k <= group["n"].min()):
            values = estimates.per_question(group, k, ["recipe", "seed"])
            a, b = values.loc[recipe], values.loc[other]
            same = list(a.index) == list(b.index)
            measured = statistics.difference_interval(a.to_numpy(), b.to_numpy(), same_seeds=same)
            found.append(
                dict(zip(keys, names, strict=True)) | {"k": k, "n_seeds": len(a)} | estimates.percent(measured)
            )
    return pd.DataFrame(found)


def _main(rows: pd.DataFrame, recipes: Sequence[str]) -> pd.DataFrame:
    return rows[(rows["suite"] == "main") & rows["recipe"].isin(recipes)]


def _interval(row: dict) -> str:
    if pd.isna(row.get("ci_low")):
        return f"{row['estimate']:.1f}"
    return f"{row['estimate']:.1f} [{row['ci_low']:.1f}, {row['ci_high']:.1f}]"
