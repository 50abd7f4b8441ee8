"""Any model by the paper's protocol: a benchmark, k worked examples, n samples a question, pass@k with intervals.

What was asked, written and graded can be kept as JSON lines: the first says how the model was asked, each other one is
a completion. Two such files of the same protocol are compared in pairs, question by question.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from excursions.data.loading import digest, load_questions
from excursions.data.public import load_benchmark
from excursions.data.questions import Question
from excursions.data.source import open_source
from excursions.evaluation.outcomes import Exam, measure_outcomes
from excursions.files import whole_file
from excursions.findings.statistics import Interval, difference_interval, mean_interval, pass_at_k
from excursions.grading.grade import extract_answer
from excursions.models.processes import Processes
from excursions.params import Evaluate, Scale, UserError, one_of
from excursions.progress import Progress
from excursions.rollout.sampler import Sampler

KS = (1, 8, 32)
PART = 16  # questions asked at a time, between two signs of progress
PROMPT_KEYS = ("prompt", "separator", "stop", "style")  # of the block `questions`: how a prompt is written
ASKED = ("benchmark", "questions", "shots", "samples", "temperature", "max_new_tokens", "seed", "prompts", "sha256")


def protocol_exam(scale: Scale, benchmark: str, shots: int, questions: int | None, params: Evaluate) -> Exam:
    """The first questions (None: all) of a benchmark's test set after `shots` of its worked examples.

    Of public data nothing but this benchmark is read. Raises UserError for an unknown benchmark, and for more examples
    or questions than there are.
    """
    names = [name for name in (scale.questions.easy, scale.questions.hard) if name]
    one_of(benchmark, names, "benchmark (questions.easy and questions.hard of params.yaml)")
    source = open_source(scale)
    if source.made_here:
        everything = load_questions(scale)
        pools: tuple[Iterable[Question], ...] = (everything.test, everything.examples)
        tests, examples = ([q for q in pool if q.benchmark == benchmark] for pool in pools)
        examples = examples or list(everything.examples)
    else:
        tests, examples = load_benchmark(scale, benchmark)
    for found, pool, what in ((shots, examples, "--shots"), (questions or 1, tests, "--questions")):
        if not 0 <= found <= len(pool):
            raise UserError(f"{what} is {found}; accepted: up to {len(pool)}, as many as {benchmark} has.")
    asked = tuple(tests[:questions])
    keep_all = replace(params, kept_samples=params.samples)
    ids = frozenset(q.id for q in asked)
    return Exam(asked, tuple(examples[:shots]), scale.questions, keep_all, ids, source.check_steps())


def measure(
    exam: Exam, model: str, engine: Sampler, tokenizer: PreTrainedTokenizerBase, processes: Processes,
    keep: Path | None = None,
) -> dict:  # fmt: skip
    """Asks a model, and returns how it was asked and what was found (see `summary`). model: what to call it.

    keep: a file for all prompts, completions and grades, as JSON lines.
    """
    params = exam.evaluate
    about = {
        "model": model,
        "benchmark": exam.asked[0].benchmark,
        "questions": len(exam.asked),
        "shots": len(exam.examples),
        "samples": params.samples,
        "temperature": params.temperature,
        "max_new_tokens": params.max_new_tokens,
        "seed": params.seed,
        "prompts": {key: value for key, value in asdict(exam.questions).items() if key in PROMPT_KEYS},
        "sha256": digest([*exam.asked, *exam.examples]),
    }
    samples: list[dict] = []
    parts = exam.parts(PART)
    with ExitStack() as stack:
        if keep is not None and processes.is_main:  # opened first: what cannot be written is told before the work
            kept = stack.enter_context(stack.enter_context(whole_file(keep)).open("w", encoding="utf-8"))
            kept.write(json.dumps(about) + "\n")
        title = f"{model} on {about['benchmark']}"
        progress = stack.enter_context(Progress(title, len(parts), quiet=not processes.is_main, say=_say))
        for part in parts:
            rows = measure_outcomes(part, engine, tokenizer, processes)[1]
            samples += rows
            if keep is not None and processes.is_main:
                kept.writelines(json.dumps(row) + "\n" for row in rows)
            progress.step()
    return about | summary(samples)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # standard output is for the result


def summary(samples: list[dict]) -> dict:
    """pass@k with 95% intervals, in percent, how completions ended, and how many of them mark no final answer."""
    return {
        **shares(*_counts(samples)),
        "stop_reasons": dict(sorted(Counter(row["stop_reason"] for row in samples).items())),
        "unmarked": sum(extract_answer(row["completion"]) is None for row in samples) / len(samples),
    }


def shares(n_q: np.ndarray, correct_q: np.ndarray) -> dict[str, dict[str, float]]:
    """pass@k of the KS that there are samples for, each with its 95% interval (Wilson's), in percent."""
    ks = [k for k in KS if k <= n_q.min()]
    return {f"pass@{k}": _percent(mean_interval(pass_at_k(n_q, correct_q, k)[None])) for k in ks}


def describe(found: dict) -> list[str]:
    """What `measure` or `compare` found, as lines for a reader."""
    compared = "a" in found
    model = f"{found['a']} minus {found['b']}" if compared else found["model"]
    lines = [
        f"{model} on {found['benchmark']}: {found['questions']} questions, {found['shots']}-shot, {found['samples']} "
        f"samples each at T = {found['temperature']:g}, up to {found['max_new_tokens']} tokens"
    ]
    sign, unit = ("+", " points") if compared else ("", "%")
    for name in (f"pass@{k}" for k in KS if f"pass@{k}" in found):
        value, low, high = (f"{found[name][key]:{sign}.2f}" for key in ("estimate", "low", "high"))
        alike = " (no question differed)" if compared and low == high else ""
        lines.append(f"  {name:8}{value:>7}{unit} [{low}, {high}]{alike}")
    if compared:
        return [*lines, "95% intervals, paired: both were asked the same questions with the same random numbers"]
    ended = ", ".join(f"{reason} {count}" for reason, count in found["stop_reasons"].items())
    lines.append("95% intervals over questions by Wilson's method, which holds near 0 and 1 too")
    return [*lines, f"completions ended by: {ended}; {found['unmarked']:.0%} of them mark no final answer"]


def compare(a: Path, b: Path) -> dict:
    """The difference a - b of two kept results of one protocol, in pairs on the same questions, with 95% intervals.

    Raises UserError if the two were not asked the same.
    """
    (about_a, samples_a), (about_b, samples_b) = load_kept(a), load_kept(b)
    unlike = [f"{key} ({about_a[key]} and {about_b[key]})" for key in ASKED[:-1] if about_a[key] != about_b[key]]
    if about_a["sha256"] != about_b["sha256"]:  # ids alone are not enough: at nano scale they are numbers
        unlike.append("the texts of the questions or of the worked examples")
    ids = [list(dict.fromkeys(row["question_id"] for row in samples)) for samples in (samples_a, samples_b)]
    if unlike or ids[0] != ids[1]:
        raise UserError(
            f"{a} and {b} cannot be compared in pairs: they differ in {', '.join(unlike) or 'the questions'}; "
            "accepted: two results of one protocol."
        )
    (n_a, correct_a), (n_b, correct_b) = _counts(samples_a), _counts(samples_b)
    ks = [k for k in KS if k <= min(n_a.min(), n_b.min())]
    values = {k: (pass_at_k(n_a, correct_a, k)[None], pass_at_k(n_b, correct_b, k)[None]) for k in ks}
    return {
        "a": about_a["model"],
        "b": about_b["model"],
        **{key: about_a[key] for key in ASKED},
        **{f"pass@{k}": _percent(difference_interval(*pair)) for k, pair in values.items()},
    }


def load_kept(path: Path) -> tuple[dict, list[dict]]:
    """How a model was asked, and its completions. Raises UserError for a file that `measure` did not write."""
    try:
        about, *samples = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
        if not samples or {*ASKED, "model"} - set(about) or any(type(row["correct"]) is not bool for row in samples):
            raise ValueError("it lacks what such a file has")
        counts = Counter(row["question_id"] for row in samples)
        if len(counts) != about["questions"] or {*counts.values()} != {about["samples"]}:
            raise ValueError(
                f"it does not hold {about['samples']} completions of each of {about['questions']} questions"
            )
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path} could not be read ({error}); accepted: a file that `excursions evaluate --keep` has written."
        ) from None
    return about, samples


def _counts(samples: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """Samples and correct ones of each question, in the order of the questions."""
    by_question = pd.DataFrame(samples).groupby("question_id", sort=False).correct
    return by_question.size().to_numpy(), by_question.sum().to_numpy()


def _percent(interval: Interval) -> dict[str, float]:
    found = {"estimate": interval.estimate, "low": interval.low, "high": interval.high}
    return {name: round(100 * value, 2) for name, value in found.items()}
