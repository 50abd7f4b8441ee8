"""Word problems, questions and the pretraining stream."""

import random
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from excursions import params
from excursions.data.checks import check_data
from excursions.data.nano import corpus, problems
from excursions.data.nano.tokenizer import build_tokenizer
from excursions.data.questions import build_prompt, cut_completion, normalize
from excursions.grading import grade

SMOKE = params.load(Path(__file__).parents[1] / "params.yaml").scale("smoke")


@pytest.fixture(scope="module")
def questions():
    return corpus.question_set(replace(SMOKE.questions, train_easy=60, train_hard=30, validation=20, test=40))


@pytest.fixture(scope="module")
def blocks():
    return list(islice(corpus.token_blocks(SMOKE.questions), 4))


def test_every_solution_is_right_step_by_step():
    rng = random.Random(1)
    for difficulty in (problems.EASY, problems.HARD):
        for _ in range(300):
            problem = problems.make_problem(rng, difficulty)
            for plain in (0.0, 1.0):
                problems.verify(problem, problems.write_solution(problem, rng, plain=plain))


def test_verify_finds_each_kind_of_mistake():
    problem = problems.Problem(
        "tom has 12 pens . he buys 5 more .", 12, (("+", 5),), None, "tom", "he", "sam", "pens", 17
    )
    problems.verify(problem, "12 + 5 = 17 . #### 17")
    problems.verify(problem, "5 = 2 + 3 . 12 + 2 = 14 . 14 + 3 = 17 . #### 17")
    for wrong in (
        "12 + 5 = 18 . #### 18",  # false
        "12 + 6 = 18 . 18 - 1 = 17 . #### 17",  # true, from numbers that nobody told
        "12 + 5 = 17 . #### 18",  # another final answer
        "12 + 5 = 17 . 17 - 5 = 12 . #### 17",  # the last equation is not the answer
        "#### 17",  # no step at all
    ):
        with pytest.raises(ValueError):
            problems.verify(problem, wrong)


def test_gold_solutions_are_many_and_differ_in_derivation(questions):
    for q in (*questions.train, *questions.test):
        assert len(set(q.solutions)) == SMOKE.questions.solutions
        derivations = Counter(tuple(problems.EQUATION.findall(s)) for s in q.solutions)
        assert max(derivations.values()) <= 3
        assert all(grade.is_correct(s, q.answer, marked_only=True) for s in q.solutions)
        assert max(map(problems.count_tokens, q.solutions)) <= corpus.LONGEST_SOLUTION


def test_splits_are_disjoint_and_difficulty_grows(questions):
    texts = [normalize(q.text) for rows in vars(questions).values() for q in rows]
    assert len(texts) == len(set(texts))
    shortest = {
        name: np.mean(
            [min(len(problems.EQUATION.findall(s)) for s in q.solutions) for q in questions.test if q.benchmark == name]
        )
        for name in ("easy", "hard")
    }
    assert shortest["hard"] > shortest["easy"] + 0.5


def test_questions_do_not_depend_on_the_test_sets_size(questions):
    """The splits are drawn in order, so a larger test set keeps the training questions."""
    larger = corpus.question_set(replace(SMOKE.questions, train_easy=60, train_hard=30, validation=20, test=50))
    assert larger.train == questions.train and larger.validation == questions.validation


def test_no_question_stands_in_the_stream(blocks):
    check_data(SMOKE)
    tokenizer = corpus.tokenizer(SMOKE.questions.seed)
    stream = normalize(" ".join(tokenizer.decode(b) for b in blocks))
    asked = [normalize(q.text) for rows in vars(corpus.question_set(SMOKE.questions)).values() for q in rows]
    assert not any(text in stream for text in asked)


def test_asked_problems_are_reserved_and_told_ones_are_not(questions):
    rng = random.Random(3)
    for _ in range(2000):
        document = corpus.math_document(rng)
        assert not corpus.is_reserved(document[: document.index(" ? ") + 2].removeprefix("question : "))
    assert all(corpus.is_reserved(q.text) for rows in vars(questions).values() for q in rows)


def test_the_mixture_holds_by_tokens():
    counts = Counter()
    rng = random.Random(0)
    world = corpus.world.World(0)
    makers = {
        "math": lambda: corpus.math_document(rng),
        "reasoning": lambda: corpus.reasoning_document(rng),
        "general": lambda: corpus.world.general_document(world, rng),
    }
    for _ in range(corpus.BLOCK):
        part = min(corpus.SHARES, key=lambda name: counts[name] / corpus.SHARES[name])
        counts[part] += problems.count_tokens(makers[part]()) + 1
    for part, share in corpus.SHARES.items():
        assert counts[part] / counts.total() == pytest.approx(share, abs=0.005)


def test_the_answer_format_is_present_but_rare(blocks):
    text = corpus.tokenizer(SMOKE.questions.seed).decode(np.concatenate(blocks))
    word_problems = text.count("how many")
    assert 0.03 < text.count("####") / word_problems < 0.10


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


def test_prompts_are_the_shown_examples_then_the_question(questions):
    one, two = questions.examples[:2]
    prompt = build_prompt("how many ?", [one, two], SMOKE.questions)
    assert prompt.endswith("question : how many ? answer :")
    assert prompt.index(one.solutions[0]) < prompt.index(two.text)
    assert build_prompt("how many ?", (), SMOKE.questions) == "question : how many ? answer :"
    assert cut_completion("12 + 5 = 17 . #### 17 question : tom", SMOKE.questions) == "12 + 5 = 17 . #### 17 "
