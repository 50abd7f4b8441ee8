"""The criteria of a nano suite: each is met by a suite that has the property, and not by one that lacks it."""

import pandas as pd
import pytest

from excursions.findings import reference
from excursions.study import criteria

CHECKPOINTS = ("p04", "p08", "p12", "p20", "p24", "p28", "p40", "p56", "p88")
PAPER = reference.pass_at_k().query("recipe == 'base'").set_index(["role", "k", "checkpoint"])["estimate"]


def outcomes(correct_of) -> pd.DataFrame:
    """200 questions of 32 samples a benchmark and checkpoint; correct_of(role, checkpoint, question) of them right."""
    rows = [
        {"checkpoint": c, "benchmark": role, "question_id": f"{role}-{q}", "n": 32, "correct": correct_of(role, c, q)}
        for c in CHECKPOINTS
        for role in ("easy", "hard")
        for q in range(200)
    ]
    return pd.DataFrame(rows)


def like_the_paper(role: str, checkpoint: str, question: int) -> int:
    """Questions spread so that pass@1, 8 and 32 are about the paper's."""
    solved = PAPER[role, 32, checkpoint] / 100
    place = (question + 0.5) / 200 / solved
    mean = 32 * PAPER[role, 1, checkpoint] / 100 / solved
    return 0 if place > 1 else max(1, round(mean * 4 * (1 - place) ** 3))


def met(rows: list[tuple]) -> dict[str, bool]:
    return {criterion: bool(met) for criterion, _, _, met in rows}


def test_guessing_is_as_good_as_the_answers_are_alike():
    assert criteria.guess_floor(["1 , 2"] * 4, ["1 , 2"] * 9, 1) == 1
    assert criteria.guess_floor(["1 , 2", "3 , 4"], ["1 , 2", "5 , 6"], 1) == 0.25
    assert criteria.guess_floor(["1 , 2", "3 , 4"], ["1 , 2"], 2) == 0.75
    different = [f"{i} , {j}" for i in range(40) for j in range(40)]
    assert criteria.guess_floor(different, different, 32) == pytest.approx(32 / 1600, rel=0.02)


def test_a_base_like_the_papers_meets_the_criteria_and_others_do_not():
    assert all(met(criteria.base_rows(outcomes(like_the_paper))).values())
    one_jump = outcomes(lambda role, c, q: 0 if c < "p40" else like_the_paper(role, c, q))
    found = met(criteria.base_rows(one_jump))
    assert not found["easy: base pass@32 from the paper's"] and not found["easy: largest rise of base pass@32"]
    assert found["hard: base pass@1 from the paper's"]


def test_the_form_of_the_answer_counts_from_p20_on():
    few = outcomes(lambda role, c, q: 8)
    late = outcomes(lambda role, c, q: 0 if c < "p20" else 4)
    later = outcomes(lambda role, c, q: 0 if c < "p24" else 8)
    assert all(met(criteria.format_rows(few, late)).values())
    assert not any(met(criteria.format_rows(few, later)).values())


@pytest.mark.parametrize(
    "accuracy, good",
    [
        ((25, 26, 30, 40, 50, 55, 70, 80, 90), True),
        ((25, 25, 25, 25, 26, 27, 28, 30, 34), False),  # hardly rises
        ((25, 60, 80, 97, 98, 98, 99, 99, 99), False),  # saturates early
        ((80, 80, 80, 80, 80, 80, 80, 80, 80), False),  # known from the beginning
    ],
)
def test_general_benchmarks_must_rise_and_not_saturate_early(accuracy, good):
    rows = [
        {"checkpoint": c, "benchmark": "arc_easy", "item_id": str(item), "correct": int(item < a)}
        for c, a in zip(CHECKPOINTS, accuracy, strict=True)
        for item in range(100)
    ]
    assert met(criteria.general_rows(pd.DataFrame(rows))) == {"arc_easy": good}
