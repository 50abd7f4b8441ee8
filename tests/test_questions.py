"""Prompts and questions: where a completion ends, and when two questions are the same."""

from dataclasses import replace
from pathlib import Path

import pytest

from excursions import params
from excursions.data.questions import cut_completion, normalize
from excursions.grading.grade import is_correct

STUDY = params.load(Path(__file__).parents[1] / "params.yaml")


@pytest.mark.parametrize(
    ("form", "completion", "kept"),
    [
        ("nano", "12 + 5 = 17 . #### 17 question : tom has 3", "12 + 5 = 17 . #### 17 "),
        ("nano", "the question is easy . #### 17", "the question is easy . #### 17"),
        ("paper", " 17\n#### 17\n\nQuestion: Ann has 3.\nAnswer: 3", " 17\n#### 17"),
        ("paper", " 17\n#### 17\nQuestion: Ann has 3.\nAnswer: #### 3", " 17\n#### 17\n"),
        ("paper", "Question: Ann has 3.\nAnswer: #### 3", ""),
        ("paper", "First 5.\nQ2: she buys 12 more, so 17.\n#### 17", "First 5.\nQ2: she buys 12 more, so 17.\n#### 17"),
        ("paper", "Problem: 5 + 12.\nQuestion: so? 17.\n#### 17", "Problem: 5 + 12.\nQuestion: so? 17.\n#### 17"),
        ("paper", "", ""),
        ("q", " 17.\n\nQ: Ann has 3.\nA: 3", " 17."),
        ("q", "5.\nQ2: 12 more.\nQuestion: so? A: 17", "5.\nQ2: 12 more.\nQuestion: so? A: 17"),
    ],
)  # fmt: skip
def test_a_completion_ends_where_the_next_prompt_begins(form, completion, kept):
    forms = {
        "nano": STUDY.scale("nano").questions,
        "paper": STUDY.scale("paper").questions,
        "q": replace(STUDY.scale("paper").questions, prompt="Q: {question}\nA:", stop="\n\nQ:"),
    }
    assert cut_completion(completion, forms[form]) == kept
    assert cut_completion(kept, forms[form]) == kept


def test_a_line_that_looks_like_a_question_ends_no_answer():
    text = "The first answer is 5.\nQ2: she buys 12 more, so 17.\n#### 17"
    kept = cut_completion(text, STUDY.scale("paper").questions)
    assert is_correct(kept, "17", marked_only=True) and not is_correct(kept, "5", marked_only=True)


QUESTIONS = ["Сколько яблок?", "有几个苹果？", "苹果有几个？", "كم تفاحة؟", "कितने सेब?", "कितना सेब?"]
QUESTIONS += ["∑ + ∏ = ?", "∑ - ∏ = ?", "五", "é", "e"]


def test_questions_in_any_script_are_told_apart():
    assert len({normalize(text) for text in QUESTIONS}) == len(QUESTIONS) and "" not in map(normalize, QUESTIONS)
    for text in QUESTIONS:
        assert normalize(f"  {text} \n") == normalize(text.upper()) == normalize(text) == normalize(normalize(text))


def test_normalize_drops_case_spaces_and_punctuation():
    assert normalize("Tom has  $3;\nhow many_more?") == "tom has 3 how many more"
    assert normalize("Caf\u00e9!") == normalize("CAFE\u0301") == "caf\u00e9"
