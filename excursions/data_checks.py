"""What must hold of the data before anything is trained on it."""

from __future__ import annotations

from itertools import islice

from excursions import grade
from excursions.evaluate import load_questions, questions_digest
from excursions.nano import corpus
from excursions.params import Scale, UserError
from excursions.questions import normalize

STREAM_BLOCKS = 10  # of the pretraining stream, searched for questions


def check_data(scale: Scale) -> dict:
    """Checks the questions, their solutions and the stream; returns what was counted.

    Raises UserError naming the first question whose gold solution the grader rejects, that stands in two splits, or
    that occurs in the stream.
    """
    questions = load_questions(scale)
    seen: dict[str, str] = {}
    for split, rows in vars(questions).items():
        for q in rows:
            if normalize(q.text) in seen:
                raise UserError(f"{q.id} ({split}) asks the same as {seen[normalize(q.text)]}; change questions.seed.")
            seen[normalize(q.text)] = q.id
            for solution in q.solutions:
                if not grade.is_correct(solution, q.answer, marked_only=True):
                    raise UserError(f"{q.id}: the grader rejects a gold solution: {solution!r} for {q.answer!r}.")
            if len(set(q.solutions)) < len(q.solutions):
                raise UserError(f"{q.id} has the same gold solution twice.")
    everything = [q for rows in vars(questions).values() for q in rows]
    return {
        "questions": {split: len(rows) for split, rows in vars(questions).items()},
        "solutions": sum(len(q.solutions) for q in everything),
        "sha256": questions_digest(scale),
        "stream": check_stream(scale, seen),
    }


def check_stream(scale: Scale, asked: dict[str, str]) -> dict[str, int]:
    """Searches the beginning of the pretraining stream for the questions `asked` (normalized text -> id)."""
    tokenizer = corpus.tokenizer(scale.questions.seed)
    tokens, documents = 0, 0
    for ids in islice(corpus.token_blocks(scale.questions), STREAM_BLOCKS):
        if (ids == tokenizer.unk_token_id).any():
            raise UserError("the pretraining stream holds words that the tokenizer does not know.")
        tokens += len(ids)
        for document in tokenizer.decode(ids).split(tokenizer.eos_token):
            documents += 1
            story = document[: document.find(" ? ") + 2].strip().removeprefix("question : ")
            if normalize(story) in asked:
                raise UserError(f"{asked[normalize(story)]} occurs in the pretraining stream: {document}")
    return {"tokens_searched": tokens, "documents_searched": documents}
