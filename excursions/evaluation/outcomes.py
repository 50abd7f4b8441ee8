"""Measures a model: how many of n samples solve each question, and accuracy on the general benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import pandas as pd
import torch
from transformers import PreTrainedTokenizerBase

from excursions.data.general import GeneralTasks
from excursions.data.loading import asked_questions, digest, examples_for, few_shot_examples
from excursions.data.prompts import check_lengths, prompt_ids
from excursions.data.questions import Question, first_of_each
from excursions.data.source import open_source
from excursions.evaluation import general
from excursions.files import json_digest
from excursions.models.processes import Processes
from excursions.params import Evaluate, Questions, Scale
from excursions.rollout.rewards import grade_completions
from excursions.rollout.sampler import Sampler, sample_seed


@dataclass(frozen=True)
class Exam:
    """What a model is asked, and how."""

    asked: tuple[Question, ...]
    examples: tuple[Question, ...]  # shown before each question; of several benchmarks, those of its own
    questions: Questions
    evaluate: Evaluate
    kept: frozenset[str]  # ids of the questions whose completions are kept
    check_steps: Callable[[Question, str], bool] | None  # whether a completion derives its answer, if that can be told

    def parts(self, size: int) -> list[Exam]:
        """The same in parts of so many questions, which can be measured one by one."""
        return [replace(self, asked=self.asked[at : at + size]) for at in range(0, len(self.asked), size)]

    def prompts(self, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
        """What the model is shown for each question, as tokens."""
        return [prompt_ids(tokenizer, q.text, examples_for(q, self.examples), self.questions) for q in self.asked]

    def check_lengths(self, tokenizer: PreTrainedTokenizerBase, context: int) -> None:
        """Raises UserError if a prompt of any of its questions leaves no room for the completion: before a run."""
        check_lengths(self.prompts(tokenizer), self.evaluate.max_new_tokens, context, "evaluate.max_new_tokens")

    def digest(self) -> str:
        """Of everything that its result depends on besides the model and the code."""
        about = [digest(self.asked), digest(self.examples), asdict(self.questions), asdict(self.evaluate)]
        kept = sorted(self.kept & {q.id for q in self.asked})
        return json_digest([*about, kept])


def make_exam(scale: Scale, split: str, per_benchmark: int, shots: int) -> Exam:
    """The first questions of each benchmark of a split, after `shots` worked examples (paper: 8 for base, else 0)."""
    asked = tuple(asked_questions(scale, split, per_benchmark))
    kept = frozenset(q.id for q in first_of_each(asked, scale.evaluate.kept_questions))
    examples = few_shot_examples(scale, shots)
    return Exam(asked, examples, scale.questions, scale.evaluate, kept, open_source(scale).check_steps())


def measure_outcomes(
    exam: Exam, engine: Sampler, tokenizer: PreTrainedTokenizerBase, processes: Processes
) -> tuple[list[dict], list[dict]]:
    """n samples per question, graded. Several processes share the questions, and each gets the whole result.

    Returns one row per question (`benchmark, question_id, n, correct, valid`; valid: correct and derived step by step,
    None where that cannot be told), and the first `kept_samples` completions of the questions that are kept. The seed
    of a sample depends on the question and on its number alone: all models are asked with the same random numbers,
    which makes comparisons between them paired.
    """
    params = exam.evaluate
    own = processes.share(exam.asked)
    prompts = replace(exam, asked=tuple(own)).prompts(tokenizer)
    check_lengths(prompts, params.max_new_tokens, engine.context, "evaluate.max_new_tokens")
    seeds_pg = [[sample_seed(params.seed, 0, q.id, i) for i in range(params.samples)] for q in own]
    how = {"max_new_tokens": params.max_new_tokens, "temperature": params.temperature, "stop": exam.questions.stop}  # type: dict
    found = engine.generate(prompts, seeds_pg, **how)
    texts, grades = grade_completions(tokenizer, found, [q.answer for q in own], exam.questions)
    measured = []
    for q, prompt, completions, text_g, grade_g in zip(own, prompts, found, texts, grades, strict=True):
        valid_g = [_is_valid(exam, q, text, correct) for text, correct in zip(text_g, grade_g, strict=True)]
        valid = None if exam.check_steps is None else sum(map(bool, valid_g))
        row = {"benchmark": q.benchmark, "question_id": q.id, "n": len(grade_g), "correct": sum(grade_g)}
        about = {"benchmark": q.benchmark, "question_id": q.id, "prompt": tokenizer.decode(prompt), "gold": q.answer}
        kept = [
            about | {"completion": text, "correct": correct, "valid": derived, "stop_reason": completion.stop_reason}
            for text, correct, derived, completion in zip(text_g, grade_g, valid_g, completions, strict=True)
        ]
        measured.append((row | {"valid": valid}, kept[: params.kept_samples] if q.id in exam.kept else []))
    measured = processes.join(measured)
    return [row for row, _ in measured], [sample for _, kept in measured for sample in kept]


def _is_valid(exam: Exam, question: Question, text: str, correct: bool) -> bool | None:
    if exam.check_steps is None:
        return None
    return correct and exam.check_steps(question, text)


def measure_general(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, tasks: GeneralTasks, processes: Processes
) -> pd.DataFrame:
    """Items `benchmark, item_id, correct` of the general benchmarks, which several processes share."""
    own = replace(tasks, tasks=dict(processes.share(list(tasks.tasks.items()))))
    return pd.DataFrame(processes.join(general.evaluate_general(model, tokenizer, own) if own.tasks else []))
