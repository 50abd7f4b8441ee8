"""The same checks on the paper's numbers: contrasts of `reference`, each point an independent draw of questions.

The paper prints neither intervals nor seeds. Intervals here hold the draw of the questions and the error of reading
the figure, nothing of the variation between training runs, so their verdicts are about the paper's runs only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pandas as pd

from excursions.findings import checks, reference
from excursions.findings.checks import Check, Contrast, NotMeasurable
from excursions.findings.statistics import Estimate

RUNS = 1  # a point of the paper is one run, or the best of several


def contrasts(check: Check) -> list[Contrast]:
    """The contrasts of a check on the paper's curves, at the paper's checkpoints.

    Raises NotMeasurable when the paper does not publish a recipe.
    """
    found = []
    for formula in check.contrasts:
        k, signs = checks.parse(formula)
        if any(suite != "main" for suite, _ in signs):
            raise NotMeasurable("the paper publishes no such numbers")
        by_recipe = {recipe: sign for (_, recipe), sign in signs.items()}
        found += _over(check, formula, _curves(check, k), "recipe", by_recipe)
    return found


def seed_spread(check: Check) -> list[Contrast]:
    """Favorable minus unfavorable seed, as the authors named them, at the last step that both have."""
    if check.span == "beyond":
        raise NotMeasurable("the paper shows single seeds at 4B and 10B tokens alone, and calls both sensitive")
    tokens_b = 4
    table = reference.seeds()
    table = table[(table["tokens_b"] == tokens_b) & (table["metric"] == "pass@1")]
    steps = table.groupby("rl_step")["seed_kind"].nunique()
    last = steps[steps == 2].index.max()
    at = table[table["rl_step"] == last].set_index("seed_kind")
    note = f"at {tokens_b}B tokens, RL step {last}; the text calls 4B to about 10B sensitive"
    found = {f"{tokens_b}B": _sum({"favorable": 1, "unfavorable": -1}, at)}
    return _contrasts(check, "pass@1 of the favorable - the unfavorable seed", found, note)


def suites(check: Check) -> list[Contrast]:
    """The difference of RL's gains on MATH at the most tokens both set-ups have."""
    gains = reference.hard_gains()
    gains = gains[(gains["k"] == 1) & gains["suite"].isin(["math_heavy", "larger"])]
    both = gains.groupby("tokens_b")["suite"].nunique()
    last = both[both == 2].index.max()
    at = gains[gains["tokens_b"] == last].set_index("suite")
    return _contrasts(check, "", {f"{last}B": _sum({"math_heavy": 1, "larger": -1}, at)}, f"at {last}B tokens")


def rollouts(axis: str, one: int, other: int) -> Callable[[Check], list[Contrast]]:
    """A measure of `one` minus `other` rollouts on the hard training split, at the last value of the axis that both
    reach: samples_seen (questions) or flops_axis_value (sampled answers)."""

    def measure(check: Check) -> list[Contrast]:
        found, note = _at_equal("hard", axis, one, other)
        return _contrasts(check, check.contrasts[0], {"": found}, note)

    return measure


def rollouts_on_hard(check: Check) -> list[Contrast]:
    """What 64 rollouts bring over 5 on the hard training split, minus the same on the easy one."""
    hard, easy = (_at_equal(split, "samples_seen", 64, 5) for split in ("hard", "easy"))
    found = Estimate(hard[0].mean - easy[0].mean, 0, hard[0].variance + easy[0].variance)
    return _contrasts(check, check.contrasts[0], {"": found}, f"{hard[1]}; {easy[1]}")


def shots(check: Check) -> list[Contrast]:
    """Base with 8 examples minus base with none."""
    table = _of_gsm8k(reference.raw("shots"), "8 examples")
    return _over(check, "pass@1 of base with 8 examples - none", table, "n_shots", {8: 1, 0: -1})


def epochs(check: Check) -> list[Contrast]:
    """SFT of 10 epochs minus 5, of February, on several solutions per question."""
    table = _of_gsm8k(reference.raw("curves"), "SFT on several solutions per question")
    table = table.assign(epochs=table["figure"].map({"gsm8k_sft_5epoch_2026-02": 5, reference.FEBRUARY: 10}))
    table = table[table["recipe"] == "sft"]
    return _over(check, "pass@1 of sft after 10 epochs - 5", table, "epochs", {10: 1, 5: -1})


def unpublished(why: str) -> Callable[[Check], list[Contrast]]:
    """A measure for what the paper's figures do not show."""

    def refuse(check: Check) -> list[Contrast]:
        raise NotMeasurable(why)

    return refuse


def _curves(check: Check, k: int | None) -> pd.DataFrame:
    if k is None:
        curves = reference.general().assign(note="")
        return curves[curves["benchmark"] == ("average5" if "parallel" in check.contrasts[0] else "average")]
    curves = reference.pass_at_k()
    return curves[(curves["role"] == check.benchmark) & (curves["k"] == k)]


def _over(check: Check, formula: str, table: pd.DataFrame, column: str, signs: Mapping) -> list[Contrast]:
    """A contrast of the values `signs` of a column, over the checkpoints of the check's span that have all of them."""
    axis = table.groupby("checkpoint")["chinchilla"].first().sort_values()
    points, left_out, notes = {}, {}, set()
    for name in checks.choose(check.span, list(axis.index), list(axis)):
        at = table[(table["checkpoint"] == name) & table[column].isin(list(signs))].set_index(column)
        if len(at) < len(signs):
            continue
        levels = at["estimate"].to_dict()
        why = None if check.benchmark == "general" else checks.undetectable(levels, 0.0, check.level)
        if why:
            left_out[name] = why
        else:
            points[name] = _sum(signs, at)
            notes |= {*at["note"]} - {""}
    if not points and not left_out:
        raise NotMeasurable(f"the paper publishes no checkpoint with all of {', '.join(map(str, signs))}")
    note = "; ".join([checks.kept(list(points), left_out), *sorted(notes)])
    return _contrasts(check, formula, points, note)


def _of_gsm8k(table: pd.DataFrame, note: str) -> pd.DataFrame:
    """Raw rows of pass@1 with the columns that `reference.pass_at_k` has."""
    return reference.finish(table[table["metric"] == "pass@1"]).assign(note=note)


def _at_equal(split: str, axis: str, one: int, other: int) -> tuple[Estimate, str]:
    """pass@1 with `one` minus `other` rollouts, at the last value of the axis that both reach (nearest evaluations)."""
    table = reference.raw("rollouts")  # the figure does not say of which checkpoint
    table = _of_gsm8k(table[table["split"] == split], "")
    reach = table.groupby("n_rollouts")[axis].max().min()
    at = table.assign(away=(table[axis] - reach).abs()).sort_values("away").groupby("n_rollouts").first()
    note = f"{split} training split, at {at.loc[one, axis]:,} and {at.loc[other, axis]:,} "
    return _sum({one: 1, other: -1}, at), note + ("questions seen" if axis == "samples_seen" else "sampled answers")


def _sum(signs: Mapping, at: pd.DataFrame) -> Estimate:
    """The signed sum of rows (estimate, half_width in percent; one for each key of signs) as an estimate in 0 to 1."""
    rows = at.loc[list(signs)]
    variance = ((rows["half_width"] / 100 / reference.NORMAL_95) ** 2).sum()
    return Estimate(float((rows["estimate"] * pd.Series(signs)).sum() / 100), 0.0, float(variance))


def _contrasts(check: Check, formula: str, points: dict[str, Estimate], note: str) -> list[Contrast]:
    """One contrast on the mean over the points, or with `each` one for each of them."""
    if check.each:
        named = {name: f"{formula} at {name}" for name in points}
        return [checks.contrast(check, named[name], one, {name: one}, RUNS, note) for name, one in points.items()]
    count = len(points)
    mean = sum(one.mean for one in points.values()) / count
    whole = Estimate(mean, 0.0, sum(one.questions for one in points.values()) / count**2)
    return [checks.contrast(check, formula or check.contrasts[0], whole, points, RUNS, note)]
