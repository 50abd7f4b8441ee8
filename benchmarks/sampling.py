"""Tokens per second of the embedded engine against transformers' `generate`, on the same job, on one thread.

64 prompts of 40 to 150 tokens x 16 samples x 64 new tokens from a random model of nano size; temperature 1,
no top-k, no top-p. No EOS, so that both do the same work. `generate` gets 8 prompts a call, the best of the
batchings tried (2, 8, 32 and all): their keys and values then fit a CPU's cache better.
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
PROMPTS_PER_CALL = 8  # of generate


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
    rng = np.random.default_rng(0)
    lengths = rng.integers(40, 151, size=N_PROMPTS)
    prompts = [rng.integers(1, VOCAB, size=length).tolist() for length in lengths]

    print(f"{N_PROMPTS} prompts x {N_SAMPLES} samples x {NEW_TOKENS} new tokens, one thread")
    engine = TorchEngine(model, None, VOCAB)
    seeds = [[sample_seed(0, 0, str(p), i) for i in range(N_SAMPLES)] for p in range(N_PROMPTS)]
    # the engine before and after, so that a machine that is getting busier favours neither
    before = tokens_per_second(lambda: with_engine(engine, prompts, seeds))
    theirs = tokens_per_second(lambda: with_generate(model, prompts))
    after = tokens_per_second(lambda: with_engine(engine, prompts, seeds))
    ours = (before + after) / 2
    print(f"excursions TorchEngine   {ours:8,.0f} tokens/s")
    print(f"transformers generate    {theirs:8,.0f} tokens/s")
    print(f"ratio                    {ours / theirs:8.1f}")


def tokens_per_second(job: Callable[[], int]) -> float:
    """New tokens per second of this process's CPU time (one thread): other jobs on the machine weigh less."""
    start = time.process_time()
    n_tokens = job()
    return n_tokens / (time.process_time() - start)


def with_engine(engine: TorchEngine, prompts: list[list[int]], seeds: list[list[int]]) -> int:
    groups = engine.generate(prompts, seeds, max_new_tokens=NEW_TOKENS, temperature=1.0)
    return sum(len(completion.token_ids) for completions in groups for completion in completions)


def with_generate(model: Olmo2ForCausalLM, prompts: list[list[int]]) -> int:
    n_tokens = 0
    for start in range(0, len(prompts), PROMPTS_PER_CALL):
        chunk = prompts[start : start + PROMPTS_PER_CALL]
        longest = max(map(len, chunk))
        ids = torch.tensor([[PAD] * (longest - len(prompt)) + prompt for prompt in chunk])
        output = model.generate(
            ids,
            attention_mask=(ids != PAD).long(),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            num_return_sequences=N_SAMPLES,
            max_new_tokens=NEW_TOKENS,
        )
        n_tokens += output[:, longest:].numel()
    return n_tokens


if __name__ == "__main__":
    main()
