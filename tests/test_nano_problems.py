"""Word problems, the check of their solutions, questions and the pretraining stream."""

import random
import re
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from excursions import params
from excursions.data.checks import check_data
from excursions.data.loading import few_shot_examples
from excursions.data.nano import corpus, problems
from excursions.data.nano.problems import check_solution, checked_steps
from excursions.data.nano.tokenizer import build_tokenizer
from excursions.data.questions import build_prompt, cut_completion, normalize
from excursions.grading import grade
from excursions.params import UserError

SMOKE = params.load(Path(__file__).parents[1] / "params.yaml").scale("smoke")
TEXT = "tom has 12 pens . ann has 7 pens . tom buys 3 . ann gives 2 to tom . how many has each now ?"
SOLUTION = "tom 12 + 3 = 15 . ann 7 - 2 = 5 . tom 15 + 2 = 17 . #### 17 , 5"


@pytest.fixture(scope="module")
def questions():
    return corpus.question_set(replace(SMOKE.questions, train_easy=60, train_hard=30, validation=20, test=40))


@pytest.fixture(scope="module")
def blocks():
    return list(islice(corpus.token_blocks(SMOKE.questions), 4))


def problems_of_all_cells(each: int, seed: int = 1):
    rng = random.Random(seed)
    for cell in problems.CELLS:
        for _ in range(each):
            yield rng, cell, problems.make_problem(rng, cell)


def test_a_story_is_read_as_it_is_told():
    story = problems.read_story(TEXT)
    assert story.names == ("tom", "ann") and story.start == (12, 7) and story.end == (17, 5)
    assert [len(changes) for changes in story.events] == [1, 2]
    told = {
        "tom doubles them .": (24, 7),
        "tom halves them .": (6, 7),
        "ann adds as many as tom has .": (12, 19),
        "ann now has as many as tom .": (12, 12),
        "tom and ann swap .": (7, 12),
        "ann takes 4 from tom .": (8, 11),
        "ann loses 4 .": (12, 3),
    }
    for sentence, end in told.items():
        assert problems.read_story(f"tom has 12 pens . ann has 7 pens . {sentence} how many ?").end == end
    with pytest.raises(ValueError, match="not an event"):
        problems.read_story("tom has 12 pens . ann has 7 pens . tom laughs a lot . how many ?")


def test_stories_have_the_size_of_their_cell():
    for _, cell, text in problems_of_all_cells(100):
        events, size = map(int, cell[1:].split("n"))
        story = problems.read_story(text)
        assert len(story.events) == events and max(story.start) <= size
        values = [*story.start, *(change.after for changes in story.events for change in changes)]
        assert all(1 <= value <= problems.LARGEST_VALUE for value in values)


def test_every_written_solution_holds():
    for rng, _, text in problems_of_all_cells(60):
        solution = problems.write_solution(problems.read_story(text), rng)
        checked = checked_steps(text, solution)
        assert all(ok for _, ok in checked) and check_solution(text, solution), checked
        assert " . ".join(step for step, _ in checked).replace(" . ####", " . ####") == solution
        assert check_solution(text, f"{solution} question : and so on")


def test_no_solution_with_another_number_holds():
    """Whichever number of a solution is changed, to whatever other, the check finds it."""
    for rng, _, text in problems_of_all_cells(12, seed=2):
        story = problems.read_story(text)
        if any(change.symbol == "=" for changes in story.events for change in changes):
            continue  # who swaps may say what they have before it or after it
        solution = problems.write_solution(story, rng).split()
        for at, word in enumerate(solution):
            if word.isdigit():
                other = str((int(word) + 1 + int(rng.random() * 8)) % 100)
                assert not check_solution(text, " ".join([*solution[:at], other, *solution[at + 1 :]]))


def test_no_solution_without_one_of_its_equations_holds():
    for rng, _, text in problems_of_all_cells(12, seed=3):
        steps = problems.write_solution(problems.read_story(text), rng).split(" . ")
        for at, step in enumerate(steps[:-1]):
            if "=" in step:
                assert not check_solution(text, " . ".join(steps[:at] + steps[at + 1 :])), steps


def test_wrong_solutions_are_found_and_the_wrong_step_is_named():
    assert check_solution(TEXT, SOLUTION)
    assert check_solution(TEXT, SOLUTION.replace("tom 12 + 3", "tom 12 . ann 7 . tom 3 + 12"))
    wrong = {
        "answer swapped": SOLUTION.replace("#### 17 , 5", "#### 5 , 17"),
        "no steps": "#### 17 , 5",
        "no answer": SOLUTION.split(" ####")[0],
        "half an answer": SOLUTION.replace("#### 17 , 5", "#### 17"),
        "people swapped": SOLUTION.replace("ann", "sam"),
        "a number nobody told": SOLUTION.replace("12 + 3 = 15", "11 + 4 = 15"),
        "a sum that is no event": SOLUTION.replace("tom 12 + 3 = 15", "tom 12 + 5 = 17"),
        "steps behind the answer": "#### 17 , 5 tom 12 + 3 = 15 . ann 7 - 2 = 5 . tom 15 + 2 = 17 .",
        "nothing": "",
    }
    for what, completion in wrong.items():
        assert not check_solution(TEXT, completion), what
    false_sum = checked_steps(TEXT, SOLUTION.replace("12 + 3 = 15", "12 + 3 = 16"))
    assert [ok for _, ok in false_sum] == [False, True, False, False]
    reading = "tom has 12 pens . ann has 7 pens . how many has each now ?"
    assert check_solution(reading, "tom 12 . ann 7 . #### 12 , 7")
    assert not check_solution(reading, "tom 12 . #### 12 , 7")


def test_a_number_of_the_other_person_must_be_derived_first():
    text = "tom has 12 pens . ann has 7 pens . ann buys 3 . tom adds as many as ann has . how many has each now ?"
    assert check_solution(text, "ann 7 + 3 = 10 . tom 12 + 10 = 22 . #### 22 , 10")
    assert not check_solution(text, "tom 12 + 10 = 22 . ann 7 + 3 = 10 . #### 22 , 10")

    swap = "tom has 12 pens . ann has 7 pens . ann buys 3 . tom and ann swap . how many has each now ?"
    assert check_solution(swap, "ann 7 + 3 = 10 . tom 10 . ann 12 . #### 10 , 12")
    assert not check_solution(swap, "tom 10 . ann 7 + 3 = 10 . ann 12 . #### 10 , 12")


def test_what_was_derived_of_the_other_person_counts_although_they_went_on():
    text = "tom has 12 pens . ann has 7 pens . tom adds as many as ann has . ann buys 3 . how many has each now ?"
    assert check_solution(text, "ann 7 + 3 = 10 . tom 12 + 7 = 19 . #### 19 , 10")


def test_a_list_that_begins_with_the_answer_is_none():
    for ending in ("#### 17 , 5 , 3", "#### 17 , 51", "#### 17 , 5 . 3", "#### 17 , 5 or 3"):
        assert not check_solution(TEXT, SOLUTION.replace("#### 17 , 5", ending)), ending


def test_the_grader_reads_pairs():
    right = "tom 12 . ann 7 . #### 12 , 7"
    assert grade.is_correct(right, "12 , 7", marked_only=True)
    assert grade.is_correct(f"{right} question : next", "12 , 7", marked_only=True)
    for wrong in ("#### 7 , 12", "#### 12", "#### 12 , 71", "#### 1 , 27", "#### 12 , 7 , 3", "12 , 7"):
        assert not grade.is_correct(wrong, "12 , 7", marked_only=True), wrong


def test_gold_solutions_are_checked_many_and_like_those_of_the_stream(questions):
    for q in (*questions.train, *questions.test):
        events = len(problems.read_story(q.text).events)
        assert len(set(q.solutions)) == len(q.solutions)
        assert len(q.solutions) == SMOKE.questions.solutions if events else len(q.solutions) >= 12
        assert all(check_solution(q.text, s) and grade.is_correct(s, q.answer, marked_only=True) for s in q.solutions)
        assert max(map(problems.count_tokens, q.solutions)) <= corpus.LONGEST_SOLUTION
    rng = random.Random(4)
    text = problems.make_problem(rng, "e2n20")
    told = Counter(problems.write_solution(problems.read_story(text), rng) for _ in range(4000))
    gold = problems.gold_solutions(text, rng, 24, corpus.LONGEST_SOLUTION)
    assert sum(told[solution] for solution in gold) > 0.7 * 4000


def test_splits_are_disjoint_and_difficulty_grows(questions):
    texts = [normalize(q.text) for rows in vars(questions).values() for q in rows]
    assert len(texts) == len(set(texts))
    events = {
        name: np.mean([len(problems.read_story(q.text).events) for q in questions.test if q.benchmark == name])
        for name in ("easy", "hard")
    }
    assert events["hard"] > events["easy"] + 0.5


def test_questions_do_not_depend_on_the_test_sets_size(questions):
    """The splits are drawn in order, so a larger test set keeps the training questions."""
    larger = corpus.question_set(replace(SMOKE.questions, train_easy=60, train_hard=30, validation=20, test=50))
    assert larger.train == questions.train and larger.validation == questions.validation


def test_a_benchmark_is_the_mixture_that_params_give():
    only = corpus.question_set(replace(SMOKE.questions, easy_mixture={"e3n9": 1.0}, hard_mixture={"e0n90": 2.0}))
    for q in only.test:
        assert len(problems.read_story(q.text).events) == (3 if q.benchmark == "easy" else 0)
    with pytest.raises(UserError, match="e9n9"):
        corpus.question_set(replace(SMOKE.questions, easy_mixture={"e9n9": 1.0}))


def test_no_question_stands_in_the_stream(blocks):
    check_data(SMOKE)
    tokenizer = corpus.tokenizer(SMOKE.questions.seed)
    stream = normalize(" ".join(tokenizer.decode(b) for b in blocks))
    asked = [normalize(q.text) for rows in vars(corpus.question_set(SMOKE.questions)).values() for q in rows]
    assert not any(text in stream for text in asked)


def test_asked_problems_are_reserved_and_asked_ones_of_the_stream_are_not(questions):
    rng = random.Random(3)
    for _ in range(2000):
        document = corpus.math_document(rng)
        if document.startswith("question"):
            assert not corpus.is_reserved(document[: document.index(" ? ") + 2].removeprefix("question : "))
    assert all(corpus.is_reserved(q.text) for rows in vars(questions).values() for q in rows)


@pytest.mark.parametrize("mixture", [None, {"math": 1.0, "reasoning": 0.0, "general": 0.0}])
def test_the_mixture_holds_by_tokens(mixture):
    tokenizer = corpus.tokenizer(0)
    tokens = next(corpus.token_blocks(SMOKE.questions, mixture=mixture))
    counts = Counter()
    for document in tokenizer.decode(tokens).split(f" {tokenizer.eos_token}"):
        names = sum(document.count(f"{name} ") for name in problems.NAMES)
        is_math = "how many" in document or "in the end" in document or "that makes" in document
        part = "math" if is_math else "reasoning" if names or re.match(r" ?\d", document) else "general"
        counts[part] += problems.count_tokens(document) + 1
    for part, share in (mixture or corpus.SHARES).items():
        assert counts[part] / counts.total() == pytest.approx(share, abs=0.005)


def test_half_of_the_word_problems_are_asked(blocks):
    text = corpus.tokenizer(SMOKE.questions.seed).decode(np.concatenate(blocks))
    asked, told = text.count("####"), text.count("in the end") + text.count("that makes")
    assert 0.47 < asked / (asked + told) < 0.53


def test_the_stream_can_be_entered_anywhere_and_repeats(blocks):
    again = next(corpus.token_blocks(SMOKE.questions, start_block=2))
    assert np.array_equal(again, blocks[2])
    assert not np.array_equal(blocks[0][:1000], blocks[1][:1000])


def test_tokens_round_trip_and_unknown_words_are_seen(questions):
    tokenizer = corpus.tokenizer(SMOKE.questions.seed)
    for q in questions.test:
        for text in (build_prompt(q.text, questions.examples[:2], SMOKE.questions), *q.solutions):
            ids = tokenizer(text, add_special_tokens=False).input_ids
            assert tokenizer.decode(ids) == text
            assert tokenizer.unk_token_id not in ids
            assert len(ids) == problems.count_tokens(text)
    assert tokenizer("xylophone").input_ids == [tokenizer.unk_token_id]
    assert build_tokenizer(["b", "a", "12"]).get_vocab().keys() == build_tokenizer(["a", "b"]).get_vocab().keys()


def test_more_worked_examples_than_there_are_are_refused(questions):
    there = max(Counter(example.benchmark for example in questions.examples).values())
    assert len(few_shot_examples(SMOKE, there)) == len(questions.examples)
    with pytest.raises(UserError, match=f"{there + 1} worked examples are asked for .* accepted: at most {there}"):
        few_shot_examples(SMOKE, there + 1)


def test_prompts_are_the_shown_examples_then_the_question(questions):
    one, two = questions.examples[:2]
    prompt = build_prompt("how many ?", [one, two], SMOKE.questions)
    assert prompt.endswith("question : how many ? answer :")
    assert prompt.index(one.solutions[0]) < prompt.index(two.text)
    assert build_prompt("how many ?", (), SMOKE.questions) == "question : how many ? answer :"
    assert cut_completion("tom 12 . #### 12 , 7 question : tom", SMOKE.questions) == "tom 12 . #### 12 , 7 "
