"""Completions -> texts, grades and rewards (paper, section 2: 1 for the right final answer, else 0)."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from excursions.data.questions import cut_completion
from excursions.grading import grade
from excursions.params import Questions


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
