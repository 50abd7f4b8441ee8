"""Tokens per second of the embedded engine against transformers' `generate`, on the same job, on one thread.

64 prompts of 40 to 150 tokens x 16 samples x 64 new tokens with a nano-sized random model. No EOS, so that both
do the same work; temperature 1, no top-k or top-p. `generate` gets the better of two batchings: all prompts in
one call with 16 returned sequences each, or 8 prompts a call.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from transformers import Olmo2Config, Olmo2ForCausalLM

from excursions.rollout.sampler import sample_seed
from excursions.rollout.torch_engine import TorchEngine

N_PROMPTS, N_SAMPLES, NEW_TOKENS = 64, 16, 64
VOCAB = 600
PAD = 0


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = Olmo2Config(
        vocab_size=VOCAB,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=256,
        pad_token_id=PAD,
        eos_token_id=None,
    )
    model = Olmo2ForCausalLM(config).eval()
    with torch.no_grad():  # the engine needs an EOS id: one that is never drawn, as its logit is the lowest
        model.lm_head.weight[VOCAB - 1] = 0
    rng = np.random.default_rng(0)
    prompts = [rng.integers(1, VOCAB - 1, size=n).tolist() for n in rng.integers(40, 151, size=N_PROMPTS)]
    print(f"{N_PROMPTS} prompts x {N_SAMPLES} samples x {NEW_TOKENS} new tokens, 1 thread")
    ours = best_of(2, lambda: engine_tokens(model, prompts))
    print(f"embedded engine        {ours:9,.0f} tokens/s")
    theirs = max(best_of(1, lambda size=size: generate_tokens(model, prompts, size)) for size in (N_PROMPTS, 8))
    print(f"transformers generate  {theirs:9,.0f} tokens/s")
    print(f"ratio                  {ours / theirs:9.1f}")


def best_of(n: int, job: Callable[[], int]) -> float:
    """Tokens per second of the fastest of n runs: the least disturbed by whatever else the machine does."""
    rates = []
    for _ in range(n):
        start = time.perf_counter()
        rates.append(job() / (time.perf_counter() - start))
    return max(rates)
