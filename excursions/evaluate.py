"""Measures a model: how many of n samples solve each question, and accuracy on the general benchmarks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pandas as pd
import torch
from transformers import PreTrainedTokenizerBase

from excursions import general, grade
from excursions.nano import corpus
from excursions.params import Evaluate, Questions, Scale, UserError
from excursions.questions import Question, QuestionSet, build_prompt, cut_completion
from excursions.rollout.sampler import Sampler, sample_seed


def measure_outcomes(
    engine: Sampler,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[Question],
    examples: Sequence[Question],
    questions: Questions,
    params: Evaluate,
) -> tuple[pd.DataFrame, list[dict]]:
    """n samples per question, graded.

    Returns a table with one row per question (`benchmark, question_id, n, correct`), and the completions of the first
    `kept_questions` questions of each benchmark. The seed of a sample depends on the question and on its number alone:
    all models are asked with the same random numbers, which makes comparisons between them paired.
    """
    prompts = [build_prompt(q.text, examples, questions) for q in asked]
    prompt_ids = tokenizer(prompts, add_special_tokens=False).input_ids
    seeds_pg = [[sample_seed(params.seed, 0, q.id, i) for i in range(params.samples)] for q in asked]
    found = engine.generate(prompt_ids, seeds_pg, max_new_tokens=params.max_new_tokens, temperature=params.temperature)
    texts, grades = grade_completions(tokenizer, found, [q.answer for q in asked], questions)
    rows, kept, seen = [], [], dict.fromkeys({q.benchmark for q in asked}, 0)
    for q, prompt, completions, text_g, grade_g in zip(asked, prompts, found, texts, grades, strict=True):
        rows.append({"benchmark": q.benchmark, "question_id": q.id, "n": len(grade_g), "correct": sum(grade_g)})
        seen[q.benchmark] += 1
        if seen[q.benchmark] <= params.kept_questions:
            for text, correct, completion in zip(text_g, grade_g, completions, strict=True):
                about = {"benchmark": q.benchmark, "question_id": q.id, "prompt": prompt, "gold": q.answer}
                graded = {"completion": text, "correct": correct, "stop_reason": completion.stop_reason}
                kept.append(about | graded)
    return pd.DataFrame(rows), kept


def grade_completions(
    tokenizer: PreTrainedTokenizerBase, found: list[list], golds: Sequence[str], questions: Questions
) -> tuple[list[list[str]], list[list[bool]]]:
    """Texts and grades (prompt, group) of completions; a completion without a marked final answer is wrong."""
    flat = [completion.token_ids for group in found for completion in group]
    texts = [cut_completion(t, questions) for t in tokenizer.batch_decode(flat, skip_special_tokens=True)]
    flat_golds = [gold for gold, group in zip(golds, found, strict=True) for _ in group]
    grades = grade.grade_batch(texts, flat_golds, marked_only=True)
    texts_pg, grades_pg, at = [], [], 0
    for group in found:
        texts_pg.append(texts[at : at + len(group)])
        grades_pg.append(grades[at : at + len(group)])
        at += len(group)
    return texts_pg, grades_pg


def measure_general(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, scale: Scale) -> pd.DataFrame:
    """Accuracy counts `benchmark, n, correct` on the six general benchmarks."""
    if scale.questions.source == "nano":
        source = general.nano_source(scale.questions.seed, scale.evaluate.general, scale.evaluate.seed)
    else:
        source = general.hub_source(scale.evaluate.general)
    return pd.DataFrame(general.evaluate_general(model, tokenizer, source))


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
    """The scale's questions. Raises UserError for a source that this version does not have."""
    if scale.questions.source != "nano":
        raise UserError(
            f"questions.source is '{scale.questions.source}', whose loaders are not part of this version; "
            f"accepted: nano. See docs/paper-scale.md."
        )
    return corpus.question_set(scale.questions)


def questions_digest(scale: Scale) -> str:
    """sha256 over all questions with their answers and solutions."""
    everything = [q for rows in vars(load_questions(scale)).values() for q in rows]
    text = "\n".join("\t".join([q.id, q.text, q.answer, *q.solutions]) for q in everything)
    return hashlib.sha256(text.encode()).hexdigest()
