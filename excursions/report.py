"""What the notebooks show besides figures: the tables behind them as HTML, every number with its 95% interval.

Nothing here is estimated by hand: tables come from `results`, intervals from `statistics`, the paper's numbers from
`reference`.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from IPython.display import HTML
from matplotlib.figure import Figure

from excursions import params, plotting, results, statistics
from excursions.claims import Claim, claims_table
from excursions.params import UserError

PIPELINES = {"sft_rl": ("base", "sft", "sft_rl"), "rl": ("base", "rl")}


def show(figure: Figure, root: Path | str, scale: str, name: str) -> HTML:
    """Saves a figure as figures/<scale>/<name>.svg and .png, and shows the SVG."""
    path = Path(root) / "figures" / scale / name
    plotting.save(figure, path)
    svg = path.with_name(f"{name}.svg").read_text(encoding="utf-8")
    image = svg[svg.index("<svg") :]
    width = round(figure.get_size_inches()[0] * 96)
    return HTML(f'<div class="figure" role="img" aria-label="{name}" style="max-width:{width}px">{image}</div>')


def dynamics(outcomes: pd.DataFrame, checkpoint: str, parameters: int) -> pd.DataFrame:
    """pass@1 and pass@32 on the easy benchmark along training from one checkpoint, for `figures.sharpening_or_expansion`.

    Evaluations between the first and the last step may have fewer questions; here all points are the questions that
    every one of them has, so that a change along the curve is not a change of questions. Columns: scale, checkpoint,
    chinchilla, pipeline (rl: base then RL; sft_rl: base, SFT, RL), stage (base, sft, rl), rl_step, zero_shot (the
    base model 0-shot, where RL starts), k, n_seeds, n_questions, estimate, ci_low, ci_high (percent).
    Raises UserError when the checkpoint or a recipe is missing.
    """
    rows = outcomes[outcomes["benchmark"].map(results.ROLES) == "easy"]
    params.one_of(checkpoint, list(rows["checkpoint"].unique()), "checkpoint in the results")
    rows = rows[rows["checkpoint"] == checkpoint]
    if lacking := [name for name in ("base", "rl", "sft", "sft_rl") if name not in set(rows["recipe"])]:
        raise UserError(
            f"checkpoint {checkpoint} has no results of {', '.join(lacking)}. Add them to `recipes` in params.yaml and "
            "run `dvc repro`, or choose another checkpoint."
        )
    ends = results.last_step(rows)
    ends = ends[ends["recipe"].isin(["base", "sft"])]  # of these only the result
    rows = pd.concat([ends, rows[(rows["recipe"] == "rl") | ((rows["recipe"] == "sft_rl") & (rows["step"] > 0))]])
    names = (rows["scale"].iloc[0], rows["benchmark"].iloc[0])
    multiple = results.chinchilla(rows["tokens"].iloc[0], parameters)
    found = []
    for k in (k for k in (1, 32) if k <= rows["n"].min()):
        values = results.per_question(rows, k, ["recipe", "step", "seed"])
        for (recipe, step), value_sq in values.groupby(level=["recipe", "step"]):
            measured = statistics.mean_interval(value_sq.to_numpy(), *names)
            for pipeline, stages in PIPELINES.items():
                if recipe in stages:
                    point = {
                        "scale": names[0],
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
                    found.append(point | _percent(measured))
    return pd.DataFrame(found)


def gains(outcomes: pd.DataFrame, recipe: str, other: str = "base") -> pd.DataFrame:
    """pass@k of one recipe minus another at each checkpoint that has both, paired on the questions.

    Columns: checkpoint, tokens, benchmark, k, n_seeds, estimate, ci_low, ci_high (percentage points).
    """
    rows = results.last_step(outcomes)
    rows = rows[rows["recipe"].isin([recipe, other])]
    found = []
    for (tokens, checkpoint, benchmark), group in rows.groupby(["tokens", "checkpoint", "benchmark"]):
        if group["recipe"].nunique() < 2:
            continue
        for k in (k for k in results.KS if k <= group["n"].min()):
            values = results.per_question(group, k, ["recipe", "seed"])
            a, b = values.loc[recipe], values.loc[other]
            same = list(a.index) == list(b.index)
            names = (group["scale"].iloc[0], benchmark)
            measured = statistics.difference_interval(a.to_numpy(), b.to_numpy(), *names, same_seeds=same)
            about = {"checkpoint": checkpoint, "tokens": tokens, "benchmark": benchmark, "k": k, "n_seeds": len(a)}
            found.append(about | _percent(measured))
    return pd.DataFrame(found)


def _percent(found: statistics.Interval) -> dict[str, float]:
    return {"estimate": 100 * found.estimate, "ci_low": 100 * found.low, "ci_high": 100 * found.high}
