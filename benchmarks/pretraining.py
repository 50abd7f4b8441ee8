"""Pretraining tokens per second as a share of the measured matmul peak: nano's model and batch, one thread.

The peak is the best rate of a 1024 x 1024 fp32 product in the same run. A token costs 6 operations per weight that is
multiplied (all but the input embedding), and attention 12 x layers x width x tokens of context / 2 more.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch

from excursions import params
from excursions.data.source import open_source
from excursions.models.model import build_model
from excursions.training.optimizers import adamw
from excursions.training.pretrain import next_token_loss

STEPS = 6


def best_seconds(work, times: int) -> float:
    """The fastest of several calls."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return min(found)


def main() -> None:
    """Prints tokens per second, the peak, and the share of it that the arithmetic of training reaches."""
    torch.set_num_threads(1)
    scale = params.load(Path(__file__).parents[1] / "params.yaml").scale("nano")
    square = torch.randn(1024, 1024)
    peak = 2 * 1024**3 / best_seconds(lambda: square @ square, 20)

    source = open_source(scale)
    tokenizer, stream = source.tokenizer(), source.stream()
    model = build_model(scale.model, tokenizer, seed=0)
    optimizer = adamw(model, 1e-3, scale.pretrain.betas, scale.pretrain.weight_decay)

    def step() -> None:
        ids_bt = torch.from_numpy(stream.next_batch())
        next_token_loss(model, ids_bt).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    step()
    tokens = scale.pretrain.batch_size * scale.model.context
    rate = tokens / best_seconds(step, STEPS)
    weights = sum(p.numel() for name, p in model.named_parameters() if "embed_tokens" not in name)
    attention = 12 * scale.model.layers * scale.model.hidden_size * scale.model.context / 2
    reached = rate * (6 * weights + attention)
    print(f"pretraining: {rate:,.0f} tokens/s; matmul peak {peak / 1e9:.1f} GFLOP/s")
    print(f"share of the peak: {reached / peak:.2f}")


if __name__ == "__main__":
    main()
