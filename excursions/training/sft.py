"""Supervised fine-tuning: next-token prediction on gold solutions, loss on the completion only.

`sft` sees one solution per question, chosen at random per seed; `sft_gold` sees all of them (paper, section 2).
Which examples make up a batch depends on the seed and the step alone, so a resumed run sees the same batches.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers import PreTrainedTokenizerBase

from excursions.data.questions import Question, build_prompt
from excursions.models.processes import Processes
from excursions.params import Questions, Sft

MICRO_BATCH = 4  # examples in one forward pass


@dataclass(frozen=True)
class Example:
    """Token ids of a prompt and of its solution, the end token included."""

    prompt_ids: list[int]
    completion_ids: list[int]


def sft_examples(
    questions: Sequence[Question],
    tokenizer: PreTrainedTokenizerBase,
    params: Questions,
    seed: int,
    gold: bool,
) -> list[Example]:
    """The training set: all solutions of every question (`gold`), or one of them drawn by the seed."""
    found = []
    for question in questions:
        prompt_ids = tokenizer(build_prompt(question.text, (), params), add_special_tokens=False).input_ids
        chosen = draw("solution", seed, question.id).randrange(len(question.solutions))
        for solution in question.solutions if gold else [question.solutions[chosen]]:
            ids = tokenizer(" " + solution, add_special_tokens=False).input_ids
            found.append(Example(prompt_ids, [*ids, tokenizer.eos_token_id]))
    return found


def batch_indices(size: int, batch_size: int, seed: int, step: int) -> list[int]:
    """Which of `size` items make up the batch of a step (from 1): passes in random order, each item once in a pass.

    A batch may begin in one pass and end in the next.
    """
    start = (step - 1) * batch_size
    orders: dict[int, list[int]] = {}
    for number in range(start // size, (start + batch_size - 1) // size + 1):
        orders[number] = list(range(size))
        draw("order", seed, str(number)).shuffle(orders[number])
    return [orders[i // size][i % size] for i in range(start, start + batch_size)]


def draw(what: str, seed: int, name: str) -> random.Random:
    """Random numbers that depend on these three alone."""
    return random.Random(hashlib.sha256(f"{what}/{seed}/{name}".encode()).digest())


def sft_gradients(
    model: torch.nn.Module, examples: Sequence[Example], pad_id: int, processes: Processes | None = None
) -> dict[str, float]:
    """Adds to `.grad` the gradient of the mean cross-entropy per completion token; returns the loss.

    Examples of similar length go through the model together, so that little is padding; the split changes nothing.
    processes: those of the job, each called with the same examples; they share the passes, and `.grad` is their sum.
    """
    ordered = sorted(examples, key=lambda e: len(e.prompt_ids) + len(e.completion_ids))
    tokens = sum(len(e.completion_ids) for e in examples)
    micro_batches = [ordered[start : start + MICRO_BATCH] for start in range(0, len(ordered), MICRO_BATCH)]
    passes = processes.share_passes(micro_batches) if processes else [(batch, 1.0) for batch in micro_batches]
    loss = 0.0
    for batch, weight in passes:
        part = completion_loss(model, batch, pad_id, tokens) * weight
        part.backward()
        loss += part.item()
    if processes:
        processes.sum_gradients(model)
        loss = processes.sum({"loss": loss})["loss"]
    return {"sft_loss": loss, "sft_tokens": float(sum(len(e.prompt_ids) + len(e.completion_ids) for e in examples))}


def completion_loss(
    model: torch.nn.Module, examples: Sequence[Example], pad_id: int, tokens: int | None = None
) -> torch.Tensor:
    """Cross-entropy (nats) summed over the completion tokens, each weighing the same, over their number `tokens` in the
    whole batch; None means that these examples are the whole batch."""
    longest = max(len(e.prompt_ids) + len(e.completion_ids) for e in examples)
    tokens = tokens or sum(len(e.completion_ids) for e in examples)
    device = next(model.parameters()).device
    ids_bt = torch.full((len(examples), longest), pad_id, device=device)
    target_bt = torch.full((len(examples), longest), -100, device=device)
    for row, e in enumerate(examples):
        ids = torch.tensor(e.prompt_ids + e.completion_ids, device=device)
        ids_bt[row, : len(ids)] = ids
        target_bt[row, len(e.prompt_ids) : len(ids)] = ids[len(e.prompt_ids) :]
    # Padding stands on the right, where no real token attends to it, so the causal mask is all the masking there is.
    logits_btv = model(input_ids=ids_bt, use_cache=False).logits[:, :-1].float()
    return F.cross_entropy(logits_btv.flatten(0, 1), target_bt[:, 1:].flatten(), reduction="sum") / tokens


def sft_steps(examples: int, params: Sft, gold: bool) -> int:
    """Optimizer steps of a whole fine-tuning."""
    return math.ceil((params.gold_epochs if gold else params.epochs) * examples / params.batch_size)


def sft_learning_rate(step: int, steps: int, params: Sft) -> float:
    """Linear warm-up, then a cosine to zero."""
    if step <= params.warmup_steps:
        return params.learning_rate * step / params.warmup_steps
    share = (step - params.warmup_steps) / max(1, steps - params.warmup_steps)
    return params.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
