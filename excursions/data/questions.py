"""Questions, and THE prompt builder: one function writes every prompt of training, evaluation and notebooks."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
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


def first_of_each(questions: Iterable[Question], number: int) -> list[Question]:
    """The first `number` questions of each benchmark, in their order; all of one that has fewer."""
    seen: Counter[str] = Counter()
    found = []
    for question in questions:
        seen[question.benchmark] += 1
        if seen[question.benchmark] <= number:
            found.append(question)
    return found


def build_prompt(text: str, examples: Sequence[Question], params: Questions) -> str:
    """The prompt of a question after k = len(examples) worked examples (paper, section 2: 8-shot for base
    checkpoints, 0-shot for every trained model)."""
    shown = [params.prompt.replace("{question}", e.text) + " " + e.solutions[0] for e in examples]
    return params.separator.join([*shown, params.prompt.replace("{question}", text)])


def cut_completion(text: str, params: Questions) -> str:
    """A completion up to the point where the model starts to write the next prompt by itself.

    That is where `params.stop` stands, or where a line begins the prompt template and the words behind the template's
    question follow. A line that only looks like a question ("Q2: she buys 12 more, so 17.") belongs to the answer.
    """
    text = text.split(params.stop, 1)[0]
    head, _, tail = (part.strip() for part in params.prompt.partition("{question}"))
    begun = re.search(rf"^[ \t]{{0,9}}{re.escape(head)}", text, re.MULTILINE) if head and tail else None
    return text[: begun.start()] if begun and text.rfind(tail) >= begun.end() else text


def normalize(text: str) -> str:
    """Lower case, single spaces, no punctuation: the form in which two questions count as the same, in any script.

    What holds neither letters nor digits ("∑ ∏ ?") stays as it is, up to white space.
    """
    if text.isascii():
        words = re.findall(r"[a-z0-9]+", text.lower())
    else:  # a mark belongs to its letter: without them, Hindi words that differ in a vowel alone would be the same
        folded = unicodedata.normalize("NFC", text).casefold()
        words = "".join(c if unicodedata.category(c)[0] in "LNM" else " " for c in folded).split()
    return " ".join(words or text.split())
