"""Parallel averaging: an RL and an SFT update from one parameter snapshot, averaged (paper, section 7).

theta <- theta + w d_rl + (1 - w) d_sft, where each update comes from its OWN AdamW state and the paper's w is 1/2.
Averaging updates and not gradients matters: through one AdamW state the larger gradient would drown the other.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from excursions.params import Parallel
from excursions.training.recipes import Start, Training
from excursions.training.rl import rl_update
from excursions.training.sft import sft_update


def make(start: Start) -> Training:
    """Parallel averaging for `parallel.steps` steps."""
    params = start.scale.parallel
    rl, rl_optimizer = rl_update(start)
    sft, sft_optimizer, _ = sft_update(start, params.sft_batch_size, params.steps)

    def update(step: int) -> dict[str, float]:
        return averaged_step(start.model, lambda: rl(step), lambda: sft(step), rl_weight(params, step))

    return Training(params.steps, update, (rl_optimizer, sft_optimizer))


def rl_weight(params: Parallel, step: int) -> float:
    """The weight of the RL update at a step, 1 to `steps`. A schedule is ours: the paper's weight is constant."""
    first = params.rl_weight if params.rl_weight_at_first is None else params.rl_weight_at_first
    return first + (params.rl_weight - first) * (step - 1) / max(1, params.steps - 1)


def averaged_step(
    model: torch.nn.Module,
    rl_update: Callable[[], dict[str, float]],
    sft_update: Callable[[], dict[str, float]],
    rl_weight: float,
) -> dict[str, float]:
    """One step of parallel averaging; returns the metrics of both updates.

    rl_update, sft_update: each computes its gradient at the model's present parameters and steps its own optimizer.
    rl_weight: 1 is pure RL and 0 is pure SFT, bit for bit (torch.lerp returns its end points exactly).
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    snapshot = [p.detach().clone() for p in parameters]
    metrics = rl_update()
    after_rl = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        for p, before in zip(parameters, snapshot, strict=True):
            p.copy_(before)
    metrics |= sft_update()
    with torch.no_grad():
        for p, rl in zip(parameters, after_rl, strict=True):
            p.copy_(torch.lerp(p, rl, rl_weight))
    return metrics
