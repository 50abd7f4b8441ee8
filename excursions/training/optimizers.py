"""AdamW, its step, and the learning rates: what every training here shares."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.distributed.tensor import DTensor


def adamw(
    model: torch.nn.Module, learning_rate: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only, for what is trained of the model."""
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices, others = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=tuple(betas))


def warmup(step: int, peak: float, warmup_steps: int) -> float:
    """Learning rate at a step (from 1): linear up to the peak, then constant."""
    return peak * min(1.0, step / max(1, warmup_steps))


def cosine(step: int, steps: int, peak: float, warmup_steps: int, final_ratio: float = 0.0) -> float:
    """Learning rate at a step (1 to `steps`): linear warm-up, then a cosine to `final_ratio` of the peak."""
    if step <= warmup_steps:
        return peak * step / warmup_steps
    share = (step - warmup_steps) / max(1, steps - warmup_steps)
    return peak * (final_ratio + (1 - final_ratio) * 0.5 * (1 + math.cos(math.pi * share)))


def step_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, max_grad_norm: float) -> float:
    """Clips the gradient, steps, clears the gradient; returns its norm before clipping."""
    for p in model.parameters():
        if p.requires_grad and p.grad is None:
            p.grad = torch.zeros_like(p)
    norm = clip_gradients(model, max_grad_norm)
    optimizer.step()
    optimizer.zero_grad()
    return norm


def clip_gradients(model: nn.Module, max_norm: float) -> float:
    """Clips the norm of the whole gradient, sharded or not; returns the norm before."""
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
