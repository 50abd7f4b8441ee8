"""How a claim is measured on our results: values per question and seed -> contrasts with intervals.

Models at one checkpoint are compared in pairs, on the same questions and, where they were trained with the same seeds,
seed by seed. The runs from different checkpoints are different training runs, whatever the number of their seed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, cast

import numpy as np
import pandas as pd

from excursions.findings import checks, estimates, statistics
from excursions.findings.checks import ENOUGH_SEEDS, Check, Contrast, NotMeasurable
from excursions.results.tables import ROLES, Tables

SAME_TOKENS = 0.1  # two suites are compared at checkpoints whose tokens differ by at most this share
ARM = ["suite", "recipe"]  # a recipe in a suite: what a contrast adds and subtracts
Pick = Callable[[pd.DataFrame], pd.DataFrame]
SLOT = dict[tuple[str, str], str]  # the checkpoint of each arm, of the same number of tokens


class Arms(NamedTuple):
    """What one contrast compares, ready to be weighed."""

    signs: dict[tuple[str, str], int]
    values: pd.DataFrame  # 0 to 1; a row per (suite, recipe, checkpoint, seed), a column per question or item
    slots: dict[str, SLOT]  # by name
    left_out: dict[str, str]  # checkpoint -> why
    n_seeds: int  # of the trained recipe with the fewest; base is one model, however often it is asked
    remarks: list[str]  # at which steps they were evaluated, where it is not the last; what else a reader must know

    @property
    def strata(self) -> np.ndarray | None:
        """The benchmark of each column, where there are several."""
        return self.values.columns.get_level_values("benchmark") if self.values.columns.nlevels > 1 else None

    def groups(self, slot: SLOT) -> list[np.ndarray]:
        """The signed sum of the models of a slot that share their seeds, for each set of seeds: (s, q)."""
        by_seeds: dict[tuple[int, ...], np.ndarray] = {}
        for arm, sign in self.signs.items():
            value_sq = self.values.loc[(*arm, slot[arm])]
            seeds = tuple(value_sq.index)
            by_seeds[seeds] = by_seeds.get(seeds, 0) + sign * value_sq.to_numpy()
        return list(by_seeds.values())


def contrasts(check: Check, tables: Tables, pick: Pick = estimates.last_step) -> list[Contrast]:
    """The contrasts of a check, each on the mean over its checkpoints or, with `each`, at each of them.

    pick: the rows of the steps that are compared, of all rows of the arms.
    Raises NotMeasurable when a recipe, a checkpoint or a seed is wanting.
    """
    found = []
    for formula in check.contrasts:
        arms = _arms(check, tables, formula, pick)
        note = "; ".join([checks.kept(list(arms.slots), arms.left_out), *arms.remarks])
        groups = {name: arms.groups(slot) for name, slot in arms.slots.items()}
        points = {name: statistics.contrast(parts, arms.strata) for name, parts in groups.items()}
        if check.each:
            for name, point in points.items():
                found.append(checks.contrast(check, f"{formula} at {name}", point, {name: point}, arms.n_seeds, note))
        else:
            together = [part / len(groups) for parts in groups.values() for part in parts]
            whole = statistics.contrast(together, arms.strata)
            found.append(checks.contrast(check, formula, whole, points, arms.n_seeds, note))
    return found


def alike_in_reward(check: Check, tables: Tables) -> list[Contrast]:
    """Runs of direct RL at each checkpoint of the span: near in training reward (below `above`), and not in test (above
    it)."""
    found, near = seed_spread(check, tables), replace(check, above=None, below=check.above)
    for at in [point.checkpoint for test in found for point in test.points]:
        log = tables.training
        log = log[(log["suite"] == "main") & (log["recipe"] == "rl") & (log["checkpoint"] == at)] if len(log) else log
        if not len(log):
            raise NotMeasurable(f"needs the training log of rl at {at}")
        last = log[log["step"] > estimates.LATE * log.groupby("seed")["step"].transform("max")]
        reward = statistics.Spread(tuple(last.groupby("seed")["reward"].mean()))
        formula = f"reward of rl, last quarter of training at {at}"
        found.append(checks.contrast(near, formula, reward, {at: reward}, len(reward.value_s), found[0].note))
    return found


def invalid_along_training(check: Check, tables: Tables) -> list[Contrast]:
    """Change, from the first to the last step of direct RL, of the share of completions that are correct but not
    derived, and of that share minus the one of the derived."""
    rows = tables.outcomes
    if "valid" not in rows or rows["valid"].isna().all():
        raise NotMeasurable("needs outcomes with steps checked (column valid)")
    rows = rows[
        (rows["suite"] == "main") & (rows["recipe"] == "rl") & (rows["benchmark"].map(ROLES) == check.benchmark)
    ]
    gap: dict[str, statistics.Estimate] = {}  # correct and not derived
    more: dict[str, statistics.Estimate] = {}  # that minus the derived
    n_seeds, shares = [], []
    for name in checks.choose(check.span, *_axis(tables)):
        at = rows[rows["checkpoint"] == name]
        if at.empty or at["step"].min() > 0:
            raise NotMeasurable(f"needs rl at {name}, evaluated before its first step and after its last")
        for found, derived in ((gap, 1), (more, 2)):
            value = ((at["correct"] - derived * at["valid"]) / at["n"]).astype(float)
            change = estimates.change_along(at.assign(value=value), "value")
            found[name] = statistics.contrast([change.to_numpy()])
        n_seeds.append(len(change))
        ends = at[(at["step"] == 0) | at.index.isin(estimates.last_step(at).index)]
        sums = ends.groupby(ends["step"] > 0)[["correct", "valid"]].sum().astype(float)
        first, final = (100 * (1 - sums["valid"] / sums["correct"])).fillna(0)
        shares.append(f"of what is right not derived: {first:.0f}% before training (0-shot), {final:.0f}% after it")
    if not gap or min(n_seeds) < ENOUGH_SEEDS:
        raise NotMeasurable(f"needs {ENOUGH_SEEDS} seeds, there are {min(n_seeds, default=0)}", min(n_seeds, default=0))
    note = "; ".join([f"at {', '.join(gap)}", *shares])
    return [
        checks.contrast(check, formula, next(iter(found.values())), found, min(n_seeds), note)  # of one checkpoint
        for formula, found in zip(check.contrasts, (gap, more), strict=True)
    ]


def rollouts_on_hard(check: Check, tables: Tables) -> list[Contrast]:
    """By samples, the check's first contrast on hard problems minus its second one on easy problems."""
    parts = {
        benchmark: _arms(replace(check, benchmark=benchmark), tables, formula, at_the_same_step)
        for benchmark, formula in zip(("hard", "easy"), check.contrasts, strict=True)
    }
    hard, easy = parts.values()
    left_out = {
        f"{name} ({benchmark})": why for benchmark, arms in parts.items() for name, why in arms.left_out.items()
    }
    names = [name for name in hard.slots if name in easy.slots]
    note = checks.kept(names, left_out, min(hard.n_seeds, easy.n_seeds))
    strata = np.repeat(["hard", "easy"], [hard.values.shape[1], easy.values.shape[1]])
    groups = {}
    for name in names:
        of_name = [*hard.groups(hard.slots[name]), *easy.groups(easy.slots[name])]
        if len({len(value_sq) for value_sq in of_name}) > 1 or len(of_name) != 2:
            raise NotMeasurable(f"needs the same seeds in all four suites at {name}")
        hard_sq, easy_sq = of_name
        groups[name] = np.hstack([2 * hard_sq, -2 * easy_sq])  # the mean of both strata is hard minus easy
    points = {name: statistics.contrast([value_sq], strata) for name, value_sq in groups.items()}
    whole = statistics.contrast([value_sq / len(groups) for value_sq in groups.values()], strata)
    n_seeds = min(hard.n_seeds, easy.n_seeds)
    note = "; ".join([note, *hard.remarks, *easy.remarks])
    return [checks.contrast(check, check.contrasts[0], whole, points, n_seeds, note)]


def at_the_same_step(rows: pd.DataFrame) -> pd.DataFrame:
    """By samples: rows of the last step that every suite was evaluated at, so that all have seen the same questions."""
    suites = rows.groupby(["checkpoint", "step"])["suite"].transform("nunique")
    rows = rows[(suites == rows["suite"].nunique()) & (rows["step"] > 0)]
    return rows[rows["step"] == rows.groupby("checkpoint")["step"].transform("max")]


def at_as_many_answers(rows: pd.DataFrame) -> pd.DataFrame:
    """By FLOPs as the paper counts them: rows of two suites rollouts-<n>-<half> at the steps whose numbers of
    sampled answers, n x step, are nearest."""
    rows = rows[rows["step"] > 0]
    rows = rows.assign(answers=rows["step"] * rows["suite"].str.split("-").str[1].astype(int))
    kept = [rows.iloc[:0]]
    for _, at in rows.groupby("checkpoint", sort=False):
        by_suite = [sorted(group["answers"].unique()) for _, group in at.groupby("suite")]
        pairs = list(itertools.product(*by_suite)) if len(by_suite) == 2 else []
        if pairs:
            nearest = min(pairs, key=lambda pair: (abs(math.log(pair[0] / pair[1])), -pair[0]))
            kept += [group[group["answers"] == n] for n, (_, group) in zip(nearest, at.groupby("suite"), strict=True)]
    return pd.concat(kept)


def seed_spread(check: Check, tables: Tables) -> list[Contrast]:
    """How far apart runs of direct RL end in pass@1, at each checkpoint of the span."""
    (formula,) = check.contrasts
    arms = _arms(check, tables, formula)
    note = checks.kept(list(arms.slots), arms.left_out)
    found = []
    for name, slot in arms.slots.items():
        (value_sq,) = arms.groups(slot)
        spread = statistics.Spread(tuple(value_sq.mean(axis=1)))
        which = f"{formula} at {name}" if check.each else formula
        found.append(checks.contrast(check, which, spread, {name: spread}, arms.n_seeds, note))
    return found


def _arms(check: Check, tables: Tables, formula: str, pick: Pick = estimates.last_step) -> Arms:
    """The models of a contrast at the checkpoints of the check's span at which they can be compared."""
    k, signs = checks.parse(formula)
    rows = tables.general if k is None else tables.outcomes[tables.outcomes["benchmark"].map(ROLES) == check.benchmark]
    if ("main", estimates.ZERO_SHOT) in signs:
        rows = pd.concat([rows.astype({"recipe": str}), estimates.zero_shot(rows[rows["recipe"] == "rl"])])
    rows = rows[pd.MultiIndex.from_frame(rows[ARM]).isin(list(signs))]
    rows = rows if k is None else pick(rows)
    chosen = None if check.span == "shared" else checks.choose(check.span, *_axis(tables))
    slots = _slots(check, rows, signs, chosen)
    wanted = {(*arm, name) for slot in slots.values() for arm, name in slot.items()}
    rows = rows[pd.MultiIndex.from_frame(rows[[*ARM, "checkpoint"]]).isin(wanted)]
    if k is not None and rows["n"].min() < k:
        raise NotMeasurable(f"pass@{k} needs {k} samples per question, there are {rows['n'].min()}")
    index = [*ARM, "checkpoint", "seed"]
    values = estimates.per_item(rows, index) if k is None else estimates.per_question(rows, k, index)
    left_out = {}
    if k is not None:
        level = 100 * values.mean(axis=1).groupby(level=index[:-1]).mean()
        floor = tables.floors.get((check.benchmark, k), 0.0)
        for name, slot in slots.items():
            levels = {arm: level[(*arm, checkpoint)] for arm, checkpoint in slot.items()}
            if why := checks.undetectable(levels, floor, check.level):
                left_out[name] = why
    slots = {name: slot for name, slot in slots.items() if name not in left_out}
    trained = [arm for arm in signs if arm[1] not in estimates.UNTRAINED] or list(signs)
    of_arm = values.groupby(level=index[:-1]).size()
    seeds = {name: int(min(of_arm[(*arm, slot[arm])] for arm in trained)) for name, slot in slots.items()}
    few = {name: n for name, n in seeds.items() if n < ENOUGH_SEEDS}
    if len(few) < len(slots):  # the claim can be weighed at the checkpoints that are complete
        left_out |= {name: f"{n} of {ENOUGH_SEEDS} seeds" for name, n in few.items()}
        slots = {name: slot for name, slot in slots.items() if name not in few}
    n_seeds = min((seeds[name] for name in slots), default=0)
    without = [name for name in chosen or () if name not in {*slots, *left_out}]  # a recipe has no run there at all
    left_out |= dict.fromkeys(without, f"0 of {ENOUGH_SEEDS} seeds")
    if slots and n_seeds < ENOUGH_SEEDS:
        raise NotMeasurable(f"needs {ENOUGH_SEEDS} seeds, there are {n_seeds}", n_seeds)
    remarks = [] if k is None or pick is estimates.last_step else [_steps(rows)]
    if k is not None:
        remarks += _underived(rows, trained, slots)
    if all(recipe in estimates.UNTRAINED for _, recipe in signs):
        remarks.append("the seeds of base are one model, so that the interval is of the questions alone")
    return Arms(signs, values, slots, left_out, n_seeds, remarks)


def _underived(rows: pd.DataFrame, arms: list[tuple[str, str]], slots: dict[str, SLOT]) -> list[str]:
    """Of trained recipes the checkpoints at which most of what they get right is not derived step by step."""
    if "valid" not in rows or rows["valid"].isna().all():
        return []
    counts = rows.groupby([*ARM, "checkpoint"], observed=True)[["correct", "valid"]].sum().astype(float)
    found = []
    for name, slot in slots.items():
        for arm in arms:
            correct, valid = counts.loc[(*arm, slot[arm])]
            if correct and valid < correct / 2:
                found.append(
                    f"at {name} {100 * (1 - valid / correct):.0f}% of what {_words(arm)} gets right is not derived"
                )
    return found


def _steps(rows: pd.DataFrame) -> str:
    found = []
    for checkpoint, there in rows.groupby("checkpoint", sort=False):
        in_all = there.groupby(["benchmark", "question_id"])["suite"].nunique() == there["suite"].nunique()
        for suite, at in there.groupby("suite", sort=False):
            found.append(f"{checkpoint} after {at['step'].iloc[0]} steps of {suite}, on {in_all.sum()} questions")
    return "; ".join(found)


def _slots(
    check: Check, rows: pd.DataFrame, signs: dict[tuple[str, str], int], chosen: list[str] | None
) -> dict[str, SLOT]:
    """The checkpoints of the check's span (chosen; None: any) that have all arms; in another suite, the one of as many
    tokens."""
    tokens = rows.groupby([*ARM, "checkpoint"])["tokens"].first()
    present = set(map(tuple, tokens.index.droplevel("checkpoint")))
    if missing := [_words(arm) for arm in signs if arm not in present]:
        raise NotMeasurable(f"needs results of {', '.join(missing)}")
    first = next(iter(signs))
    found = {}
    for name, count in tokens[first].sort_values().items():
        slot = {}
        for arm in signs:
            near = tokens[arm][(tokens[arm] - count).abs() <= SAME_TOKENS * count]
            near = near[near.index == name] if arm[0] == first[0] else (near - count).abs().sort_values()
            if len(near):
                slot[arm] = near.index[0]
        if len(slot) == len(signs) and (chosen is None or name in chosen):
            at = {arm[0]: checkpoint for arm, checkpoint in slot.items()}
            same = len(set(at.values())) == 1
            found[name if same else ", ".join(f"{suite} at {point}" for suite, point in at.items())] = slot
    if not found:
        recipes = ", ".join(sorted(map(_words, signs)))
        raise NotMeasurable(f"needs a checkpoint with all of {recipes} ({checks.SPANS[check.span]})")
    return dict(list(found.items())[-1:]) if check.span == "shared" else found


def _words(arm: tuple[str, str]) -> str:
    return arm[1] if arm[0] == "main" else f"{arm[1]} in suite {arm[0]}"


def _axis(tables: Tables) -> tuple[list[str], list[float]]:
    """Checkpoints of the main suite in the order of pretraining, and their multiples of Chinchilla-optimal."""
    main = tables.outcomes[tables.outcomes["suite"] == "main"]
    if main.empty:
        raise NotMeasurable("needs results of the suite main")
    tokens = main.groupby("checkpoint")["tokens"].first().sort_values()
    return list(tokens.index), list(cast(pd.Series, estimates.chinchilla(tokens, tables.parameters["main"])))
