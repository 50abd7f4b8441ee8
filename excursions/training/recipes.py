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
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from excursions.data.questions import build_prompt
from excursions.evaluation.outcomes import load_questions
from excursions.models.processes import Processes, clip_gradients
from excursions.params import Engine, Scale, UserError
from excursions.rollout.rewards import grade_completions
from excursions.rollout.sampler import Sampler, sample_seed
from excursions.training.grpo import Group, rl_gradients
from excursions.training.parallel import averaged_step
from excursions.training.pretrain import adamw
from excursions.training.sft import batch_indices, sft_examples, sft_gradients, sft_learning_rate, sft_steps

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
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    engine: Sampler,
    scale: Scale,
    seed: int,
    processes: Processes | None = None,
) -> Training:
    """The training of a recipe on a model (changed in place) that is a checkpoint, or its parent recipe's result.

    processes: those of the job, on which the model was placed; None: this one alone.
    """
    if processes is None:
        processes = Processes()
        model = processes.place(model)
    if recipe == "base":
        return Training(0, lambda step: {}, ())
    if recipe in ("rl", "sft_rl", "sft_gold_rl"):
        rl_update, optimizer = make_rl_update(model, tokenizer, engine, scale, seed, processes)
        return Training(scale.rl.steps, rl_update, (optimizer,))
    if recipe in ("sft", "sft_gold"):
        gold = recipe == "sft_gold"
        sft_update, optimizer, steps = make_sft_update(model, tokenizer, scale, seed, processes, gold)
        return Training(steps, sft_update, (optimizer,))
    assert recipe == "parallel"
    steps, batch_size = scale.parallel.steps, scale.parallel.sft_batch_size
    rl_update, rl_optimizer = make_rl_update(model, tokenizer, engine, scale, seed, processes)
    sft_update, sft_optimizer, _ = make_sft_update(
        model, tokenizer, scale, seed, processes, gold=False, steps=steps, batch_size=batch_size
    )

    def update(step: int) -> dict[str, float]:
        return averaged_step(model, lambda: rl_update(step), lambda: sft_update(step), scale.parallel.rl_weight)

    return Training(steps, update, (rl_optimizer, sft_optimizer))


def make_rl_update(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    engine: Sampler,
    scale: Scale,
    seed: int,
    processes: Processes,
) -> tuple[Callable[[int], dict[str, float]], torch.optim.Optimizer]:
    """GRPO: sample -> grade -> advantage -> loss -> step. Reward 1 for the right final answer, else 0 (section 2).

    Each process samples and grades its part of the step's questions; then all have all groups. The update raises
    UserError if sampler and trainer differ by more than `engine.max_logp_difference`.
    """
    params = scale.rl
    questions = load_questions(scale).train
    prompts = tokenizer(
        [build_prompt(q.text, (), scale.questions) for q in questions], add_special_tokens=False
    ).input_ids
    optimizer = adamw(model, params.learning_rate, params.betas, params.weight_decay)
    reference = copy.deepcopy(processes.plain(model)) if params.kl else None

    def update(step: int) -> dict[str, float]:
        started = time.perf_counter()
        chosen = batch_indices(len(questions), params.questions_per_step, seed, step)
        own = processes.share(chosen)
        seeds_pg = [[sample_seed(seed, step, questions[i].id, g) for g in range(params.rollouts)] for i in own]
        engine.load_weights(processes.plain(model))
        found = engine.generate(
            [prompts[i] for i in own],
            seeds_pg,
            max_new_tokens=params.max_new_tokens,
            temperature=params.temperature,
        )
        sampled = time.perf_counter()
        _, grades_pg = grade_completions(tokenizer, found, [questions[i].answer for i in own], scale.questions)
        groups = processes.join(
            [
                Group(prompts[i], completions, [float(g) for g in grades])
                for i, completions, grades in zip(own, found, grades_pg, strict=True)
            ]
        )
        graded = time.perf_counter()
        model.train()
        first_pass = {} if params.inner_steps > 1 else None
        for group in optimizer.param_groups:
            group["lr"] = params.learning_rate * min(1.0, step / max(1, params.warmup_steps))
        for inner_step in range(params.inner_steps):
            metrics = rl_gradients(
                model, groups, temperature=params.temperature, clip=params.clip, kl=params.kl, ref_model=reference,
                micro_batch=params.micro_batch, vocab_size=len(tokenizer), first_pass=first_pass,
                importance_cap=scale.engine.importance_cap, processes=processes,
            )  # fmt: skip
            if inner_step == 0:  # later the policy has moved
                _check_sampler(metrics, scale.engine)
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
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    scale: Scale,
    seed: int,
    processes: Processes,
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
        metrics = sft_gradients(model, chosen, tokenizer.pad_token_id, processes)
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
    norm = clip_gradients(model, max_grad_norm)
    optimizer.step()
    optimizer.zero_grad()
    return norm


def _check_sampler(metrics: dict[str, float], engine: Engine) -> None:
    difference = metrics["sampling/sampling_logp_difference/mean"]
    if difference > engine.max_logp_difference:  # NaN, when no group had a signal, is not greater
        raise UserError(
            f"the log-probabilities of the engine '{engine.name}' and of the trainer differ by {difference:.3g} nats a "
            f"token on average; accepted: up to engine.max_logp_difference = {engine.max_logp_difference:g}. Either "
            "they do not hold the same weights, or their precisions differ: raise the bound if that is what you want."
        )
