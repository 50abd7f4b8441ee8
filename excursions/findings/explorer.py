"""What the explorer and the samples page hold: every measure of every run as small series, and the kept completions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from excursions.findings import estimates, statistics
from excursions.params import Questions
from excursions.results import schemas
from excursions.results import tables as results

SOLVED, VALID, GENERAL = "problems solved, %", "solved with valid steps, %", "general accuracy, %"
NOT_DERIVED = "right, not derived, % of samples"
RUN = ["suite", "checkpoint", "recipe", "seed"]
SERIES = ["axis", "measure", "benchmark", "k", *RUN]
POINTS = 40  # of one log: neighbouring steps are averaged to about so many
EVERY_SEED = "all"

Checker = Callable[[str, str], list[tuple[str, bool]]]


def all_series(root: Path | str, tables: results.Tables) -> list[list]:
    """Each series as [axis, measure, benchmark, k, suite, checkpoint, recipe, seed, [[x, y(, low, high)], ...]].

    axis: "tokens" (one point per checkpoint, x its name; checkpoint is "") or "steps" (x a step of training). seed: a
    number, or "all" for the mean of all. Intervals are estimated at the last step only, for the mean of all seeds.
    """
    outcomes, general = (_named(table) for table in (tables.outcomes, tables.general))
    trained = outcomes.groupby(RUN)["step"].transform("nunique") > 1
    along = estimates.asked_throughout(outcomes[trained], RUN)
    last = estimates.last_step(outcomes)
    measured = [_estimated(estimates.general_table(general), GENERAL), _accuracies(general)]
    for measure, column in {SOLVED: "correct", VALID: "valid"}.items():
        if outcomes[column].notna().all():  # where steps cannot be checked, nothing is known to be valid
            counted = last.assign(correct=last[column].astype(int))
            measured += [
                _estimated(estimates.pass_at_k_table(counted), measure),
                _solved(counted, measure),
            ]
            if len(along):  # of a study of base alone nothing goes along steps
                measured.append(_solved(along.assign(correct=along[column].astype(int)), measure).assign(axis="steps"))
    if outcomes["valid"].notna().all():
        rows = pd.concat([along.assign(axis="steps"), last.assign(axis="tokens")])
        rows = rows.assign(
            y=100 * (rows["correct"] - rows["valid"]).astype(float) / rows["n"], measure=NOT_DERIVED, k=1
        )
        measured.append(
            rows.groupby([*RUN, "tokens", "measure", "axis", "step", "benchmark", "k"], as_index=False)["y"].mean()
        )
    runs = outcomes[RUN].drop_duplicates()  # a run that params.yaml no longer names may still have its log
    logs = [_named(results.load_training(root, tables.scale, suite)) for suite in tables.parameters]
    measured += [_log(log.merge(runs)) for log in logs]
    rows = pd.concat(measured, ignore_index=True).fillna({"axis": "tokens", "benchmark": "", "k": 0}).astype({"k": int})
    rows["x"] = rows["checkpoint"].astype(object).where(rows["axis"] == "tokens", rows["step"])
    mean = (
        rows[rows["seed"] != EVERY_SEED].groupby([*SERIES[:-1], "tokens", "x"], as_index=False, sort=False)["y"].mean()
    )
    rows = pd.concat([rows, mean.assign(seed=EVERY_SEED)], ignore_index=True)
    rows = rows.drop_duplicates([*SERIES, "x"])  # where there is an estimate it came first, and stays
    rows.loc[rows["axis"] == "tokens", "checkpoint"] = ""
    found = []
    for names, points in rows.sort_values(["tokens", "step"], kind="stable").groupby(SERIES, sort=False):
        numbers = points[["x", "y", "low", "high"]].to_numpy().tolist()
        found.append(
            [*map(_short, names), [[_short(value) for value in point if not pd.isna(value)] for point in numbers]]
        )
    return found


def _named(table: pd.DataFrame) -> pd.DataFrame:
    """With names as text: groups of categories would hold all combinations."""
    return table.astype({name: object for name in table.columns[table.dtypes == "category"]})


def _estimated(rows: pd.DataFrame, measure: str) -> pd.DataFrame:
    """A table of estimates, which are means over all seeds."""
    named = rows.rename(columns={"estimate": "y", "ci_low": "low", "ci_high": "high"})
    return named.assign(measure=measure, seed=EVERY_SEED)


def _solved(outcomes: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Mean pass@k over the questions of each run, step and benchmark."""
    found = []
    for k in results.KS:
        rows = outcomes[outcomes["n"] >= k]
        y = 100 * statistics.pass_at_k(rows["n"].to_numpy(), rows["correct"].to_numpy(), k)
        rows = rows.assign(y=y, k=k, measure=measure)
        found.append(rows.groupby([*RUN, "tokens", "measure", "step", "benchmark", "k"], as_index=False)["y"].mean())
    return pd.concat(found)


def _accuracies(general: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of each run on each general benchmark, and their mean."""
    share = 100 * general.groupby([*RUN, "tokens", "benchmark"])["correct"].mean().rename("y")
    average = share.groupby([*RUN, "tokens"]).mean().reset_index().assign(benchmark="average")
    return pd.concat([share.reset_index(), average]).assign(measure=GENERAL)


def _log(log: pd.DataFrame) -> pd.DataFrame:
    """Every measurement of the training logs along steps, thinned; at the tokens axis, its mean over the last steps."""
    names = [
        name for name in log.columns if name not in schemas.IDENTITY and name != "step" and log[name].notna().any()
    ]
    width = (log.groupby(RUN)["step"].transform("max") / POINTS).clip(lower=1)
    step = (((log["step"] - 1) // width + 1) * width).round().astype(int)
    long = log.assign(step=step).melt([*RUN, "tokens", "step"], names, "measure", "y").dropna(subset="y")
    along = long.groupby([*RUN, "tokens", "measure", "step"], as_index=False)["y"].mean()
    return pd.concat([along.assign(axis="steps"), along.drop_duplicates([*RUN, "measure"], keep="last")])


def _short(value: object) -> object:
    """A value for JSON; a number to five significant digits, which is what a reader sees."""
    value = value.item() if hasattr(value, "item") else value
    return float(f"{value:.5g}") if isinstance(value, float) else value


def kept_samples(root: Path | str, scale: str, cells: pd.DataFrame, asked: Questions, checked: Checker | None) -> dict:
    """The kept completions before and after training, each with its steps checked, of the first seed of each cell.

    cells: columns suite, checkpoint, recipe, seed. asked: how the prompts are made.
    checked: (question, completion) -> the completion's steps and whether each holds; None where that is not known.
    Returns {"questions": [[id, benchmark, text, gold], ...], "completions": [[question, text or [[step, holds], ...],
    correct, valid, stop_reason], ...], "cells": [[suite, checkpoint, recipe, seed, step, [completion, ...]], ...]},
    where question and completion are places in those lists. Equal completions are held once.
    """
    before, after = (asked.separator + asked.prompt).split("{question}")
    questions: dict[str, list] = {}
    completions: dict[tuple, int] = {}
    found = []
    for suite, checkpoint, recipe, seed in cells.drop_duplicates(RUN[:-1])[RUN].itertuples(index=False):
        by_step: dict[int, list[int]] = {}
        for row in results.load_samples(results.run_folder(root, scale, suite, checkpoint, recipe, seed)):
            text = (asked.separator + row["prompt"]).split(before)[-1].removesuffix(after)  # without worked examples
            questions.setdefault(row["question_id"], [row["question_id"], row["benchmark"], text, row["gold"]])
            key = tuple(row[name] for name in ("question_id", "completion", "correct", "valid", "stop_reason"))
            by_step.setdefault(row["step"], []).append(completions.setdefault(key, len(completions)))
        found += [[suite, checkpoint, recipe, int(seed), step, kept] for step, kept in sorted(by_step.items())]
    place = {name: number for number, name in enumerate(questions)}
    told = [
        [place[name], _steps(text, checked(questions[name][2], text)) if checked else text, correct, valid, why]
        for name, text, correct, valid, why in completions
    ]
    return {"questions": list(questions.values()), "completions": told, "cells": found}


def _steps(text: str, checked: list[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """The steps of a completion with what stands behind the answer, which nobody checks and a reader should see."""
    last, holds = checked[-1] if checked else ("", False)
    return [*checked[:-1], (last + text.rpartition(last)[2], holds)] if last.startswith("####") else checked
