"""The questions of a scale: which are asked, which are shown as worked examples, and their digest."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

from excursions.data.questions import Question, QuestionSet, first_of_each
from excursions.data.source import open_source
from excursions.params import Scale, UserError


def load_questions(scale: Scale) -> QuestionSet:
    """The scale's questions."""
    return open_source(scale).questions()


def asked_questions(scale: Scale, split: str, per_benchmark: int) -> list[Question]:
    """The first questions of each benchmark of a split."""
    pool = getattr(load_questions(scale), split)
    names = (scale.questions.easy, scale.questions.hard)
    return [q for name in names for q in [q for q in pool if q.benchmark == name][:per_benchmark]]


def few_shot_examples(scale: Scale, shots: int) -> tuple[Question, ...]:
    """The first `shots` worked examples of each benchmark that has any; all of one that has fewer (4 of MATH, whose
    are long). Raises UserError if none has so many."""
    examples = load_questions(scale).examples
    most = max(Counter(example.benchmark for example in examples).values(), default=0)
    if shots > most:
        raise UserError(
            f"{shots} worked examples are asked for (evaluate.shots, or --shots), and there are {most} of a benchmark; "
            f"accepted: at most {most}."
        )
    return tuple(first_of_each(examples, shots))


def examples_for(question: Question, examples: Sequence[Question]) -> list[Question]:
    """Those of its own benchmark, if there are any; else all."""
    return [e for e in examples if e.benchmark == question.benchmark] or list(examples)


def digest(questions: Sequence[Question]) -> str:
    """sha256 over questions with their answers and solutions."""
    text = "\n".join("\t".join([q.id, q.text, q.answer, *q.solutions]) for q in questions)
    return hashlib.sha256(text.encode()).hexdigest()


def questions_digest(scale: Scale) -> str:
    """`digest` of all questions of a scale."""
    return digest([q for rows in vars(load_questions(scale)).values() for q in rows])
