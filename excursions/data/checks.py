"""What must hold of the data before anything is trained on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from excursions.data.loading import questions_digest
from excursions.data.questions import QuestionSet, normalize
from excursions.data.source import open_source
from excursions.grading import grade
from excursions.params import Scale, UserError

KS = (1, 8, 32)


def check_data(scale: Scale) -> dict:
    """Checks the questions, their solutions and the stream; returns what was counted.

    Raises UserError naming the first question whose gold solution the grader rejects, or that stands in two splits, and
    at nano scale that occurs in the stream. Of public data it is counted what nobody can mend: test questions that read
    alike (three pairs of MATH's 5,000, two of which differ by a sign) or that occur in the stream.
    """
    source = open_source(scale)
    questions = source.questions()
    seen: dict[str, str] = {}
    alike = 0
    for split, rows in vars(questions).items():
        before = set(seen)
        for q in rows:
            key = normalize(q.text)
            if not source.made_here and split == "test" and key in seen and key not in before:
                alike += 1
            elif key in seen:
                raise UserError(f"{q.id} ({split}) asks the same as {seen[key]}; change questions.seed.")
            seen[key] = q.id
            for solution in q.solutions:
                if not grade.is_correct(solution, q.answer, marked_only=True):
                    raise UserError(f"{q.id}: the grader rejects a gold solution: {solution!r} for {q.answer!r}.")
            if len(set(q.solutions)) < len(q.solutions):
                raise UserError(f"{q.id} has the same gold solution twice.")
    found = {
        "questions": {split: len(rows) for split, rows in vars(questions).items()},
        "solutions": sum(len(q.solutions) for rows in vars(questions).values() for q in rows),
        "sha256": questions_digest(scale),
        "guess_floor": guess_floors(questions),
    }
    if not source.made_here:
        found["test_questions_alike"] = alike
        seen = {normalize(q.text): q.id for q in questions.test}
    return found | source.search_stream(seen)


def guess_floors(questions: QuestionSet) -> dict[str, dict[str, float]]:
    """pass@k in percent of answers drawn from the training answers, by benchmark of the test and k."""
    said = [q.answer for q in questions.train]
    floors: dict[str, dict[str, float]] = {}
    for benchmark in dict.fromkeys(q.benchmark for q in questions.test):
        wanted = [q.answer for q in questions.test if q.benchmark == benchmark]
        floors[benchmark] = {str(k): 100 * guess_floor(said, wanted, k) for k in KS}
    return floors


def guess_floor(said: Sequence[str], wanted: Sequence[str], k: int) -> float:
    """Mean pass@k, 0 to 1, of drawing k answers from `said` for each question, whose answers are `wanted`."""
    shares = Counter(said)
    return sum(1 - (1 - shares[answer] / len(said)) ** k for answer in wanted) / len(wanted)
