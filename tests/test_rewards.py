"""Grades of completions, and the warning of RL that has no signal."""

from __future__ import annotations

import re

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from excursions.rollout.rewards import FIRST_STEPS, grade_completions, no_signal_warning, reward_metrics
from excursions.rollout.sampler import Completion

WORDS = "<eos> Question: #### 5 6 so".split()


def test_a_completion_is_graded_up_to_the_next_question(smoke):
    level = models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<eos>")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(level), eos_token="<eos>")

    def completion(text: str) -> Completion:
        ids = tokenizer.convert_tokens_to_ids(text.split())
        return Completion(ids, [0.0] * len(ids), "length")

    found = [[completion("so #### 5 <eos>"), completion("so 5")], [completion("#### 6")]]
    texts, grades = grade_completions(tokenizer, found, ["5", "5"], smoke.questions)
    assert texts == [["so #### 5", "so 5"], ["#### 6"]]
    assert grades == [[True, False], [False]]  # right; not marked; wrong


def test_the_shares_of_unmarked_and_of_empty_completions():
    found = reward_metrics([["so #### 5", "so 5"], [" ", "#### 7"]], total=4)
    assert found == {"completions/unmarked_ratio": 0.5, "completions/empty_ratio": 0.25}


STEP = {
    "frac_reward_zero_std": 1.0,
    "reward": 0.0,
    "completions/unmarked_ratio": 0.1,
    "completions/empty_ratio": 0.0,
    "completions/clipped_ratio": 0.1,
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "10% of the completions mark no final answer. Likely cause: the difficulty"),
        ({"completions/unmarked_ratio": 0.9}, "90% .* Likely cause: the answer's form.*style.instruction"),
        ({"completions/unmarked_ratio": 0.9, "completions/clipped_ratio": 0.8}, "the length, as 80% .*max_new_tokens"),
        ({"completions/unmarked_ratio": 1.0, "completions/empty_ratio": 0.7}, "the prompt's form, as 70%"),
        ({"reward": 1.0}, "too easy"),
    ],
)
def test_steps_without_a_signal_are_explained(changes, said):
    steps = [STEP | changes] * FIRST_STEPS
    assert re.search(said, no_signal_warning(steps))
    assert no_signal_warning(steps[1:]) is None  # not yet
    assert no_signal_warning([STEP | {"frac_reward_zero_std": 0.97}, *steps]) is None
