"""Whether a pretrained nano suite is what the study needs: each criterion, what was required and what was found.

Everything is measured on validation questions and on the general benchmarks, before any recipe is run; the mixtures
of the benchmarks (`easy_mixture`, `hard_mixture`) were fitted to the same criteria.
"""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pandas as pd

from excursions.data.checks import guess_floor
from excursions.data.loading import load_questions
from excursions.data.source import open_source
from excursions.evaluation.outcomes import make_exam, measure_general, measure_outcomes
from excursions.findings import reference
from excursions.findings.statistics import pass_at_k
from excursions.models.model import load_model
from excursions.models.processes import Processes
from excursions.params import Scale, percent
from excursions.progress import Progress
from excursions.rollout.engines import start_engine

KS = (1, 8, 32)
GUESSES = {1: 0.3, 32: 3.0}  # percent: what drawing answers from the training answers may reach
COMMONEST = 1.0  # percent: what always saying the commonest answer may reach
NEAR = 8.0  # points: distance of the few-shot base curve from the paper's
JUMP = 20.0  # points of few-shot pass@32 between neighbouring checkpoints
FORMAT_KNOWN = 0.5  # 0-shot over few-shot pass@1, from `KNOWN_FROM` percent of pretraining on
KNOWN_FROM = 20
ABOVE_CHANCE, SATURATED, SATURATED_FROM = 15.0, 95.0, 56
CHANCE = {"lambada": 0.0, "piqa": 50.0}  # percent; 25 of the others


def criteria(scale: Scale, folder: Path) -> pd.DataFrame:
    """Measures a suite's checkpoints; columns criterion, required, found, met."""
    few, zero, general = measure_suite(scale, folder)
    rows = guess_rows(scale) + base_rows(few) + format_rows(few, zero) + general_rows(general)
    return pd.DataFrame(rows, columns=["criterion", "required", "found", "met"])


def measure_suite(scale: Scale, folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Few-shot and 0-shot outcomes on validation questions (`checkpoint, benchmark, question_id, n, correct`), and the
    items of the general benchmarks (`checkpoint, benchmark, item_id, correct`), of each checkpoint of the suite."""
    scale = replace(scale, evaluate=replace(scale.evaluate, kept_questions=0))
    number, processes, tasks = scale.questions.validation, Processes(), open_source(scale).general()
    exams = {"few": make_exam(scale, "validation", number, scale.evaluate.shots)}
    exams["zero"] = make_exam(scale, "validation", number, 0)
    found: dict[str, list[pd.DataFrame]] = {"few": [], "zero": [], "general": []}
    with Progress("criteria of the suite", len(scale.pretrain.save), unit="checkpoints") as progress:
        for name in scale.pretrain.save:
            model, tokenizer = load_model(folder / name)
            with closing(start_engine(scale.engine, model, tokenizer)) as engine:
                for how, exam in exams.items():
                    rows, _ = measure_outcomes(exam, engine, tokenizer, processes)
                    found[how].append(pd.DataFrame(rows).assign(checkpoint=name))
            found["general"].append(measure_general(model, tokenizer, tasks, processes).assign(checkpoint=name))
            progress.step()
    few, zero, general = (pd.concat(tables, ignore_index=True) for tables in found.values())
    return few, zero, general


def guess_rows(scale: Scale) -> list[tuple]:
    """What answers that ignore the question reach on the validation questions."""
    questions = load_questions(scale)
    said = [q.answer for q in questions.train]
    rows = []
    for benchmark in (scale.questions.easy, scale.questions.hard):
        wanted = [q.answer for q in questions.validation if q.benchmark == benchmark]
        for k, most in GUESSES.items():
            floor = 100 * guess_floor(said, wanted, k)
            rows.append((f"{benchmark}: pass@{k} of guessing", f"at most {most}", f"{floor:.2f}", floor <= most))
        commonest = Counter(said).most_common(1)[0][0]
        share = 100 * wanted.count(commonest) / len(wanted)
        rows.append((f"{benchmark}: the commonest answer", f"at most {COMMONEST}", f"{share:.2f}", share <= COMMONEST))
    return rows


def base_rows(few: pd.DataFrame) -> list[tuple]:
    """Few-shot base against the paper's base curve of the same role, and its largest jump."""
    paper = reference.pass_at_k().query("recipe == 'base'").set_index(["role", "k", "checkpoint"])["estimate"]
    rows = []
    for role in ("easy", "hard"):
        for k in KS:
            curve = curve_of(few, role, k)
            far = pd.Series({name: abs(value - paper[role, k, name]) for name, value in curve.items()})
            found = f"{far.max():.1f} at {far.idxmax()}"
            rows.append((f"{role}: base pass@{k} from the paper's", f"within {NEAR:g}", found, far.max() <= NEAR))
        rise = curve_of(few, role, 32).diff().iloc[1:]
        found = f"{rise.max():.1f} at {rise.idxmax()}"
        rows.append((f"{role}: largest rise of base pass@32", f"at most {JUMP:g}", found, rise.max() <= JUMP))
    return rows


def format_rows(few: pd.DataFrame, zero: pd.DataFrame) -> list[tuple]:
    """Whether the answer's form is known without worked examples."""
    rows = []
    for role in ("easy", "hard"):
        ratio = curve_of(zero, role, 1) / curve_of(few, role, 1)
        ratio = ratio[[percent(name) >= KNOWN_FROM for name in ratio.index]]
        found = f"{ratio.min():.2f} at {ratio.idxmin()}"
        rows.append(
            (f"{role}: pass@1 0-shot over few-shot", f"at least {FORMAT_KNOWN}", found, ratio.min() >= FORMAT_KNOWN)
        )
    return rows


def general_rows(general: pd.DataFrame) -> list[tuple]:
    """Whether each general benchmark rises, and neither too little nor too early."""
    rows = []
    for benchmark, part in general.groupby("benchmark", sort=False):
        accuracy = 100 * part.groupby("checkpoint", sort=False)["correct"].mean()
        early = accuracy[[percent(name) < SATURATED_FROM for name in accuracy.index]]
        above = accuracy.iloc[-1] - CHANCE.get(benchmark, 25.0)
        required = f"end {ABOVE_CHANCE:g} above chance and the start, below {SATURATED:g} before p{SATURATED_FROM}"
        found = f"{accuracy.iloc[0]:.1f} to {accuracy.iloc[-1]:.1f}, {early.max():.1f} before p{SATURATED_FROM}"
        rises = accuracy.iloc[-1] - accuracy.iloc[0] >= ABOVE_CHANCE
        rows.append((benchmark, required, found, bool(rises and above >= ABOVE_CHANCE and early.max() <= SATURATED)))
    return rows


def curve_of(outcomes: pd.DataFrame, benchmark: str, k: int) -> pd.Series:
    """Mean pass@k in percent by checkpoint, in the order of pretraining."""
    rows = outcomes[outcomes["benchmark"] == benchmark]
    values = 100 * pass_at_k(rows["n"].to_numpy(), rows["correct"].to_numpy(), k)
    return pd.Series(values, index=rows["checkpoint"]).groupby(level=0, sort=False).mean()
