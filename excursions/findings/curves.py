"""What the figures draw: tidy tables of points, each with its interval and, where there are several, its single seeds.

Points are in percent, changes in percentage points. Every table has `checkpoint`, `tokens` and `chinchilla` (tokens in
multiples of Chinchilla-optimal); rows with a `seed` are single training runs, rows without are their mean. What was not
run is simply not there: a table may be empty, and its columns are there all the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from excursions import recipes as known
from excursions.findings import estimates, statistics
from excursions.findings.estimates import LATE, ZERO_SHOT, asked_throughout
from excursions.params import RECIPES, one_of
from excursions.results.tables import KS, ROLES, Tables, load_runs

ORDER = ("base", ZERO_SHOT, *RECIPES[1:])
DIRECT = ("rl", "sft", "sft_gold", "parallel")  # trained from the checkpoint itself
WHERE = ["scale", "suite", "checkpoint", "tokens"]
INTERVAL = ["estimate", "ci_low", "ci_high"]


def pass_at_k(tables: Tables, recipes: Sequence[str] = ORDER, suite: str = "main") -> pd.DataFrame:
    """pass@k after each recipe, and of the checkpoint 0-shot as recipe `base_0shot`.

    Columns: scale, suite, checkpoint, tokens, chinchilla, recipe, benchmark, role, k, seed, n_seeds, n_questions,
    estimate, ci_low, ci_high.
    """
    rows = tables.outcomes
    rows = rows[rows["suite"] == one_of(suite, list(tables.parameters), "suite with results")]
    start = estimates.zero_shot(rows[rows["recipe"].isin(DIRECT)])
    start = start.drop_duplicates(["checkpoint", "benchmark", "question_id"]).assign(seed=0)
    chosen = pd.concat([estimates.last_step(rows).astype({"recipe": str}), start])
    return _finished(_with_seeds(chosen[chosen["recipe"].isin(recipes)]), tables)


def _with_seeds(rows: pd.DataFrame, more: Sequence[str] = ()) -> pd.DataFrame:
    """pass@k of every model in these rows, and of its single seeds where it has several."""
    keys = [*WHERE, "recipe", *more, "benchmark"]
    mean = estimates.pass_at_k_table(rows, by_step="step" in more)
    several = rows[rows.groupby(keys, observed=True)["seed"].transform("nunique") > 1]
    parts = [mean.assign(seed=np.nan)]
    for k in KS if len(several) else ():
        enough = several[several["n"] >= k]
        value = 100 * statistics.pass_at_k(enough["n"].to_numpy(), enough["correct"].to_numpy(), k)
        by_seed = enough.assign(estimate=value).groupby([*keys, "seed"], observed=True)["estimate"].mean()
        parts.append(by_seed.reset_index().assign(k=k, n_seeds=1))
    return pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)


def _finished(points: pd.DataFrame, tables: Tables) -> pd.DataFrame:
    """Points with their multiples of Chinchilla-optimal and roles, in the order a reader expects."""
    per_token = points["suite"].astype(str).map(tables.parameters).astype(float) * 20
    points = points.assign(chinchilla=points["tokens"].astype(float) / per_token)
    if "benchmark" in points.columns:
        points = points.assign(role=points["benchmark"].astype(str).replace(ROLES))
    rank = points.assign(recipe=points["recipe"].astype(str).map({name: n for n, name in enumerate(ORDER)}))
    keys = [key for key in ("tokens", "recipe", "step", "benchmark", "k") if key in points.columns]
    return points.loc[rank.sort_values(keys, kind="stable").index].reset_index(drop=True)


def difference(a: pd.DataFrame, b: pd.DataFrame, strata: np.ndarray | None = None) -> dict[str, float]:
    """estimate, ci_low, ci_high of a - b in points; rows are seeds, columns the same questions or items."""
    same = list(a.index) == list(b.index)
    return estimates.percent(statistics.difference_interval(a.to_numpy(), b.to_numpy(), strata, same_seeds=same))


def gains(tables: Tables, pairs: Sequence[tuple[str, str]], suite: str = "main") -> pd.DataFrame:
    """pass@k of one recipe minus another at each checkpoint that has both, paired on the questions.

    Columns: scale, suite, checkpoint, tokens, chinchilla, recipe, other, benchmark, role, k, n_seeds, estimate,
    ci_low, ci_high (points).
    """
    rows = estimates.last_step(tables.outcomes[tables.outcomes["suite"] == suite])
    found = []
    for names, group in rows.groupby([*WHERE, "benchmark"], observed=True):
        there = set(group["recipe"].unique())
        wanted = [pair for pair in pairs if {*pair} <= there]
        for k in (k for k in KS if wanted and k <= group["n"].min()):
            arms = group[group["recipe"].isin([name for pair in wanted for name in pair])]
            values = estimates.per_question(arms.astype({"recipe": str}), k, ["recipe", "seed"])
            for recipe, other in wanted:
                a, b = values.loc[recipe], values.loc[other]
                about = dict(zip([*WHERE, "benchmark"], names, strict=True)) | {"recipe": recipe, "other": other}
                fewest = len(a) if other == "base" else min(len(a), len(b))  # base is one model
                found.append(about | {"k": k, "n_seeds": fewest} | difference(a, b))
    columns = [*WHERE, "benchmark", "recipe", "other", "k", "n_seeds", *INTERVAL]
    return _finished(pd.DataFrame(found, columns=columns), tables)


def general(tables: Tables, recipes: Sequence[str] = RECIPES, suite: str = "main") -> pd.DataFrame:
    """Accuracy on each general benchmark and their mean (`average`), as `estimates.general_table`; with chinchilla."""
    rows = tables.general
    rows = rows[(rows["suite"] == suite) & rows["recipe"].isin(recipes)]
    return _finished(estimates.general_table(rows), tables)


def general_gains(tables: Tables, recipes: Sequence[str] = RECIPES[1:], suite: str = "main") -> pd.DataFrame:
    """Accuracy minus that of base, paired on the items. Columns: as `gains`, benchmark with `average`, without k."""
    rows = tables.general
    rows = rows[(rows["suite"] == suite) & rows["recipe"].isin(["base", *recipes])]
    found = []
    for names, group in rows.groupby(WHERE, observed=True):
        values = estimates.per_item(group.astype({"recipe": str}), ["recipe", "seed"])
        strata = values.columns.get_level_values("benchmark").astype(str).to_numpy()
        arms = values.index.get_level_values("recipe").unique()
        for recipe in (recipe for recipe in recipes if {"base", recipe} <= {*arms}):
            for benchmark in [*dict.fromkeys(strata), "average"]:
                chosen = (strata == benchmark) | (benchmark == "average")
                a, b = values.loc[recipe].loc[:, chosen], values.loc["base"].loc[:, chosen]
                about = dict(zip(WHERE, names, strict=True)) | {"recipe": recipe, "other": "base"}
                found.append(about | {"benchmark": benchmark, "n_seeds": len(a)} | difference(a, b, strata[chosen]))
    columns = [*WHERE, "recipe", "other", "benchmark", "n_seeds", *INTERVAL]
    return _finished(pd.DataFrame(found, columns=columns), tables)


# ---- along training


PIPELINES = {"rl": ("base", "rl"), "sft_rl": ("base", "sft", "sft_rl")}


def dynamics(tables: Tables, role: str = "easy", suite: str = "main") -> pd.DataFrame:
    """pass@1 and pass@32 along training from every checkpoint, with SFT before RL and without it.

    All points of a checkpoint are of the same questions (`asked_throughout`).
    Columns: scale, suite, checkpoint, tokens, chinchilla, pipeline (rl: base then RL; sft_rl: base, SFT, RL), stage
    (base, base_0shot, sft, rl), rl_step, recipe, k, seed, n_seeds, n_questions, estimate, ci_low, ci_high.
    """
    found = []
    for pipeline, stages in PIPELINES.items():
        rows = _along(tables, stages, role, suite)
        for _, group in rows.groupby("checkpoint", observed=True, sort=False):
            if group["step"].max() <= 0:  # without RL there is no pipeline
                continue
            points = _with_seeds(asked_throughout(group, step="stage_step").assign(recipe=pipeline), ["step"])
            found.append(points[points["k"] != 8].assign(pipeline=pipeline))
    columns = [*WHERE, "recipe", "benchmark", "step", "k", "seed", "n_seeds", "n_questions", *INTERVAL, "pipeline"]
    points = _finished(pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=columns), tables)
    stage = points["step"].map(lambda step: {-2: "base", -1: "sft", 0: ZERO_SHOT}.get(step, "rl"))
    points = points.assign(stage=stage, rl_step=points["step"].clip(lower=0))
    return points.drop(columns="step")


def _along(tables: Tables, stages: tuple[str, ...], role: str, suite: str) -> pd.DataFrame:
    """Rows of a pipeline: base (as step -2), SFT (-1), then every step of its RL; step 0 of RL after SFT is SFT."""
    rows = _asked(tables, role, suite)
    *before, last = stages
    parts = [rows[(rows["recipe"] == last) & ((rows["step"] > 0) | (last == "rl"))]]
    for number, recipe in zip((-2, -1), before, strict=False):
        parts.append(estimates.last_step(rows[rows["recipe"] == recipe]).assign(step=number))
    return pd.concat(parts).assign(stage_step=lambda table: table["step"])


def logs(tables: Tables, suite: str = "main", points: int = 40) -> pd.DataFrame:
    """Reward and entropy of RL along training, means of about a fortieth of the run; percent and nats.

    Columns: scale, suite, checkpoint, tokens, chinchilla, recipe, seed (none: the mean), rl_step, reward, entropy.
    """
    log = tables.training
    log = log[(log["suite"] == suite) & log["recipe"].isin(PIPELINES)] if len(log) else log
    if log.empty:
        return pd.DataFrame(columns=[*WHERE, "chinchilla", "recipe", "seed", "rl_step", "reward", "entropy"])
    width = log.groupby("recipe", observed=True)["step"].transform("max") // points + 1
    log = log.assign(rl_step=(log["step"] - 1) // width * width + (width + 1) / 2, reward=100 * log["reward"])
    keys = [*WHERE, "recipe", "rl_step"]
    single = log.groupby([*keys, "seed"], observed=True)[["reward", "entropy"]].mean().reset_index()
    mean = single.groupby(keys, observed=True)[["reward", "entropy"]].mean().reset_index()
    return _finished(pd.concat([mean, single], ignore_index=True), tables)


STARTS = {"few-shot": "base", "0-shot": "rl", "SFT": "sft_rl"}  # what a change is measured from -> whose rows


def phases(tables: Tables, role: str = "easy", suite: str = "main") -> pd.DataFrame:
    """Change of pass@1, pass@32 and entropy along RL, at each checkpoint and evaluated step.

    Columns: scale, suite, checkpoint, tokens, chinchilla, recipe (rl, sft_rl), start (few-shot or 0-shot: the base
    checkpoint so asked; SFT: the model that RL after SFT starts from), rl_step, measure (pass@1, pass@32, entropy),
    n_seeds, estimate, ci_low, ci_high (points; nats without interval).
    """
    one_of(suite, list(tables.parameters), "suite with results")
    rows = _asked(tables, role, suite)
    log, found = logs(tables, suite), []
    for (start, first), recipe in zip(STARTS.items(), ("rl", "rl", "sft_rl"), strict=True):
        for names, group in rows[rows["recipe"].isin([recipe, first])].groupby(WHERE, observed=True):
            about = dict(zip(WHERE, names, strict=True)) | {"recipe": recipe, "start": start}
            before = group[(group["recipe"] == first) & (group["step"] == 0)]
            steps = sorted(set(group.loc[(group["recipe"] == recipe) & (group["step"] > 0), "step"]))
            own = log[(log["checkpoint"] == names[2]) & (log["recipe"] == recipe) & log["seed"].isna()]
            for step in steps if len(before) else ():
                after = group[(group["recipe"] == recipe) & (group["step"] == step)]
                both = pd.concat([before.assign(when=0), after.assign(when=1)])
                for k in (k for k in (1, 32) if k <= both["n"].min()):
                    values = estimates.per_question(both, k, ["when", "seed"])
                    of_step = about | {"rl_step": step, "measure": f"pass@{k}", "n_seeds": len(values.loc[1])}
                    found.append(of_step | difference(values.loc[1], values.loc[0]))
                # of the few-shot base no log knows the entropy
                if start != "few-shot" and len(own) and own["entropy"].notna().any():
                    near = own.iloc[(own["rl_step"] - step).abs().argmin()]["entropy"] - own["entropy"].iloc[0]
                    found.append(about | {"rl_step": step, "measure": "entropy", "estimate": near})
    columns = [*WHERE, "recipe", "start", "rl_step", "measure", "n_seeds", *INTERVAL]
    return _finished(pd.DataFrame(found, columns=columns), tables)


def gaming(tables: Tables, role: str = "easy", suite: str = "main") -> pd.DataFrame:
    """How many samples have the right answer, and how many have derived it, after training and along it.

    Columns: scale, suite, checkpoint, tokens, chinchilla, recipe, rl_step, is_end (after training, on all questions;
    else along it, on those asked throughout), measure (correct, valid; gap: correct and not valid; change: the gap at
    the end minus the one before training), seed, n_seeds, estimate, ci_low, ci_high (percent of all samples). Empty
    where no steps were checked.
    """
    rows = _asked(tables, role, suite)
    rows = rows[rows["valid"].notna()]
    rows = rows.assign(correct=rows["correct"].astype(float) / rows["n"], valid=rows["valid"].astype(float) / rows["n"])
    rows = rows.assign(gap=rows["correct"] - rows["valid"])
    found = []
    for names, run in rows.groupby([*WHERE, "recipe"], observed=True):
        ends, along = estimates.last_step(run), asked_throughout(run)
        of_run = dict(zip([*WHERE, "recipe"], names, strict=True))
        parts = [(True, ends["step"].max(), ends), *((False, step, at) for step, at in along.groupby("step"))]
        for is_end, step, at in parts:
            about = of_run | {"rl_step": step, "is_end": is_end}
            for measure in ("correct", "valid", "gap"):
                value_sq = at.pivot(index="seed", columns="question_id", values=measure).dropna(axis=1)
                if value_sq.shape[1] == 0:
                    continue
                measured = estimates.percent(statistics.mean_interval(value_sq.to_numpy()))
                found.append(about | {"measure": measure, "seed": np.nan, "n_seeds": len(value_sq)} | measured)
                single = (100 * value_sq.mean(axis=1)).items() if len(value_sq) > 1 else ()
                found += [about | {"measure": measure, "seed": seed, "estimate": value} for seed, value in single]
        change = estimates.change_along(run, "gap")
        if change.size:
            about = of_run | {"rl_step": ends["step"].max(), "is_end": True, "measure": "change", "seed": np.nan}
            whole = statistics.contrast([change.to_numpy()]).interval()
            found.append(about | {"n_seeds": len(change)} | estimates.percent(whole))
    columns = [*WHERE, "recipe", "rl_step", "is_end", "measure", "seed", "n_seeds", *INTERVAL]
    return _finished(pd.DataFrame(found, columns=columns), tables).astype({"is_end": bool})


def late_gains(tables: Tables, recipes: Sequence[str], role: str = "easy", suite: str = "main") -> pd.DataFrame:
    """What the last quarter of training still adds to pass@1, of the questions asked throughout, seed by seed.

    Columns: as `gains`, without other.
    """
    rows = _asked(tables, role, suite)
    found = []
    rows = rows[rows["recipe"].isin(recipes)]
    for names, run in rows.groupby([*WHERE, "recipe", "benchmark"], observed=True):
        steps = np.sort(run["step"].unique())
        before = steps[(steps > 0) & (steps <= LATE * steps[-1])]
        if not len(before):
            continue
        values = estimates.per_question(asked_throughout(run), 1, ["step", "seed"])
        about = dict(zip([*WHERE, "recipe", "benchmark"], names, strict=True))
        after, earlier = values.loc[steps[-1]], values.loc[before[-1]]
        found.append(about | {"k": 1, "n_seeds": len(after)} | difference(after, earlier))
    columns = [*WHERE, "benchmark", "recipe", "k", "n_seeds", *INTERVAL]
    return _finished(pd.DataFrame(found, columns=columns), tables)


# ---- between suites


FROM_0_TO_1 = 1.25  # where a weight that goes from 0 to 1 while training stands on the axis of constant weights


def varied(tables: Tables, arms: Sequence[tuple[str, str, float]]) -> pd.DataFrame:
    """One setting varied: pass@k after each run, and its accuracy minus base on the average of the general benchmarks.

    arms: (suite, recipe, value of the setting). Columns: those of `pass_at_k` and value; role is general, and k is 0,
    where the estimate is a change of accuracy, which is from base of the suite main.
    """
    found = [pass_at_k(tables, []).assign(value=np.nan)]
    for suite, recipe, value in (arm for arm in arms if arm[0] in tables.parameters):
        found.append(pass_at_k(tables, [recipe], suite).assign(value=value))
        if recipe in estimates.UNTRAINED:  # the general benchmarks are 0-shot, whatever the examples
            continue
        rows = tables.general
        own = rows[(rows["suite"] == suite) & (rows["recipe"] == recipe)]
        base = rows[(rows["suite"] == "main") & (rows["recipe"] == "base")]
        both = pd.concat([own, base]).astype({"suite": str, "recipe": str}).assign(suite="main")
        own_tables = Tables(tables.scale, tables.outcomes.iloc[:0], both, tables.parameters)
        changed = general_gains(own_tables, [recipe])
        found.append(changed[changed["benchmark"] == "average"].assign(role="general", k=0, value=value, suite=suite))
    return pd.concat([part for part in found if len(part)] or found[:1], ignore_index=True)


def rollouts(tables: Tables, root: Path | str) -> pd.DataFrame:
    """pass@1 along RL with different numbers of rollouts a question: the suites rollouts-<n>-<half>, on the benchmark
    that the half of the training questions is of (easy or hard).

    Columns: scale, suite, checkpoint, tokens, chinchilla, recipe, role, k, rollouts, questions (seen), answers
    (sampled), seed, n_seeds, n_questions, estimate, ci_low, ci_high. Of several checkpoints the last.
    """
    found = []
    for half in filter(None, map(re.compile(r"rollouts-\d+-(easy|hard)").fullmatch, tables.parameters)):
        suite, rows = half[0], _asked(tables, half[1], half[0])
        rows = rows[rows["recipe"] == "rl"]
        rows = asked_throughout(rows[(rows["tokens"] == rows["tokens"].max()) & (rows["step"] > 0)])
        rl = load_runs(root, tables.scale, suite).query("recipe == 'rl'")["parameters"].iloc[0]["rl"]
        points = _finished(_with_seeds(rows.astype({"recipe": str}), ["step"]), tables)
        points["questions"] = points["step"] * rl["questions_per_step"]
        found.append(points.assign(rollouts=rl["rollouts"], answers=points["questions"] * rl["rollouts"]))
    columns = [*WHERE, "chinchilla", "recipe", "role", "k", "rollouts", "questions", "answers", "seed", *INTERVAL]
    points = pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=columns)
    return points[points["k"] == 1]


def _asked(tables: Tables, role: str, suite: str) -> pd.DataFrame:
    """The outcomes of a suite on the benchmark of a role."""
    rows = tables.outcomes
    return rows[(rows["suite"] == suite) & (rows["benchmark"].map(ROLES) == role)]


def multiples(points: pd.DataFrame) -> dict[str, str]:
    """What figures call the checkpoints of a table, along pretraining: p08 -> 0.18×."""
    first = points.groupby(points["checkpoint"].astype(str))["chinchilla"].first().astype(float).sort_values()
    return {name: f"{multiple:.2g}×" for name, multiple in first.items()}


def missing(points: pd.DataFrame, recipes: Sequence[str]) -> str:
    """Which cells of checkpoints x recipes a table does not have, in words; empty if none is missing."""
    there = set(zip(points["checkpoint"].astype(str), points["recipe"].astype(str), strict=True))
    names = multiples(points)
    found = []
    for recipe in recipes:
        lacking = [multiple for name, multiple in names.items() if (name, recipe) not in there]
        everywhere = lacking and len(lacking) == len(names)
        label = known.RECIPES[recipe].label
        found += [label if everywhere else f"{label} at {', '.join(lacking)}"] if lacking else []
    return f"Not measured yet: {'; '.join(found)}. " if found else ""


def pairs_with_base(recipes: Sequence[str] = ORDER[2:]) -> list[tuple[str, str]]:
    """Every recipe against base."""
    return [(recipe, "base") for recipe in recipes]
