"""The paper's own numbers, read from its public figures (README.md beside this file has sources and doubts).

Recipes are named as ours and values are in percent. `tokens_b` is pretraining tokens in billions,
`chinchilla` the same in multiples of Chinchilla-optimal (20 tokens per parameter: 20B for the 1B model).

Intervals are ours, the paper prints none. They hold the draw of the questions and the error of reading the
figure; they do not hold the variation between training seeds. Question-level data is not public, so nothing
is paired.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from excursions.results.tables import ROLES

FOLDER = Path(__file__).parent
TOTAL_TOKENS_B = 50
CHINCHILLA_B = 20
QUESTIONS = {"gsm8k": 1319, "math": 5000}  # test sets
GENERAL = ("lambada", "hellaswag", "arc_easy", "arc_challenge", "piqa", "openbookqa")
NORMAL_95 = 1.96

# The same recipe name occurs in several figures with different values; the doubts in README.md decide.
# (1) The February `sft` and `sft_rl` on GSM8K trained on several solutions per question: the May ones are
# taken. (2) The May `rl` seems re-read from a plot: the February one is exact. (3) `base` was evaluated anew
# for May: the one measured together with the February `rl` is taken.
FEBRUARY = "gsm8k_passatk_2026-02"
FIGURES = {
    ("gsm8k", "base"): FEBRUARY,
    ("gsm8k", "rl"): FEBRUARY,
    ("gsm8k", "sft"): "gsm8k_single_sft_2026-05",
    ("gsm8k", "sft_rl"): "gsm8k_single_sft_2026-05",
    ("gsm8k", "sft_gold"): "gsm8k_sft_gold_2026-05",
    ("gsm8k", "sft_gold_rl"): "gsm8k_sft_gold_2026-05",
    ("gsm8k", "parallel"): "gsm8k_parallel_2026-05",
    ("math", "base"): "math_passatk_2026-02",
    ("math", "rl"): "math_passatk_2026-02",
    ("math", "sft"): "math_passatk_2026-02",
    ("math", "sft_rl"): "math_passatk_2026-02",
}
NOTES = {
    ("math", "sft"): "SFT on several solutions per question",
    ("math", "sft_rl"): "SFT on several solutions per question",
}
# "Early" checkpoints show the best of 4 seeds; the text calls RL sensitive to the seed up to about 10B.
EARLY_B = 10
GAIN_SUITES = {  # setup in the figure's tag -> (our suite, billions of parameters, billions of tokens)
    "1B_50B": ("main", 1, 50),
    "1B_60B-math": ("math_heavy", 1, 60),
    "4B_50B": ("larger", 4, 50),
}


@functools.cache
def raw(name: str) -> pd.DataFrame:
    """One file as it is: curves, dynamics, seeds, rl_runs, general, rollouts or shots (columns:
    README.md).
    """
    return pd.read_csv(FOLDER / f"paper_{name}.csv")


@functools.cache
def pass_at_k() -> pd.DataFrame:
    """The curves to lay beside ours: for each benchmark and recipe the one figure that the doubts speak for.

    Columns: role (easy, hard), benchmark (gsm8k, math), k (1, 8, 32), recipe, checkpoint (p08 is 4 of 50B),
    tokens_b, chinchilla, estimate, half_width (of the 95% interval), ci_low, ci_high, figure, note. Sorted by
    role, k, recipe, tokens_b. The half-width takes each question as one trial: exact for pass@32 of 32
    samples, too wide for smaller k.
    """
    table = raw("curves")
    wanted = pd.Series(zip(table["benchmark"], table["recipe"], strict=True)).map(FIGURES)
    table = finish(table[table["figure"] == wanted])
    pairs = list(zip(table["benchmark"], table["recipe"], strict=True))
    table = table.assign(
        role=table["benchmark"].map(ROLES),
        note=[NOTES.get(pair, "") for pair in pairs],
    )
    early_rl = (table["recipe"] == "rl") & (table["role"] == "easy") & (table["tokens_b"] <= EARLY_B)
    table.loc[early_rl, "note"] = "early points of rl are the best of 4 seeds"
    columns = ["role", "benchmark", "k", "recipe", "checkpoint", "tokens_b", "chinchilla"]
    columns += ["estimate", "half_width", "ci_low", "ci_high", "figure", "note"]
    return table[columns].sort_values(["role", "k", "recipe", "tokens_b"], ignore_index=True)


@functools.cache
def general() -> pd.DataFrame:
    """Accuracy on the six general benchmarks and their mean `average`, for base, rl, sft, sft_gold.

    `average5` is the mean without ARC-Challenge, the only one published for parallel (with base, rl, sft).
    Columns: benchmark, recipe, checkpoint, tokens_b, chinchilla, estimate, half_width, ci_low, ci_high,
    figure. The half-width assumes 1000 items a benchmark (500 for OpenBookQA), which values on a grid of 0.1
    (0.2) suggest; the full sets are larger.
    """
    table = raw("general").copy()
    names = {"avg6": "average", "avg5_without_arc_challenge": "average5"}
    table["benchmark"] = table["benchmark"].replace(names)
    members = {name: [name] for name in GENERAL} | {
        "average": list(GENERAL),
        "average5": [name for name in GENERAL if name != "arc_challenge"],
    }
    # An average's half-width is taken as if all its benchmarks had the average's accuracy: slightly too wide.
    items = {
        name: len(parts) ** 2 / sum(1 / (500 if part == "openbookqa" else 1000) for part in parts)
        for name, parts in members.items()
    }
    columns = ["benchmark", "recipe", "checkpoint", "tokens_b", "chinchilla"]
    columns += ["estimate", "half_width", "ci_low", "ci_high", "figure"]
    return finish(table, items)[columns].sort_values(["benchmark", "recipe", "tokens_b"], ignore_index=True)


@functools.cache
def hard_gains() -> pd.DataFrame:
    """RL minus base on MATH for three pretraining set-ups (the figure gives differences only).

    Columns: suite (main = 1B on 50B tokens, math_heavy = 1B on 60B with more math, larger = 4B on 50B), k,
    tokens_b, chinchilla, estimate, half_width, ci_low, ci_high (percentage points). The half-width is the
    largest that two accuracies on 5000 questions can have, as the accuracies themselves are not given.
    """
    table = raw("curves").rename(columns={"pretrain_tokens_b": "tokens_b", "value_percent": "estimate"})
    table = table[table["figure"].str.startswith("math_rl_gain")]
    setup = table["figure"].str.split(":").str[1].map(GAIN_SUITES)
    half = np.hypot(100 * NORMAL_95 * np.sqrt(2 * 0.25 / QUESTIONS["math"]), table["abs_error_pp"])
    table = table.assign(
        suite=setup.str[0],
        k=table["metric"].str.removeprefix("gain_pass@").astype(int),
        chinchilla=table["tokens_b"] / (CHINCHILLA_B * setup.str[1].astype(float)),
        half_width=half,
        ci_low=table["estimate"] - half,
        ci_high=table["estimate"] + half,
    )
    columns = ["suite", "k", "tokens_b", "chinchilla", "estimate", "half_width", "ci_low", "ci_high"]
    return table[columns].sort_values(["suite", "k", "tokens_b"], ignore_index=True)


def dynamics() -> pd.DataFrame:
    """Training dynamics on the checkpoint of 14B tokens (p28).

    Columns: pipeline (rl: base then RL; sft_rl: base, SFT, RL), stage (base, sft, rl), rl_step (0 before RL),
    k (1, 32), estimate, error (of reading). The SFT here is the February one, on several solutions per
    question.
    """
    table = raw("dynamics")
    step = table["stage_or_step"].str.extract(r"rl_(\d+)")[0]
    table = table.assign(
        pipeline=table["panel"].str.removeprefix("pretrain_"),
        stage=table["stage_or_step"].replace("pretrain", "base").where(step.isna(), "rl"),
        rl_step=step.fillna("0").astype(int),
        k=table["metric"].str.removeprefix("pass@").astype(int),
        estimate=table["value_percent"],
        error=table["abs_error_pp"],
    )
    return table[["pipeline", "stage", "rl_step", "k", "estimate", "error"]].reset_index(drop=True)


def seeds() -> pd.DataFrame:
    """A favorable and an unfavorable seed of direct RL on GSM8K, at 4B and 10B tokens.

    Columns: tokens_b, seed_kind, rl_step, metric (pass@1, pass@32, val_reward), estimate, half_width, error
    (of reading). The half-width takes each test question as one trial; it is not meant for val_reward.
    """
    table = finish(raw("seeds")).rename(columns={"abs_error_pp": "error"})
    return table[["tokens_b", "seed_kind", "rl_step", "metric", "estimate", "half_width", "error"]]


def finish(table: pd.DataFrame, trials: Mapping[str, float] = QUESTIONS) -> pd.DataFrame:
    """Raw rows with estimate, half_width, ci_low and ci_high in percent, k where they are of pass@k, and tokens_b,
    checkpoint and chinchilla where they name tokens.

    The half-width is binomial, for so many trials of the row's benchmark (GSM8K where it has none), with the error of
    reading added in squares.
    """
    estimate, share = table["value_percent"], table["value_percent"] / 100
    of_row = table["benchmark"].map(trials) if "benchmark" in table else trials["gsm8k"]
    half = np.hypot(100 * NORMAL_95 * np.sqrt(share * (1 - share) / of_row), table["abs_error_pp"])
    low, high = (estimate - half).clip(lower=0), (estimate + half).clip(upper=100)
    table = table.assign(estimate=estimate, half_width=half, ci_low=low, ci_high=high)
    if "metric" in table and table["metric"].str.startswith("pass@").all():
        table["k"] = table["metric"].str.removeprefix("pass@").astype(int)
    if "pretrain_tokens_b" in table:
        table = table.rename(columns={"pretrain_tokens_b": "tokens_b"})
        percent = 100 * table["tokens_b"] / TOTAL_TOKENS_B
        table["checkpoint"] = "p" + percent.astype(int).astype(str).str.zfill(2)
        table["chinchilla"] = table["tokens_b"] / CHINCHILLA_B
    return table
