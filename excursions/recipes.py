"""The recipes as compositions of the three updates. A recipe is a number of steps and what happens at each of them.

    base         nothing: the checkpoint itself
    rl           GRPO
    sft          SFT on one solution per question       sft_rl       then GRPO
    sft_gold     SFT on all solutions                   sft_gold_rl  then GRPO
    parallel     a GRPO and an SFT update from one snapshot, averaged

All recipes train on the same questions.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import Olmo2ForCausalLM, PreTrainedTokenizerBase

from excursions.evaluate import grade_completions, load_questions
from excursions.grpo import Group, rl_gradients
from excursions.parallel import averaged_step
from excursions.params import Scale
from excursions.pretrain import adamw
from excursions.questions import build_prompt
from excursions.rollout.sampler import Sampler, sample_seed
from excursions.sft import batch_indices, sft_examples, sft_gradients, sft_learning_rate, sft_steps

PARENTS = {"sft_rl": "sft", "sft_gold_rl": "sft_gold"}  # the recipe whose model these start from
READS = {  # the blocks of params.yaml that a recipe depends on, besides its checkpoint
    "base": ("questions", "evaluate"),
    "rl": ("questions", "evaluate", "rl"),
    "sft": ("questions", "evaluate", "sft"),
    "sft_gold": ("questions", "evaluate", "sft"),
    "sft_rl": ("questions", "evaluate", "sft", "rl"),
    "sft_gold_rl": ("questions", "evaluate", "sft", "rl"),
    "parallel": ("questions", "evaluate", "sft", "rl", "parallel"),
}


@dataclass(frozen=True)
class Training:
    """`update(step)` does step 1, 2, ..., `steps` and returns its metrics; `optimizers` hold all other state."""

    steps: int
    update: Callable[[int], dict[str, float]]
    optimizers: tuple[torch.optim.Optimizer, ...]


def training(
    recipe: str,
    model: Olmo2ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    engine: Sampler,
    scale: Scale,
    seed: int,
) -> Training:
    """The training of a recipe on a model (changed in place) that is a checkpoint, or its parent recipe's result."""
    if recipe == "base":
        return Training(0, lambda step: {}, ())
    if recipe in ("rl", "sft_rl", "sft_gold_rl"):
        rl_update, optimizer = make_rl_update(model, tokenizer, engine, scale, seed)
        return Training(scale.rl.steps, rl_update, (optimizer,))
    if recipe in ("sft", "sft_gold"):
        sft_update, optimizer, steps = make_sft_update(model, tokenizer, scale, seed, gold=recipe == "sft_gold")
        return Training(steps, sft_update, (optimizer,))
    assert recipe == "parallel"
    steps, batch_size = scale.parallel.steps, scale.parallel.sft_batch_size
    rl_update, rl_optimizer = make_rl_update(model, tokenizer, engine, scale, seed)
    sft_update, sft_optimizer, _ = make_sft_update(model, tokenizer, scale, seed, False, steps, batch_size)

    def update(step: int) -> dict[str, float]:
        return averaged_step(model, lambda: rl_update(step), lambda: sft_update(step), scale.parallel.rl_weight)

    return Training(steps, update, (rl_optimizer, sft_optimizer))


def make_rl_update(
    model: Olmo2ForCausalLM, tokenizer: PreTrainedTokenizerBase, engine: Sampler, scale: Scale, seed: int
) -> tuple[Callable[[int], dict[str, float]], torch.optim.Optimizer]:
    """GRPO: sample -> grade -> advantage -> loss -> step. Reward 1 for the right final answer, else 0 (section 2)."""
    params = scale.rl
    questions = load_questions(scale).train
    prompts = tokenizer(
        [build_prompt(q.text, (), scale.questions) for q in questions], add_special_tokens=False
    ).input_ids
    optimizer = adamw(model, params.learning_rate, params.betas, params.weight_decay)
    reference = copy.deepcopy(model) if params.kl else None

    def update(step: int) -> dict[str, float]:
        started = time.perf_counter()
        chosen = batch_indices(len(questions), params.questions_per_step, seed, step)
        seeds_pg = [[sample_seed(seed, step, questions[i].id, g) for g in range(params.rollouts)] for i in chosen]
        engine.load_weights(model)
        found = engine.generate(
            [prompts[i] for i in chosen],
            seeds_pg,
            max_new_tokens=params.max_new_tokens,
            temperature=params.temperature,
        )
        sampled = time.perf_counter()
        _, grades_pg = grade_completions(tokenizer, found, [questions[i].answer for i in chosen], scale.questions)
        groups = [
            Group(prompts[i], completions, [float(g) for g in grades])
            for i, completions, grades in zip(chosen, found, grades_pg, strict=True)
        ]
        graded = time.perf_counter()
        model.train()
        first_pass = {} if params.inner_steps > 1 else None
        for group in optimizer.param_groups:
            group["lr"] = params.learning_rate * min(1.0, step / max(1, params.warmup_steps))
        for _ in range(params.inner_steps):
            metrics = rl_gradients(
                model, groups, temperature=params.temperature, clip=params.clip, kl=params.kl, ref_model=reference,
                micro_batch=params.micro_batch, vocab_size=len(tokenizer), first_pass=first_pass,
            )  # fmt: skip
            metrics["grad_norm"] = step_optimizer(model, optimizer, params.max_grad_norm)
        model.eval()
        done = time.perf_counter()
        return metrics | {
            "learning_rate": optimizer.param_groups[0]["lr"],
            "step_time": done - started,
            "share_rollout": (sampled - started) / (done - started),
            "share_grading": (graded - sampled) / (done - started),
            "share_training": (done - graded) / (done - started),
        }

    return update, optimizer


def make_sft_update(
    model: Olmo2ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    scale: Scale,
    seed: int,
    gold: bool,
    steps: int | None = None,
    batch_size: int | None = None,
) -> tuple[Callable[[int], dict[str, float]], torch.optim.Optimizer, int]:
    """SFT for `steps` steps of `batch_size` examples; by default the epochs and the batch of the `sft` block."""
    params = scale.sft
    examples = sft_examples(load_questions(scale).train, tokenizer, scale.questions, seed, gold)
    optimizer = adamw(model, params.learning_rate, params.betas, params.weight_decay)
    steps = sft_steps(len(examples), params, gold) if steps is None else steps
    batch_size = batch_size or params.batch_size

    def update(step: int) -> dict[str, float]:
        started = time.perf_counter()
        model.train()
        chosen = [examples[i] for i in batch_indices(len(examples), batch_size, seed, step)]
        for group in optimizer.param_groups:
            group["lr"] = sft_learning_rate(step, steps, params)
        metrics = sft_gradients(model, chosen, tokenizer.pad_token_id)
        metrics["sft_grad_norm"] = step_optimizer(model, optimizer, params.max_grad_norm)
        model.eval()
        return metrics | {
            "sft_learning_rate": optimizer.param_groups[0]["lr"],
            "sft_time": time.perf_counter() - started,
        }

    return update, optimizer, steps


def step_optimizer(model: torch.nn.Module, optimizer: torch.optim.Optimizer, max_grad_norm: float) -> float:
    """Clips the gradient, steps, clears the gradient; returns its norm before clipping."""
    for p in model.parameters():
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
    optimizer.step()
    optimizer.zero_grad()
    return float(norm)
