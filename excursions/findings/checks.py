"""How a claim is measured: one contrast of recipes, on our results and on the paper's published numbers.

A check weighs recipes against each other (`rl - base`), averages over the checkpoints of a role and gives an
effect in percentage points. It holds in a region of effects, `above` to `below`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from excursions.findings import estimates, reference, statistics
from excursions.params import percent
from excursions.results import tables as results
from excursions.results.tables import Tables

ENOUGH_SEEDS = 3  # fewer cannot show how a result scatters
SAME_TOKENS = 0.1  # two suites are compared at checkpoints whose tokens differ by at most this share

# Roles go by the share of pretraining in a checkpoint's name, so that they mean the same at every scale.
# The paper's checkpoints are 2, 4, 6, 10, 12, 14, 20, 28 and 44B of 50B tokens; p08 is 4B, p20 is 10B.
ROLES = {
    "early": "at the first checkpoint from 8% of pretraining on",
    "turn": "at the first checkpoint from 20% of pretraining on",
    "later": "mean over the checkpoints from 20% of pretraining on",
    "under-trained": "mean over the checkpoints before the Chinchilla-optimal number of tokens",
    "last": "at the last checkpoint",
    "all": "mean over all checkpoints",
    "shared": "at the most tokens both suites have",
}


class NotMeasurable(Exception):
    """Why there is no number for a check, and how many seeds there were."""

    def __init__(self, why: str, n_seeds: int = 0) -> None:
        super().__init__(why)
        self.n_seeds = n_seeds


@dataclass(frozen=True)
class Measurement:
    """An effect with its 95% interval in percentage points (two decimals), and on what it was measured."""

    effect: float
    low: float
    high: float
    n_seeds: int
    note: str


@dataclass(frozen=True)
class Check:
    """A claim and how it is tested. Of several contrasts the smallest is the effect: all have to hold."""

    id: str
    figure: str  # our notebook and figure
    source: str  # where the paper says so
    claim: str
    contrasts: list[str]  # "pass@32 of sft_rl - sft"; "accuracy of ..." is the mean of the general benchmarks
    benchmark: str  # easy or hard (gsm8k or math at paper scale), or general
    role: str  # of checkpoints, a key of ROLES
    above: float = -math.inf
    below: float = math.inf
    # What is not a contrast at the checkpoints of a role brings its own measure, on ours and on theirs.
    effect: str = ""
    measured: Callable[[Check, Tables], Measurement] | None = None
    published: Callable[[Check], Measurement] | None = None

    @property
    def recipes(self) -> set[str]:
        """All recipes compared."""
        return {recipe for contrast in self.contrasts for recipe in parse(contrast)[1]}

    @property
    def measure(self) -> str:
        """What the effect is, in words."""
        what = self.effect or ", ".join(self.contrasts)
        smallest = "the smallest of " if len(self.contrasts) > 1 else ""
        return f"{smallest}{what}; {self.benchmark}; {ROLES[self.role]}"

    @property
    def rule(self) -> str:
        """Where the claim holds, in words."""
        bounds = [f"above {self.above:g}"] * (self.above > -math.inf)
        bounds += [f"below {self.below:g}"] * (self.below < math.inf)
        return " and ".join(bounds)

    def verdict(self, found: Measurement | None) -> str:
        """Whether the interval lies all inside the region, all outside, or neither (as without data)."""
        if found is None:
            return "inconclusive"
        if self.above < found.low and found.high < self.below:
            return "supported"
        return "not supported" if found.high < self.above or found.low > self.below else "inconclusive"


def parse(contrast: str) -> tuple[int | None, dict[str, int]]:
    """k (None for accuracy) and the sign of each recipe, from a text like "pass@1 of rl - base"."""
    measure, _, formula = contrast.partition(" of ")
    words = ["+", *formula.split()]
    signs = {recipe: 1 if sign == "+" else -1 for sign, recipe in zip(words[::2], words[1::2], strict=True)}
    return (int(measure.removeprefix("pass@")) if measure.startswith("pass@") else None), signs


def choose(role: str, checkpoints: list[str], multiples: list[float]) -> list[str]:
    """The checkpoints of a role; a list that ends before the role's share of pretraining gives its last.

    checkpoints: in the order of pretraining; multiples: their tokens in multiples of Chinchilla-optimal.
    """
    if role in ("early", "turn", "later"):
        least = 8 if role == "early" else 20
        found = [name for name in checkpoints if percent(name) >= least] or checkpoints[-1:]
        return found if role == "later" else found[:1]
    if role == "under-trained":
        return [name for name, multiple in zip(checkpoints, multiples, strict=True) if multiple < 1]
    return checkpoints[-1:] if role == "last" else checkpoints


# ---- on our results


def measure(check: Check, tables: Tables) -> Measurement:
    """The contrasts of a check: over questions, paired, or over items of the general benchmarks, not
    paired.
    """
    checkpoints, multiples = _axis(tables)
    rows = _main(tables.general, check) if check.benchmark == "general" else _results(tables, check)
    found = _where_all_are(check, rows, choose(check.role, checkpoints, multiples))
    rows = rows[rows["checkpoint"].isin(found)]
    draws = _general_draws if check.benchmark == "general" else _question_draws
    parts = [draws(rows, contrast, found) for contrast in check.contrasts]
    # The parts share their draws of questions and seeds, so the smallest is a bootstrap statistic too.
    smallest = np.min([part[1] for part in parts], axis=0)
    interval = statistics.interval(min(part[0] for part in parts), smallest)
    n_seeds = rows.groupby(["checkpoint", "recipe"])["seed"].nunique().min()
    return _measurement(interval, n_seeds, f"at {', '.join(found)}")


def measure_seed_spread(check: Check, tables: Tables) -> Measurement:
    """Best minus worst seed of direct RL, named on half of the questions, compared on the other, and back.

    Naming and comparing on the same questions would find a spread among equal seeds.
    """
    (checkpoint,) = choose(check.role, *_axis(tables))
    rows = _results(tables, check)
    rows = rows[rows["checkpoint"] == checkpoint]
    n_seeds = rows["seed"].nunique()
    if n_seeds < ENOUGH_SEEDS:
        raise NotMeasurable(f"needs {ENOUGH_SEEDS} seeds of rl at {checkpoint}, there are {n_seeds}", n_seeds)
    value_sq = _per_question(rows, 1, ["seed"]).to_numpy()
    halves = (slice(0, None, 2), slice(1, None, 2))
    spread_q = []
    for naming, comparing in (halves, halves[::-1]):
        mean_s = value_sq[:, naming].mean(axis=1)
        spread_q.append(value_sq[mean_s.argmax(), comparing] - value_sq[mean_s.argmin(), comparing])
    interval = statistics.mean_interval(np.concatenate(spread_q)[None], *_draw_of(rows))
    return _measurement(interval, n_seeds, f"at {checkpoint}")


def measure_suites(check: Check, tables: Tables) -> Measurement:
    """RL's gain after pretraining on more math minus its gain with a larger model, at equal tokens."""
    rows = tables.outcomes[tables.outcomes["suite"].isin(("math_heavy", "larger"))]
    rows = estimates.last_step(rows[rows["recipe"].isin(check.recipes)])
    rows = rows[rows["benchmark"].map(results.ROLES) == check.benchmark]
    tokens = {suite: group.groupby("checkpoint")["tokens"].first() for suite, group in rows.groupby("suite")}
    if len(tokens) < 2:
        found = ", ".join(tokens) or "none"
        raise NotMeasurable(f"needs results of the suites math_heavy and larger; found: {found}")
    pairs = [
        (count, heavy, larger)
        for heavy, count in tokens["math_heavy"].items()
        for larger, other in tokens["larger"].items()
        if abs(count - other) <= SAME_TOKENS * count
    ]
    if not pairs:
        raise NotMeasurable("math_heavy and larger have no checkpoints of the same number of tokens")
    _, heavy, larger = max(pairs)
    rows = rows[(rows["suite"] + "/" + rows["checkpoint"]).isin((f"math_heavy/{heavy}", f"larger/{larger}"))]
    arms = _per_question(rows, 1, ["suite", "recipe", "seed"]).groupby(level=["suite", "recipe"])
    if len(arms) < 4:
        raise NotMeasurable("needs rl and base in both math_heavy and larger")
    signs = {"math_heavy": 1, "larger": -1, "rl": 1, "base": -1}
    groups = [signs[suite] * signs[recipe] * arm.to_numpy() for (suite, recipe), arm in arms]
    interval = statistics.interval(*statistics.contrast_draws(groups, *_draw_of(rows)))
    return _measurement(interval, min(map(len, groups)), f"math_heavy at {heavy}, larger at {larger}")


def _question_draws(rows: pd.DataFrame, contrast: str, checkpoints: list[str]) -> tuple[float, np.ndarray]:
    k, signs = parse(contrast)
    table = _per_question(rows, k, ["checkpoint", "recipe", "seed"])
    groups: dict[tuple[int, ...], np.ndarray] = {}  # models trained with the same seeds share the draw of seeds
    for checkpoint in checkpoints:
        for recipe, sign in signs.items():
            value_sq = table.loc[(checkpoint, recipe)]
            seeds = tuple(value_sq.index)
            groups[seeds] = groups.get(seeds, 0) + sign / len(checkpoints) * value_sq.to_numpy()
    return statistics.contrast_draws([groups[seeds] for seeds in sorted(groups)], *_draw_of(rows))


def _general_draws(rows: pd.DataFrame, contrast: str, checkpoints: list[str]) -> tuple[float, np.ndarray]:
    estimate, draws = 0.0, np.zeros(statistics.RESAMPLES)
    for checkpoint in checkpoints:
        for recipe, sign in parse(contrast)[1].items():
            arm = rows[(rows["checkpoint"] == checkpoint) & (rows["recipe"] == recipe)]
            n_b, correct_sb = estimates.counts_by_seed(arm)
            names = (rows["scale"].iloc[0], checkpoint, recipe)
            mean, drawn = statistics.accuracy_draws(n_b.to_numpy(), correct_sb.to_numpy(), *names)
            estimate += sign * mean / len(checkpoints)
            draws += sign * drawn / len(checkpoints)
    return estimate, draws


def _per_question(rows: pd.DataFrame, k: int, index: list[str]) -> pd.DataFrame:
    if rows["n"].min() < k:
        raise NotMeasurable(f"pass@{k} needs {k} samples per question, there are {rows['n'].min()}")
    return estimates.per_question(rows, k, index)


def _main(table: pd.DataFrame, check: Check) -> pd.DataFrame:
    return table[(table["suite"] == "main") & table["recipe"].isin(check.recipes)]


def _results(tables: Tables, check: Check) -> pd.DataFrame:
    rows = estimates.last_step(_main(tables.outcomes, check))
    return rows[rows["benchmark"].map(results.ROLES) == check.benchmark]


def _axis(tables: Tables) -> tuple[list[str], list[float]]:
    """Checkpoints of the main suite in the order of pretraining, and their multiples of
    Chinchilla-optimal.
    """
    main = tables.outcomes[tables.outcomes["suite"] == "main"]
    tokens = main.groupby("checkpoint")["tokens"].first().sort_values()
    return list(tokens.index), list(estimates.chinchilla(tokens, tables.parameters["main"]))


def _draw_of(rows: pd.DataFrame) -> tuple[str, str]:
    """Names of the draw of questions: one for all claims on a benchmark."""
    return rows["scale"].iloc[0], rows["benchmark"].iloc[0]


def _measurement(interval: statistics.Interval, n_seeds: int, note: str) -> Measurement:
    # Verdicts go by the two decimals a reader sees.
    low, effect, high = (round(100 * value, 2) for value in (interval.low, interval.estimate, interval.high))
    return Measurement(effect, low, high, int(n_seeds), note)


def _where_all_are(check: Check, rows: pd.DataFrame, checkpoints: list[str]) -> list[str]:
    """Those of the checkpoints that have all recipes compared."""
    present = rows.groupby("checkpoint")["recipe"].nunique()
    found = [name for name in checkpoints if present.get(name, 0) == len(check.recipes)]
    if not found:
        recipes = ", ".join(sorted(check.recipes))
        raise NotMeasurable(f"needs a checkpoint with all of {recipes} ({ROLES[check.role]})")
    return found


# ---- on the published numbers, each point an independent draw of questions


def measure_published(check: Check) -> Measurement:
    """The contrasts of a check on the paper's curves. Of several, the interval is the one of the smallest."""
    if check.benchmark == "general":
        curves = reference.general().assign(k=0, note="")
        curves = curves[curves["benchmark"] == ("average5" if "parallel" in check.recipes else "average")]
    else:
        curves = reference.pass_at_k()
        curves = curves[curves["role"] == check.benchmark]
    axis = curves.groupby("checkpoint")["chinchilla"].first().sort_values()
    curves = curves[curves["recipe"].isin(check.recipes)]
    found = _where_all_are(check, curves, choose(check.role, list(axis.index), list(axis)))
    curves = curves[curves["checkpoint"].isin(found)]
    parts = []
    for contrast in check.contrasts:
        k, signs = parse(contrast)
        points = curves[curves["recipe"].isin(signs) & (curves["k"] == (k or 0))]
        weight = points["recipe"].map(signs) / len(found)
        effect = (weight * points["estimate"]).sum()
        parts.append((effect, math.hypot(*(weight * points["half_width"]))))
    notes = sorted(set(curves["note"]) - {""})
    return _published(*min(parts), 1, "; ".join([f"at {', '.join(found)}", *notes]))


def published_seed_spread(check: Check) -> Measurement:
    """Favorable minus unfavorable seed, as the authors named them, at the last step that both have."""
    tokens_b = {"early": 4, "turn": 10}[check.role]
    table = reference.seeds()
    table = table[(table["tokens_b"] == tokens_b) & (table["metric"] == "pass@1")]
    table = table.pivot(index="rl_step", columns="seed_kind", values=["estimate", "half_width"])
    last = table.dropna().iloc[-1]
    effect = last["estimate", "favorable"] - last["estimate", "unfavorable"]
    note = f"at {tokens_b}B tokens, RL step {last.name}; the text calls 4B to about 10B sensitive"
    return _published(effect, math.hypot(*last["half_width"]), 2, note)


def published_suites(check: Check) -> Measurement:
    """The difference of RL's gains on MATH at the most tokens both set-ups have."""
    gains = reference.hard_gains()
    table = gains[gains["k"] == 1].pivot(index="tokens_b", columns="suite", values=["estimate", "half_width"])
    last = table.dropna(subset=[("estimate", "math_heavy"), ("estimate", "larger")]).iloc[-1]
    effect = last["estimate", "math_heavy"] - last["estimate", "larger"]
    half = math.hypot(last["half_width", "math_heavy"], last["half_width", "larger"])
    return _published(effect, half, 1, f"at {last.name}B tokens")


def _published(effect: float, half_width: float, n_seeds: int, note: str) -> Measurement:
    low, middle, high = (round(float(value), 2) for value in (effect - half_width, effect, effect + half_width))
    return Measurement(middle, low, high, n_seeds, note)
