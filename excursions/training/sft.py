"""Supervised fine-tuning: next-token prediction on gold solutions, loss on the completion only.

`sft` sees one solution per question, chosen at random per seed; `sft_gold` sees all of them (paper, section 2).
Which examples make up a batch depends on the seed and the step alone, so a resumed run sees the same batches.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers import PreTrainedTokenizerBase
from transformers.modeling_layers import GradientCheckpointingLayer

from excursions.data.batches import batch_indices, seeded
from excursions.data.loading import load_questions
from excursions.data.prompts import completion_ids, prompt_ids
from excursions.data.questions import Question
from excursions.models.processes import Processes
from excursions.params import Questions, Sft, UserError
from excursions.training.optimizers import adamw, cosine, step_optimizer
from excursions.training.recipes import Start, Training

MICRO_BATCH = 4  # examples in one forward pass, where no number of tokens is given


def make(start: Start) -> Training:
    """SFT for the epochs and the batch of the block `sft`."""
    params = start.scale.sft
    update, optimizer, examples = sft_update(start, params.batch_size)
    return Training(sft_steps(examples, params, start.recipe.gold), update, (optimizer,))


def sft_update(
    start: Start, batch_size: int, steps: int | None = None
) -> tuple[Callable[[int], dict[str, float]], torch.optim.Optimizer, int]:
    """One step of SFT by its number, the optimizer, and the number of examples.

    steps: of the whole training, at which the learning rate is zero; None: those of the epochs of the block `sft`.
    """
    model, tokenizer, scale = start.model, start.tokenizer, start.scale
    params, gold = scale.sft, start.recipe.gold
    examples = sft_examples(load_questions(scale).train, tokenizer, scale.questions, start.seed, gold)
    check_context(examples, model.config.max_position_embeddings)
    optimizer = adamw(model, params.learning_rate, params.betas, params.weight_decay)
    last = steps or sft_steps(len(examples), params, gold)

    def update(step: int) -> dict[str, float]:
        started = time.perf_counter()
        chosen = [examples[i] for i in batch_indices(len(examples), batch_size, start.seed, step)]
        for group in optimizer.param_groups:
            group["lr"] = cosine(step, last, params.learning_rate, params.warmup_steps)
        with recomputing(model, params.gradient_checkpointing):
            metrics = sft_gradients(model, chosen, tokenizer.pad_token_id, start.processes, params.micro_batch_tokens)
        metrics["sft_grad_norm"] = step_optimizer(model, optimizer, params.max_grad_norm)
        return metrics | {
            "sft_learning_rate": optimizer.param_groups[0]["lr"],
            "sft_time": time.perf_counter() - started,
        }

    return update, optimizer, len(examples)


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
        prompt = prompt_ids(tokenizer, question.text, (), params)
        chosen = seeded("solution", seed, question.id).randrange(len(question.solutions))
        for solution in question.solutions if gold else [question.solutions[chosen]]:
            found.append(Example(prompt, completion_ids(tokenizer, solution, params)))
    return found


def check_context(examples: Sequence[Example], context: int) -> None:
    """Raises UserError if a prompt with its solution exceeds the model's context: asked before the first step."""
    lengths = [len(e.prompt_ids) + len(e.completion_ids) for e in examples]
    if long := sum(length > context for length in lengths):
        raise UserError(
            f"{long} of {len(lengths)} training examples are too long: the longest has {max(lengths)} tokens; "
            f"accepted: {context}, the model's context. Leave long solutions out of the training rows."
        )


@contextmanager
def recomputing(model: torch.nn.Module, wanted: bool | None) -> Iterator[None]:
    """Gradient checkpointing inside the block alone: RL, on the same model, needs keys and values, which it drops.

    It acts on layers in training mode only. Their parts stay in evaluation mode, as everywhere in this project: dropout
    (GPT-2's, for one) would score other probabilities than were sampled.
    """
    if not wanted:
        yield
        return
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    model.gradient_checkpointing_enable({"use_reentrant": False})
    try:
        for layer in layers:
            layer.training = True
        yield
    finally:
        for layer in layers:
            layer.training = False
        model.gradient_checkpointing_disable()


def sft_gradients(
    model: torch.nn.Module,
    examples: Sequence[Example],
    pad_id: int,
    processes: Processes,
    micro_batch_tokens: int | None = None,
) -> dict[str, float]:
    """Adds to `.grad` the gradient of the mean cross-entropy per completion token; returns the loss.

    Examples of similar length go through the model together, so that little is padding; the split changes nothing.
    processes: of the job, each called with the same examples; they share the passes, and `.grad` is their sum.
    """
    tokens = sum(len(e.completion_ids) for e in examples)
    micro_batches = split_examples(examples, micro_batch_tokens)
    loss = 0.0
    for batch, weight in processes.share_passes(micro_batches):
        part = completion_loss(model, batch, pad_id, tokens) * weight
        part.backward()
        loss += part.item()
    processes.sum_gradients(model)
    loss = processes.sum({"loss": loss})["loss"]
    return {"sft_loss": loss, "sft_tokens": float(sum(len(e.prompt_ids) + len(e.completion_ids) for e in examples))}


def split_examples(examples: Sequence[Example], micro_batch_tokens: int | None) -> list[list[Example]]:
    """Examples in micro batches, the shortest first: as many as have so many tokens together, padding included, and at
    least one; without a number MICRO_BATCH."""
    found: list[list[Example]] = []
    for e in sorted(examples, key=lambda e: len(e.prompt_ids) + len(e.completion_ids)):
        size = len(found[-1]) + 1 if found else 1
        tokens = size * (len(e.prompt_ids) + len(e.completion_ids))
        fits = size <= MICRO_BATCH if micro_batch_tokens is None else tokens <= micro_batch_tokens
        if found and fits:
            found[-1].append(e)
        else:
            found.append([e])
    return found


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
