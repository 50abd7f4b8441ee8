"""RL on the model's own generations: sample -> grade -> advantage -> loss -> step (paper, section 2)."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from excursions.data.batches import batch_indices
from excursions.data.loading import load_questions
from excursions.data.prompts import check_lengths, prompt_ids
from excursions.params import Engine, UserError
from excursions.rollout.rewards import grade_completions, reward_metrics
from excursions.rollout.sampler import sample_seed
from excursions.training.grpo import Group, rl_gradients
from excursions.training.optimizers import adamw, step_optimizer, warmup
from excursions.training.recipes import Start, Training


def make(start: Start) -> Training:
    """GRPO for `rl.steps` steps."""
    update, optimizer = rl_update(start)
    return Training(start.scale.rl.steps, update, (optimizer,))


def rl_update(start: Start) -> tuple[Callable[[int], dict[str, float]], torch.optim.Optimizer]:
    """One GRPO step by its number, and the optimizer. Reward 1 for the right final answer, else 0 (section 2).

    Each process samples and grades its part of the step's questions; then all have all groups. The update raises
    UserError if sampler and trainer differ by more than `engine.max_logp_difference`.
    """
    model, tokenizer, engine = start.model, start.tokenizer, start.engine
    scale, processes = start.scale, start.processes
    params = scale.rl
    questions = load_questions(scale).train
    prompts = [prompt_ids(tokenizer, q.text, (), scale.questions) for q in questions]
    check_lengths(prompts, params.max_new_tokens, engine.context, "rl.max_new_tokens")
    optimizer = adamw(model, params.learning_rate, params.betas, params.weight_decay)
    reference = processes.frozen(model) if params.kl else None

    def update(step: int) -> dict[str, float]:
        started = time.perf_counter()
        chosen = batch_indices(len(questions), params.questions_per_step, start.seed, step)
        own = processes.share(chosen)
        seeds_pg = [[sample_seed(start.seed, step, questions[i].id, g) for g in range(params.rollouts)] for i in own]
        engine.load_weights(processes.plain(model))
        found = engine.generate(
            [prompts[i] for i in own],
            seeds_pg,
            max_new_tokens=params.max_new_tokens,
            temperature=params.temperature,
            stop=scale.questions.stop,
        )
        sampled = time.perf_counter()
        texts_pg, grades_pg = grade_completions(tokenizer, found, [questions[i].answer for i in own], scale.questions)
        groups = processes.join(
            [
                Group(prompts[i], completions, [float(g) for g in grades])
                for i, completions, grades in zip(own, found, grades_pg, strict=True)
            ]
        )
        shares = processes.sum(reward_metrics(texts_pg, len(chosen) * params.rollouts))
        graded = time.perf_counter()
        first_pass: dict | None = {} if params.inner_steps > 1 else None
        for group in optimizer.param_groups:
            group["lr"] = warmup(step, params.learning_rate, params.warmup_steps)
        sampling: dict[str, float] = {}
        for inner_step in range(params.inner_steps):
            metrics = rl_gradients(
                model, groups, temperature=params.temperature, clip=params.clip, kl=params.kl, ref_model=reference,
                micro_batch=params.micro_batch, vocab_size=len(tokenizer), first_pass=first_pass,
                importance_cap=scale.engine.importance_cap, advantage=params.advantage or "group",
                normalizer=params.normalizer or "tokens", clip_high=params.clip_high,
                max_new_tokens=params.max_new_tokens, processes=processes,
            )  # fmt: skip
            if inner_step == 0:  # later the policy has moved
                check_sampler(metrics, scale.engine)
                sampling = {name: value for name, value in metrics.items() if name.startswith("sampling/")}
            metrics["grad_norm"] = step_optimizer(model, optimizer, params.max_grad_norm)
        done = time.perf_counter()
        return (
            metrics
            | sampling
            | shares
            | {
                "learning_rate": optimizer.param_groups[0]["lr"],
                "step_time": done - started,
                "share_rollout": (sampled - started) / (done - started),
                "share_grading": (graded - sampled) / (done - started),
                "share_training": (done - graded) / (done - started),
            }
        )

    return update, optimizer


def check_sampler(metrics: dict[str, float], engine: Engine) -> None:
    """Raises UserError if what was sampled is not what is scored."""
    difference = metrics["sampling/sampling_logp_difference/mean"]
    if difference > engine.max_logp_difference:
        raise UserError(
            f"the log-probabilities of the engine '{engine.name}' and of the trainer differ by {difference:.3g} nats a "
            f"token on average; accepted: up to engine.max_logp_difference = {engine.max_logp_difference:g}. Either "
            "they do not hold the same weights, or their precisions differ: raise the bound if that is what you want."
        )
