"""Questions, and THE prompt builder: one function writes every prompt of training, evaluation and notebooks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from excursions.params import Questions


@dataclass(frozen=True)
class Question:
    """A question of a benchmark with its gold answer and gold solutions (each ends with the final answer)."""

    id: str
    benchmark: str
    split: str  # "train", "validation" or "test"
    text: str
    answer: str
    solutions: tuple[str, ...]


@dataclass(frozen=True)
class QuestionSet:
    """All questions of a scale. `examples` are those shown in few-shot prompts; none of them is asked."""

    train: tuple[Question, ...]
    validation: tuple[Question, ...]
    test: tuple[Question, ...]
    examples: tuple[Question, ...]


def build_prompt(text: str, examples: Sequence[Question], params: Questions) -> str:
    """The prompt of a question after k = len(examples) worked examples (paper, section 2: 8-shot for base
    checkpoints, 0-shot for every trained model)."""
    shown = [params.prompt.replace("{question}", e.text) + " " + e.solutions[0] for e in examples]
    return params.separator.join([*shown, params.prompt.replace("{question}", text)])


def cut_completion(text: str, params: Questions) -> str:
    """A completion up to the point where a base model starts to write the next question by itself."""
    return text.split(params.stop, 1)[0]


def normalize(text: str) -> str:
    """Lower case, single spaces, no punctuation: the form in which two questions count as the same."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))
