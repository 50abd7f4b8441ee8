"""What the benchmarks share: models of nano's kind, a clock, the machine's matmul peak, how a result is reported."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import Olmo2Config, Olmo2ForCausalLM

VOCAB, PAD, EOS = 600, 0, 1
SHAPES = {"0.6M": (128, 3, 256), "1M": (128, 4, 384), "4M": (256, 4, 768)}  # hidden, layers, intermediate; 0.6M: nano's


def make_model(size: str, context: int = 320) -> Olmo2ForCausalLM:
    """An OLMo2 of random weights, in fp32, on one thread from here on."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    hidden, layers, intermediate = SHAPES[size]
    config = Olmo2Config(
        vocab_size=VOCAB,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=context,
        pad_token_id=PAD,
        eos_token_id=EOS,
        bos_token_id=None,
    )
    return Olmo2ForCausalLM(config)


def make_prompts(n: int, shortest: int, longest: int) -> list[list[int]]:
    """Random prompts of random lengths."""
    rng = np.random.default_rng(0)
    return [rng.integers(2, VOCAB, size=rng.integers(shortest, longest + 1)).tolist() for _ in range(n)]


def seconds(job: Callable[[], object]) -> float:
    """CPU seconds of a job: with one thread those of an idle machine, as far as others leave it cache and bandwidth."""
    start = time.process_time()
    job()
    return time.process_time() - start


def interleaved(jobs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The fastest of several runs of each job, in turn, so that a machine that gets busier favours none."""
    found = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            found[name].append(seconds(job))
    return {name: min(times) for name, times in found.items()}


def matmul_peak() -> float:
    """Operations a second of a product of two 1024 x 1024 matrices in fp32, the best of 20."""
    square = torch.randn(1024, 1024)
    return 2 * 1024**3 / min(seconds(lambda: square @ square) for _ in range(20))


def weights(model: Olmo2ForCausalLM) -> int:
    """Weights that are multiplied with each token: all but the input embedding. A token costs 2 operations for each
    forward, and 6 forward and backward."""
    return sum(p.numel() for name, p in model.named_parameters() if "embed_tokens" not in name)


def report(rows: list[dict]) -> None:
    """Prints rows (job, ours, peer, ratio or share), and writes them as JSON to the file that the command names."""
    for row in rows:
        print({name: round(value, 3) if isinstance(value, float) else value for name, value in row.items()})
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(rows), encoding="utf-8")
