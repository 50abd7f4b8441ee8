"""Completions -> texts, grades, and what they tell about a step without a signal.

The reward of a completion is 1 if its marked final answer is right, else 0 (paper, section 2).
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from excursions.data.questions import cut_completion
from excursions.grading import grade
from excursions.params import Questions
from excursions.rollout.sampler import Completion

FIRST_STEPS = 5  # so many steps without any signal are worth a warning


def grade_completions(
    tokenizer: PreTrainedTokenizerBase, found: list[list[Completion]], golds: Sequence[str], questions: Questions
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


def reward_metrics(texts_pg: list[list[str]], total: int) -> dict[str, float]:
    """Shares of `total` completions that mark no final answer, and that have no text: of those that are given here, so
    that the sum over several processes is the share of all."""
    texts = [text for group in texts_pg for text in group]
    return {
        "completions/unmarked_ratio": sum(grade.extract_answer(text) is None for text in texts) / total,
        "completions/empty_ratio": sum(not text.strip() for text in texts) / total,
    }


def no_signal_warning(steps: Sequence[dict[str, float]]) -> str | None:
    """What to say after the first FIRST_STEPS steps of RL, whose metrics these are, if no group of them had unequal
    rewards: nothing was learned, and the run would end with the weights it began with. None: there was a signal."""
    if len(steps) < FIRST_STEPS or any(step["frac_reward_zero_std"] < 1 for step in steps[:FIRST_STEPS]):
        return None
    names = ("reward", "completions/unmarked_ratio", "completions/empty_ratio", "completions/clipped_ratio")
    reward, unmarked, empty, cut = (sum(step[name] for step in steps[:FIRST_STEPS]) / FIRST_STEPS for name in names)
    if reward > 0.5:
        cause = "the questions are too easy: use harder ones, or a higher rl.temperature"
    elif empty > 0.5:
        cause = (
            f"the prompt's form, as {empty:.0%} of the completions are empty: look at a prompt with `excursions data`, "
            "and at questions.prompt, questions.stop and the suite's style"
        )
    elif unmarked > 0.5 and cut > 0.5:
        cause = f"the length, as {cut:.0%} of the completions are cut before they end: raise rl.max_new_tokens"
    elif unmarked > 0.5:
        cause = (
            "the answer's form, which the model does not know: start from its SFT (recipe sft_rl), or say in the "
            "suite's style what form an answer has (style.instruction)"
        )
    else:
        cause = "the difficulty: use easier questions, more rl.rollouts, or a later checkpoint"
    return (
        f"In the first {FIRST_STEPS} steps all completions of each question had the same reward ({reward:.2f} on "
        f"average), so nothing was learned. {unmarked:.0%} of the completions mark no final answer. "
        f"Likely cause: {cause}."
    )
