"""Measures a model: how many of n samples solve each question, and accuracy on the general benchmarks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from transformers import PreTrainedTokenizerBase

from excursions.data import public as hub
from excursions.data.nano import corpus
from excursions.data.questions import Question, QuestionSet, build_prompt
from excursions.evaluation import general
from excursions.models.processes import Processes
from excursions.params import Evaluate, Questions, Scale
from excursions.rollout.rewards import grade_completions
from excursions.rollout.sampler import Sampler, sample_seed


def measure_outcomes(
    engine: Sampler,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[Question],
    examples: Sequence[Question],
    questions: Questions,
    params: Evaluate,
    processes: Processes | None = None,
) -> tuple[pd.DataFrame, list[dict]]:
    """n samples per question, graded. Several processes share the questions, and each gets the whole result.

    examples: shown before each question; of examples that belong to several benchmarks, those of its own.
    Returns a table with one row per question (`benchmark, question_id, n, correct`), and the completions of the first
    `kept_questions` questions of each benchmark. The seed of a sample depends on the question and on its number alone:
    all models are asked with the same random numbers, which makes comparisons between them paired.
    """
    kept_ids, seen = set(), dict.fromkeys({q.benchmark for q in asked}, 0)
    for q in asked:
        seen[q.benchmark] += 1
        if seen[q.benchmark] <= params.kept_questions:
            kept_ids.add(q.id)
    own = processes.share(asked) if processes else asked
    prompts = [build_prompt(q.text, examples_for(q, examples), questions) for q in own]
    prompt_ids = tokenizer(prompts, add_special_tokens=False).input_ids if prompts else []
    seeds_pg = [[sample_seed(params.seed, 0, q.id, i) for i in range(params.samples)] for q in own]
    found = engine.generate(prompt_ids, seeds_pg, max_new_tokens=params.max_new_tokens, temperature=params.temperature)
    texts, grades = grade_completions(tokenizer, found, [q.answer for q in own], questions)
    measured = []
    for q, prompt, completions, text_g, grade_g in zip(own, prompts, found, texts, grades, strict=True):
        row = {"benchmark": q.benchmark, "question_id": q.id, "n": len(grade_g), "correct": sum(grade_g)}
        about = {"benchmark": q.benchmark, "question_id": q.id, "prompt": prompt, "gold": q.answer}
        kept = [
            about | {"completion": text, "correct": correct, "stop_reason": completion.stop_reason}
            for text, correct, completion in zip(text_g, grade_g, completions, strict=True)
        ]
        measured.append((row, kept if q.id in kept_ids else []))
    measured = processes.join(measured) if processes else measured
    return pd.DataFrame([row for row, _ in measured]), [sample for _, kept in measured for sample in kept]


def examples_for(question: Question, examples: Sequence[Question]) -> list[Question]:
    """Those of its own benchmark, if there are any; else all."""
    return [e for e in examples if e.benchmark == question.benchmark] or list(examples)


def measure_general(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    scale: Scale,
    processes: Processes | None = None,
) -> pd.DataFrame:
    """Accuracy counts `benchmark, n, correct` on the six general benchmarks, which several processes share."""
    source = general_source(scale)
    if processes is None:
        return pd.DataFrame(general.evaluate_general(model, tokenizer, source))
    own = replace(source, tasks=dict(processes.share(source.tasks.items())))
    rows = general.evaluate_general(model, tokenizer, own) if own.tasks else []
    return pd.DataFrame(processes.join(rows))


def general_source(scale: Scale) -> general.Source:
    """Where the scale's general benchmarks come from. Raises UserError for local copies that cannot be scored."""
    if scale.questions.source == "nano":
        return general.nano_source(scale.questions.seed, scale.evaluate.general, scale.evaluate.seed)
    return general.hub_source(scale.evaluate.general, Path(scale.hub.general) if scale.hub.general else None)


def model_digest(model: torch.nn.Module) -> str:
    """sha256 over all weights: two models with the same digest give the same measurements."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def asked_questions(scale: Scale, split: str, per_benchmark: int) -> list[Question]:
    """The first questions of each benchmark of a split."""
    pool = getattr(load_questions(scale), split)
    names = (scale.questions.easy, scale.questions.hard)
    return [q for name in names for q in [q for q in pool if q.benchmark == name][:per_benchmark]]


def load_questions(scale: Scale) -> QuestionSet:
    """The scale's questions: made here (nano), or public data."""
    return corpus.question_set(scale.questions) if scale.questions.source == "nano" else hub.load_question_set(scale)


def few_shot_examples(scale: Scale, shots: int) -> tuple[Question, ...]:
    """The first `shots` worked examples of each benchmark that has any."""
    counts: dict[str, int] = {}
    found = []
    for example in load_questions(scale).examples:
        counts[example.benchmark] = counts.get(example.benchmark, 0) + 1
        if counts[example.benchmark] <= shots:
            found.append(example)
    return tuple(found)


def questions_digest(scale: Scale) -> str:
    """sha256 over all questions with their answers and solutions."""
    everything = [q for rows in vars(load_questions(scale)).values() for q in rows]
    text = "\n".join("\t".join([q.id, q.text, q.answer, *q.solutions]) for q in everything)
    return hashlib.sha256(text.encode()).hexdigest()
