"""Outcomes -> tidy tables of pass@k and accuracies with their intervals. Estimates are in percent (0 to 100)."""

from __future__ import annotations

import pandas as pd

from excursions.findings import statistics
from excursions.params import UserError
from excursions.results.tables import KS, in_order


def chinchilla(tokens: pd.Series | float, parameters: int) -> pd.Series | float:
    """Tokens in multiples of Chinchilla-optimal, 20 tokens per parameter (Hoffmann et al. 2022)."""
    return tokens / (20 * parameters)


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
    common = table.dropna(axis=1).sort_index(axis=0).sort_index(axis=1)
    if common.shape[1] == 0:
        about = f"{outcomes['scale'].iloc[0]}, benchmark {outcomes['benchmark'].iloc[0]}"
        raise UserError(
            f"results of {about}: the runs compared have no question in common, so they come from different "
            f"test sets. Delete the folders of the older ones and run `dvc repro`."
        )
    return common


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
        about = dict(zip(keys, names, strict=True))
        for k in (k for k in ks if k <= group["n"].min()):
            value_sq = per_question(group, k, ["seed"]).to_numpy()
            found = statistics.mean_interval(value_sq, about["scale"], about["benchmark"])
            counts = {"k": k, "n_seeds": value_sq.shape[0], "n_questions": value_sq.shape[1]}
            rows.append(about | counts | percent(found))
    columns = [*keys, "k", "n_seeds", "n_questions", "estimate", "ci_low", "ci_high"]
    return in_order(pd.DataFrame(rows, columns=columns))


def general_table(general: pd.DataFrame) -> pd.DataFrame:
    """Tidy accuracy on the general benchmarks, and their unweighted mean as benchmark `average`.

    Columns: scale, suite, checkpoint, tokens, recipe, benchmark, n_seeds, estimate, ci_low, ci_high
    (percent). Intervals are over items and, where there are several, seeds.
    """
    keys = ["scale", "suite", "checkpoint", "tokens", "recipe"]
    rows = []
    for names, group in general.groupby(keys, sort=False):
        about = dict(zip(keys, names, strict=True))
        n_b, correct_sb = counts_by_seed(group)
        for chosen in [*([name] for name in n_b.index), list(n_b.index)]:
            benchmark = chosen[0] if len(chosen) == 1 else "average"
            found = statistics.accuracy_interval(n_b[chosen], correct_sb[chosen], *names, benchmark)
            rows.append(about | {"benchmark": benchmark, "n_seeds": len(correct_sb)} | percent(found))
    columns = [*keys, "benchmark", "n_seeds", "estimate", "ci_low", "ci_high"]
    return in_order(pd.DataFrame(rows, columns=columns))


def counts_by_seed(general: pd.DataFrame) -> tuple[pd.Series, pd.DataFrame]:
    """Of one checkpoint and recipe: items per benchmark, and correct ones as a table seed x benchmark."""
    answers = general.groupby(["seed", "benchmark"], observed=True)["correct"]
    table = answers.sum().unstack("benchmark").dropna(axis=1)
    return answers.size().groupby("benchmark", observed=True).max()[table.columns], table


def percent(found: statistics.Interval) -> dict[str, float]:
    return {"estimate": 100 * found.estimate, "ci_low": 100 * found.low, "ci_high": 100 * found.high}
