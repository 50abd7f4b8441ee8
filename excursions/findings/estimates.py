"""Outcomes -> tidy tables of pass@k and accuracies with their intervals. Estimates are in percent (0 to 100)."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from excursions.findings import statistics
from excursions.params import UserError
from excursions.results.tables import KS, in_order


def chinchilla(tokens: pd.Series | float, parameters: int) -> pd.Series | float:
    """Tokens in multiples of Chinchilla-optimal, 20 tokens per parameter (Hoffmann et al. 2022)."""
    return tokens / (20 * parameters)


ZERO_SHOT = "base_0shot"  # the checkpoint as it is, asked without examples: step 0 of what is trained from it
UNTRAINED = ("base", ZERO_SHOT)
LATE = 0.75  # of the steps of a run: what comes after is its last quarter


def zero_shot(outcomes: pd.DataFrame) -> pd.DataFrame:
    """The rows of step 0 of recipes that are trained from the checkpoint itself, as recipe `base_0shot`."""
    return outcomes[outcomes["step"] == 0].assign(recipe=ZERO_SHOT)


def asked_throughout(rows: pd.DataFrame, run: Sequence[str] = (), step: str = "step") -> pd.DataFrame:
    """Rows of the questions that were asked at every step of a run (in between fewer are), so that a change along a
    curve is not a change of questions. run: the columns that tell runs apart; without them the rows are of one."""
    asked = rows.groupby([*run, "benchmark", "question_id"], observed=True)[step].transform("nunique")
    most = asked.groupby([rows[name] for name in run], observed=True).transform("max") if run else asked.max()
    return rows[asked == most]


def change_along(outcomes: pd.DataFrame, value: str) -> pd.DataFrame:
    """A column at the last step of training minus the same before it: one row per seed, one column per question."""
    after, before = last_step(outcomes[outcomes["step"] > 0]), outcomes[outcomes["step"] == 0]
    tables = [rows.pivot(index="seed", columns="question_id", values=value) for rows in (after, before)]
    return (tables[0] - tables[1]).dropna(how="all").dropna(axis=1)


def last_step(outcomes: pd.DataFrame) -> pd.DataFrame:
    """The rows of each run's last step: the recipe's result."""
    run = ["scale", "suite", "checkpoint", "recipe", "seed"]
    return outcomes[outcomes["step"] == outcomes.groupby(run)["step"].transform("max")]


def per_question(outcomes: pd.DataFrame, k: int, rows: list[str]) -> pd.DataFrame:
    """pass@k (0 to 1): one row per value of the columns `rows`, one column per question that all rows
    answered.

    Questions are in the order of their ids, so that rows can be compared in pairs.
    """
    value = statistics.pass_at_k(outcomes["n"].to_numpy(), outcomes["correct"].to_numpy(), k)
    table = outcomes.assign(value=value).pivot(index=rows, columns="question_id", values="value")
    return _in_common(table, f"{outcomes['scale'].iloc[0]}, benchmark {outcomes['benchmark'].iloc[0]}")


def pass_at_k_table(outcomes: pd.DataFrame, ks: tuple[int, ...] = KS, by_step: bool = False) -> pd.DataFrame:
    """Tidy pass@k with 95% intervals over questions and, where there are several, seeds.

    Columns: scale, suite, checkpoint, tokens, recipe, [step,] benchmark, k, n_seeds, n_questions, estimate,
    ci_low, ci_high (percent). One row per checkpoint, recipe, benchmark and k at the last step; with by_step,
    also per step. A k larger than the number of samples has no row. Sorted by suite, tokens, recipe (in the
    order of RECIPES), step, benchmark, k.
    """
    keys = ["scale", "suite", "checkpoint", "tokens", "recipe", *(["step"] if by_step else []), "benchmark"]
    rows = []
    for names, group in (outcomes if by_step else last_step(outcomes)).groupby(keys, sort=False):
        for k in (k for k in ks if k <= group["n"].min()):
            value_sq = per_question(group, k, ["seed"]).to_numpy()
            counts = {"k": k, "n_seeds": value_sq.shape[0], "n_questions": value_sq.shape[1]}
            rows.append(dict(zip(keys, names, strict=True)) | counts | percent(statistics.mean_interval(value_sq)))
    columns = [*keys, "k", "n_seeds", "n_questions", "estimate", "ci_low", "ci_high"]
    return in_order(pd.DataFrame(rows, columns=columns))


def general_table(general: pd.DataFrame) -> pd.DataFrame:
    """Tidy accuracy on the general benchmarks, and their unweighted mean as benchmark `average`.

    general: one row per run and item. Columns: scale, suite, checkpoint, tokens, recipe, benchmark, n_seeds,
    n_items, estimate, ci_low, ci_high (percent). Intervals are over items and, where there are several, seeds.
    """
    keys = ["scale", "suite", "checkpoint", "tokens", "recipe"]
    rows = []
    for names, group in general.groupby(keys, sort=False):
        table = per_item(group, ["seed"])
        strata = table.columns.get_level_values("benchmark")
        for benchmark in [*strata.unique(), "average"]:
            chosen = (strata == benchmark) | (benchmark == "average")
            found = statistics.mean_interval(table.to_numpy()[:, chosen], strata[chosen])
            counts = {"benchmark": benchmark, "n_seeds": len(table), "n_items": chosen.sum()}
            rows.append(dict(zip(keys, names, strict=True)) | counts | percent(found))
    columns = [*keys, "benchmark", "n_seeds", "n_items", "estimate", "ci_low", "ci_high"]
    return in_order(pd.DataFrame(rows, columns=columns))


def per_item(general: pd.DataFrame, rows: list[str]) -> pd.DataFrame:
    """Correct (0 or 1): one row per value of the columns `rows`, one column (benchmark, item_id) per item that all
    answered.

    Raises UserError when they have no item in common.
    """
    table = general.astype({"correct": float}).pivot(index=rows, columns=["benchmark", "item_id"], values="correct")
    return _in_common(table, f"{general['scale'].iloc[0]}, general benchmarks")


def percent(found: statistics.Interval) -> dict[str, float]:
    """An interval as the columns estimate, ci_low, ci_high in percent."""
    return {"estimate": 100 * found.estimate, "ci_low": 100 * found.low, "ci_high": 100 * found.high}


def _in_common(table: pd.DataFrame, about: str) -> pd.DataFrame:
    """The columns without a gap, in the order of their names, so that rows can be compared in pairs."""
    common = table.dropna(axis=1).sort_index(axis=0).sort_index(axis=1)
    if common.shape[1] == 0:
        raise UserError(
            f"results of {about}: the runs compared have no question in common, so they come from different "
            f"test sets. Delete the folders of the older ones and compute them again with `excursions train`."
        )
    return common
