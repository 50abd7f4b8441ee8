"""What came out, in sentences made from the numbers: the title of each figure and the first lines of its notebook.

No sentence says more than its table: "rises" and "falls" (of what training changes), "is higher" and "is lower" (of
two recipes) mean that a 95% interval lies on one side of 0, by itself, whatever the number of comparisons.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import pandas as pd
from IPython.display import HTML

from excursions.findings.checks import ENOUGH_SEEDS
from excursions.findings.curves import FROM_0_TO_1, multiples
from excursions.findings.plotting import LOOKS

NOWHERE = "no checkpoint has been measured with all that would be compared"


def answer(sentences: Sequence[str]) -> HTML:
    """The sentences as the first thing a reader of a notebook sees."""
    first, *others = (html.escape(sentence) for sentence in sentences)
    return HTML(f"<p class='answer'><b>{first}</b> {' '.join(others)}</p>")


def moved(changes: pd.DataFrame) -> str:
    """At how many checkpoints what training changes is up, at how many down."""
    return _counted(changes, "rises", "falls", "changes")


def compared(differences: pd.DataFrame) -> str:
    """At how many checkpoints one recipe is above another, at how many below."""
    return _counted(differences, "is higher", "is lower", "differs")


def _counted(changes: pd.DataFrame, up: str, down: str, either: str) -> str:
    n = len(changes)
    if n == 0:
        return "is not measured"
    counts = {up: (changes["ci_low"] > 0).sum(), down: (changes["ci_high"] < 0).sum()}
    said = [f"{verb} at {count}" for verb, count in counts.items() if count]
    of_n = f" of {n} checkpoint{'s' * (n > 1)}"
    return f"{' and '.join(said)}{of_n}" if said else f"{either} measurably at none{of_n}"


def span(changes: pd.DataFrame) -> str:
    """The smallest and the largest change."""
    if not len(changes):
        return "no points"
    return f"{changes['estimate'].min():+z.1f} to {changes['estimate'].max():+z.1f} points"


def pick(changes: pd.DataFrame, recipe: str, other: str, k: int, role: str = "easy") -> pd.DataFrame:
    """The rows of `curves.gains` for one comparison."""
    chosen = (changes["recipe"] == recipe) & (changes["other"] == other) & (changes["k"] == k)
    return settled(changes[chosen & (changes["role"] == role)]).sort_values("tokens")


def settled(rows: pd.DataFrame) -> pd.DataFrame:
    """Those rows that are of enough seeds to count; where none are, all."""
    enough = rows[rows["n_seeds"] >= ENOUGH_SEEDS]
    return enough if len(enough) else rows


def shared(points: pd.DataFrame, column: str) -> tuple[pd.DataFrame, str]:
    """The rows of the checkpoints at which every value of a column is measured, with enough seeds if there are such, so
    that their means compare; and which checkpoints these are, in words."""
    tokens = points.groupby("checkpoint", observed=True)["tokens"].first().sort_values()
    names: list[str] = []
    for rows in (points[points["n_seeds"] >= ENOUGH_SEEDS], points):
        there = rows.groupby("checkpoint", observed=True)[column].nunique()
        names = names or [name for name in tokens.index if there.get(name, 0) == points[column].nunique()]
    kept = points[points["checkpoint"].isin(names)]
    at = ", ".join(multiples(kept).values())
    where = f"mean over {at}" if len(names) < len(tokens) else "mean over checkpoints"
    return kept, f"at {at}" if len(names) == 1 else where


def onset(changes: pd.DataFrame) -> str:
    """The checkpoint from which on every change is up."""
    rising = (changes["ci_low"] > 0)[::-1].cummin()[::-1]
    if not rising.any():
        return "at no checkpoint is there a lasting gain"
    return f"from {changes[rising]['chinchilla'].iloc[0]:.1f}× Chinchilla-optimal on every checkpoint gains"


def checkpoints(points: pd.DataFrame, general: pd.DataFrame) -> list[str]:
    """What pretraining alone brings."""
    said = []
    for role in ("easy", "hard"):
        for k in (1, 32):
            base = points[(points["recipe"] == "base") & (points["role"] == role) & (points["k"] == k)]
            said += [f"{role} pass@{k} {_ends(base)}"] if len(base) else []
    average = general[(general["benchmark"] == "average") & (general["recipe"] == "base")]
    start = (
        f"Pretraining from {points['chinchilla'].min():.1f}× to {points['chinchilla'].max():.1f}× Chinchilla-optimal"
    )
    first = f"{start}, few-shot base: {', '.join(said) or 'nothing measured'}."
    return [first, f"The general benchmarks go, on average, {_ends(average)}." if len(average) else ""]


def _ends(points: pd.DataFrame) -> str:
    points = points[points["seed"].isna()] if "seed" in points.columns else points
    points = points.sort_values("tokens")["estimate"]
    return f"from {points.iloc[0]:.1f} to {points.iloc[-1]:.1f}%"


def early_rl(changes: pd.DataFrame) -> list[str]:
    """Result 1."""
    easy, many, hard = (pick(changes, "rl", "base", k, role) for k, role in ((1, "easy"), (32, "easy"), (1, "hard")))
    first = f"Direct RL against its few-shot base, easy problems: pass@1 {moved(easy)}, pass@32 {moved(many)}."
    return [first, f"In pass@1 {onset(easy)} ({span(easy)}); on hard problems it {moved(hard)} ({span(hard)})."]


def scarce_demonstrations(changes: pd.DataFrame) -> list[str]:
    """Result 2."""
    one, one32, gold, gold32 = (pick(changes, "rl", other, k) for other in ("sft", "sft_gold") for k in (1, 32))
    return [
        f"Direct RL against SFT on one solution: pass@1 {compared(one)}, pass@32 {compared(one32)}.",
        f"Against SFT on all solutions its pass@1 {compared(gold)} ({span(gold)}) and its pass@32 {compared(gold32)} "
        f"({span(gold32)}).",
    ]


def suite(points: pd.DataFrame, changes: pd.DataFrame) -> list[str]:
    """Any suite."""
    name, rl = points["suite"].iloc[0], pick(changes, "rl", "base", 1)
    first = f"Suite {name}: direct RL against its few-shot base, easy problems: pass@1 {moved(rl)}."
    return [first, f"On hard problems it {moved(pick(changes, 'rl', 'base', 1, 'hard'))}."]


def sharpening_or_expansion(changes: pd.DataFrame) -> list[str]:
    """Result 3."""
    rl, rl32, after, after32 = (
        pick(changes, *arms, k) for arms in (("rl", "base"), ("sft_rl", "sft")) for k in (1, 32)
    )
    return [
        f"Pass@32, easy problems: direct RL against few-shot base {moved(rl32)}; RL after SFT against SFT "
        f"{moved(after32)}.",
        f"Pass@1 under direct RL {moved(rl)} ({span(rl)}), under RL after SFT it {moved(after)} ({span(after)}).",
    ]


def general_capabilities(changes: pd.DataFrame) -> list[str]:
    """Result 4."""
    average = changes[changes["benchmark"] == "average"]
    everywhere, where = shared(average, "recipe")
    means = everywhere.groupby("recipe", sort=False)["estimate"].mean()
    said = ", ".join(f"{_name(recipe)} {value:+z.1f}" for recipe, value in means.items())
    each = "; ".join(
        f"{_name(recipe)} {moved(settled(rows))}" for recipe, rows in average.groupby("recipe", sort=False)
    )
    first = f"Accuracy minus base, in points, {where}: {said}." if said else f"Accuracy minus base: {NOWHERE}."
    return [first, f"By recipe: {each}."]


def parallel_averaging(changes: pd.DataFrame, general: pd.DataFrame) -> list[str]:
    """Result 5."""
    one, many = (pick(changes, "parallel", "rl", k) for k in (1, 32))
    others = "; ".join(
        f"against {_name(other)} pass@1 {compared(pick(changes, 'parallel', other, 1))}, "
        f"pass@32 {compared(pick(changes, 'parallel', other, 32))}"
        for other in ("sft", "sft_rl")
    )
    average = general[(general["benchmark"] == "average") & (general["recipe"] == "parallel")]
    return [
        f"Parallel averaging against direct RL: pass@1 {compared(one)}, pass@32 {compared(many)}.",
        f"{others[:1].upper()}{others[1:]}. Its accuracy on the general benchmarks {moved(settled(average))}.",
    ]


def phase_map(phases: pd.DataFrame) -> list[str]:
    """Where RL expands and where it sharpens, by checkpoint at the last step."""
    said = []
    for start, words in {
        "0-shot": "direct RL from base 0-shot",
        "few-shot": "from few-shot",
        "SFT": "RL after SFT",
    }.items():
        kinds = phase_kinds(settled(phases[phases["start"] == start]))
        last = kinds.sort_values("rl_step").groupby("checkpoint", observed=True)["kind"].last()
        counted = last.value_counts(sort=False)
        said += [f"{words}: " + ", ".join(f"{kind} at {n}" for kind, n in counted.items())] if len(last) else []
    first = f"After the last step, by checkpoints: {'; '.join(said) or 'nothing measured'}."
    return [first, "Expands: pass@1 and pass@32 rise. Sharpens: pass@1 rises, pass@32 falls. Intervals decide."]


KINDS = ("expands", "sharpens", "raises pass@1 alone", "anything else")


def phase_kinds(phases: pd.DataFrame) -> pd.DataFrame:
    """What RL has done up to each step: columns of the cell, and kind (KINDS)."""
    cell = ["start", "recipe", "checkpoint", "tokens", "chinchilla", "rl_step"]
    measured = phases[phases["measure"].isin(["pass@1", "pass@32"])]
    wide = measured.pivot(index=cell, columns="measure", values=["ci_low", "ci_high"])
    if not len(wide) or wide["ci_low"].shape[1] < 2:
        return pd.DataFrame(columns=[*cell, "kind"])
    up = wide["ci_low"]["pass@1"] > 0
    kind = pd.Series("anything else", index=wide.index)
    kind[up] = "raises pass@1 alone"
    kind[up & (wide["ci_low"]["pass@32"] > 0)] = "expands"
    kind[up & (wide["ci_high"]["pass@32"] < 0)] = "sharpens"
    return kind.rename("kind").reset_index()


def reward_gaming(points: pd.DataFrame) -> list[str]:
    """How much of what is right is not derived."""
    mean = points[points["seed"].isna()]
    if not len(mean):
        return ["No completion's steps were checked.", ""]
    end = mean[mean["is_end"] & (mean["recipe"] == "rl")]
    wide = end.pivot(index=["tokens", "chinchilla"], columns="measure", values="estimate")
    share = (100 * wide["gap"] / wide["correct"]).dropna().reset_index(name="share") if len(wide) else wide
    said = ", ".join(f"{row.share:.0f}% at {row.chinchilla:.2g}×" for row in share.itertuples())
    return [
        f"Of what direct RL gets right, not derived: {said or 'not measured'}.",
        "The share of all completions of direct RL that are right without a derivation "
        f"{moved(end[end['measure'] == 'change'])}.",
    ]


def still_rising(gains: pd.DataFrame) -> str:
    """What the last quarter of training still adds, by recipe."""
    said = "; ".join(
        f"under {_name(recipe)} it {moved(settled(rows))} ({span(settled(rows))})"
        for recipe, rows in gains.groupby("recipe", sort=False, observed=True)
    )
    return f"Pass@1 on easy problems in the last quarter of training: {said or 'not measured'}."


def combination(points: pd.DataFrame) -> list[str]:
    """From which to which value each measure goes with the weight."""
    mean, where = shared(points[points["seed"].isna()], "value")
    said = []
    for (role, k), words in {
        ("easy", 1): "pass@1",
        ("easy", 32): "pass@32",
        ("general", 0): "the general average minus base",
    }.items():
        rows = mean[(mean["role"] == role) & (mean["k"] == k)].groupby("value")["estimate"].mean()
        if len(rows) > 1:
            least, most = (
                f"{'a weight from 0 to 1' if at == FROM_0_TO_1 else f'{at:g}'} ({rows[at]:.1f})"
                for at in (rows.idxmin(), rows.idxmax())
            )
            said.append(f"{words} is lowest at {least}, highest at {most}")
    return [
        f"By the weight of RL, easy problems, {where}: {'; '.join(said)}."
        if said
        else "Several weights of RL have not been measured.",
        "Weight 0 is SFT alone, 1 is RL alone. No claim weighs these differences; the tables have their intervals.",
    ]


def ablations(rollouts: pd.DataFrame, varied: Mapping[str, pd.DataFrame]) -> list[str]:
    """What each value of each setting gives, in pass@1: of rollouts, and of the others."""
    said, others = [], []
    means = rollouts[rollouts["seed"].isna()]
    for role, rows in means.groupby("role", sort=False):
        reach = rows.groupby("rollouts")["questions"].max().min()
        at = rows[rows["questions"] == reach].sort_values("rollouts")
        if len(at) > 1:
            each = ", ".join(f"{row.rollouts:.0f} give {row.estimate:.1f}" for row in at.itertuples())
            said.append(f"rollouts, {role} problems, after {reach:,.0f} questions: {each}")
    for name, points in varied.items():
        rows = points[points["seed"].isna() & (points["role"] == "easy") & (points["k"] == 1)]
        rows, where = shared(rows, "value")
        rows = rows.groupby("value")["estimate"].mean()
        if len(rows) > 1:  # one value is no comparison
            each = ", ".join(f"{value:g} gives {mean:.1f}" for value, mean in rows.items())
            others.append(f"{name}, easy problems, {where}: {each}")
    told = [f"Pass@1 in %: {'; '.join(parts)}." for parts in (said, others) if parts]
    first, second = [*told, "", ""][:2]
    return [first or "No setting has been measured at several values.", second]


def _name(recipe: str) -> str:
    return LOOKS[recipe].label.split(" (")[0]
