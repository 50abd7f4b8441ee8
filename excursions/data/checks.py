"""What must hold of the data before anything is trained on it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from excursions.data import public as hub
from excursions.data.nano import corpus
from excursions.data.public_stream import TextStream
from excursions.data.questions import Question, normalize
from excursions.evaluation.outcomes import load_questions, questions_digest
from excursions.grading import grade
from excursions.params import Scale, UserError

STREAM_BLOCKS = 10  # of the nano pretraining stream, searched for questions
STREAM_DOCUMENTS = 2000  # of a public one
SPOKEN = 8  # words: a shorter question may stand in a public text by chance


def check_data(scale: Scale) -> dict:
    """Checks the questions, their solutions and the stream; returns what was counted.

    Raises UserError naming the first question whose gold solution the grader rejects, or that stands in two splits, and
    at nano scale that occurs in the stream. Of public data it is counted what nobody can mend: test questions that read
    alike (three pairs of MATH's 5,000, two of which differ by a sign) or that occur in the stream.
    """
    questions = load_questions(scale)
    public = scale.questions.source == "hub"
    seen: dict[str, str] = {}
    alike = 0
    for split, rows in vars(questions).items():
        before = set(seen)
        for q in rows:
            key = normalize(q.text)
            if public and split == "test" and key in seen and key not in before:
                alike += 1
            elif key in seen:
                raise UserError(f"{q.id} ({split}) asks the same as {seen[key]}; change questions.seed.")
            seen[key] = q.id
            for solution in q.solutions:
                if not grade.is_correct(solution, q.answer, marked_only=True):
                    raise UserError(f"{q.id}: the grader rejects a gold solution: {solution!r} for {q.answer!r}.")
            if len(set(q.solutions)) < len(q.solutions):
                raise UserError(f"{q.id} has the same gold solution twice.")
    everything = [q for rows in vars(questions).values() for q in rows]
    found = {
        "questions": {split: len(rows) for split, rows in vars(questions).items()},
        "solutions": sum(len(q.solutions) for q in everything),
        "sha256": questions_digest(scale),
    }
    if not public:
        return found | {"stream": check_stream(scale, seen)}
    stream = TextStream(scale.hub.stream, scale.hub.stream_config) if scale.hub.stream else None
    return found | {
        "training_rows": hub.train_counts(scale),
        "test_questions_alike": alike,
        "stream": search_stream(stream, questions.test) if stream else None,
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


def search_stream(stream: TextStream, asked: Iterable[Question]) -> dict[str, int | list[str]]:
    """Searches the first documents of a public stream for whole questions of at least SPOKEN words.

    Returns how many documents were searched, and the ids of the questions found.
    """
    by_start: dict[tuple[str, ...], list[tuple[list[str], str]]] = {}
    for q in asked:
        words = normalize(q.text).split()
        if len(words) >= SPOKEN:
            by_start.setdefault(tuple(words[:SPOKEN]), []).append((words, q.id))
    documents, found = 0, set()
    while documents < STREAM_DOCUMENTS:
        document = stream.next_text()
        if stream.passes > 1:
            break
        documents += 1
        words = normalize(document).split()
        for at in range(len(words)):
            for question, name in by_start.get(tuple(words[at : at + SPOKEN]), ()):
                if words[at : at + len(question)] == question:
                    found.add(name)
    return {"documents_searched": documents, "test_questions_found": sorted(found)}
