"""What the notebooks that are run by hand show: a curve that grows, lists to choose from, and single runs.

A choice is a plain parameter of its notebook as well, so that the command line shows the same without widgets.
"""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd
from IPython.display import HTML, Image, display
from matplotlib.figure import Figure

from excursions import params, recipes
from excursions.findings import estimates, report
from excursions.findings.notebook import WIDGET
from excursions.results import tables as results


class Curve:
    """A curve in a notebook's output that is drawn anew with each of its points."""

    def __init__(self, label: str, steps: int) -> None:
        """steps: how many there may be, the width of the axis."""
        self.figure = Figure(figsize=(7, 2.6), layout="tight")
        self.axes = self.figure.add_subplot(xlim=(0, steps), xlabel="step", ylabel=label)
        (self.line,) = self.axes.plot([], [], "o-", color=recipes.RECIPES["rl"].color, markersize=3)
        self.label = label
        self.points: list[tuple[int, float]] = []
        self.shown = display(_picture(self.figure, label), display_id=True)

    def add(self, step: int, value: float) -> None:
        """One point more."""
        self.points.append((step, value))
        self.line.set_data(*zip(*self.points, strict=True))
        self.axes.relim()
        self.axes.autoscale_view(scalex=False)
        self.shown.update(_picture(self.figure, self.label))


def choose(
    show: Callable[..., object], options: Mapping[str, Sequence], chosen: Mapping[str, object], **fixed: object
) -> None:
    """Shows show(**chosen, **fixed) under a list for each of `options`; another choice there replaces what is shown.

    Raises UserError for a value of `chosen` that is not among its options.
    """
    from ipywidgets import Dropdown, HBox, Layout

    for name, values in options.items():
        params.one_of(str(chosen[name]), [str(value) for value in values], name)
    lists = {
        name: Dropdown(description=name, options=list(values), value=chosen[name], layout=Layout(width="auto"))
        for name, values in options.items()
    }
    display(HBox(list(lists.values()), layout=Layout(flex_flow="row wrap")), include=[WIDGET])
    shown = display(show(**chosen, **fixed), display_id=True)

    def change(_: object) -> None:
        try:
            shown.update(show(**fixed, **{name: made.value for name, made in lists.items()}))
        except params.UserError as error:  # not every checkpoint has every recipe
            shown.update(HTML(f"<p>{html.escape(str(error))}</p>"))

    for made in lists.values():
        made.observe(change, "value")


def answers(kept: Sequence[dict], caption: str) -> HTML:
    """Kept completions of one question, each once with how often it was written."""
    rows = pd.DataFrame(kept)
    keys = [name for name in ("step", "correct", "valid", "completion") if name in rows]
    shown = rows.groupby(keys, dropna=False).size().rename("times").reset_index()
    head = html.escape(f"{kept[-1]['prompt']} right answer: {kept[-1]['gold']}")
    shown = shown.rename(columns={"valid": "derived"})
    with pd.option_context("display.max_colwidth", None):
        return HTML(f"<p>{head}</p>{report.frame(shown, caption).data}")


def solved(root: Path | str, scale: str, suite: str, checkpoint: str, recipe: str, seed: int) -> HTML:
    """Problems solved along the training of one run, %."""
    rows = _of_run(results.load_outcomes(root, scale, suite), checkpoint, recipe, seed)
    curves = estimates.pass_at_k_table(rows, by_step=True)
    caption = f"{recipe} from {checkpoint}, seed {seed}: problems solved, % [95% interval]"
    return report.table(curves, ["step", "n_questions"], ["benchmark", "k"], caption)


def log(root: Path | str, scale: str, suite: str, checkpoint: str, recipe: str, seed: int) -> Image | HTML:
    """The training log of one run, one panel for each measurement that says how training went."""
    rows = _of_run(results.load_training(root, scale, suite), checkpoint, recipe, seed)
    names = ["reward", "frac_reward_zero_std", "completions/mean_length", "entropy", "loss", "grad_norm"]
    shown = [name for name in names if rows[name].notna().any()]
    if not shown:
        return HTML(f"<p>{recipe} has no log: it does not train.</p>")
    figure = Figure(figsize=(8, 1.3 * len(shown)), layout="tight")
    panels = figure.subplots(len(shown), sharex=True, squeeze=False)[:, 0]
    for axes, name in zip(panels, shown, strict=True):
        axes.plot(rows["step"], rows[name])
        axes.set_ylabel(name.rpartition("/")[2], rotation=0, ha="right")
        axes.grid(alpha=0.4)
    panels[-1].set_xlabel("step")
    return _picture(figure, f"training log of {recipe} from {checkpoint}")


def written(root: Path | str, scale: str, suite: str, checkpoint: str, recipe: str, seed: int, question: str) -> HTML:
    """What one run wrote to a question, at each step of which completions are kept."""
    kept = results.load_samples(results.run_folder(root, scale, suite, checkpoint, recipe, seed))
    params.one_of(question, list(dict.fromkeys(row["question_id"] for row in kept)), "kept question")
    of_it = [row for row in kept if row["question_id"] == question]
    return answers(of_it, f"{recipe} from {checkpoint}, seed {seed}, {question}")


def duel(
    root: Path | str, scale: str, suite: str, checkpoint: str, recipe: str, other: str, seed: int, benchmark: str,
    most: int = 12,
) -> HTML:  # fmt: skip
    """Two recipes question by question: how many the first won, lost and tied in correct samples, and the widest."""
    last = estimates.last_step(results.load_outcomes(root, scale, suite))
    last = last[last["benchmark"] == benchmark]
    counts = [
        _of_run(last, checkpoint, name, seed).set_index("question_id")["correct"].astype(int).rename(name)
        for name in dict.fromkeys((recipe, other))
    ]
    both = pd.concat(counts, axis=1, join="inner").reindex(columns=[recipe, other])
    gap = both.iloc[:, 0] - both.iloc[:, 1]
    told = f"{recipe} against {other} from {checkpoint}, {benchmark}: {(gap > 0).sum()} questions won, "
    told += f"{(gap < 0).sum()} lost, {(gap == 0).sum()} tied in correct samples; those furthest apart"
    order = gap.abs().sort_values(ascending=False, kind="stable").index[:most]
    return report.frame(both.loc[order], told)


def _of_run(rows: pd.DataFrame, checkpoint: str, recipe: str, seed: int) -> pd.DataFrame:
    """The rows of one run of a suite. Raises UserError if it is not there."""
    for name, value in {"checkpoint": checkpoint, "recipe": recipe, "seed": seed}.items():
        params.one_of(str(value), [str(found) for found in rows[name].unique()], f"{name} among these results")
        rows = rows[rows[name] == value]
    return rows


def _picture(figure: Figure, alt: str) -> Image:
    """A figure as it is now."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return Image(buffer.getvalue(), alt=alt)
