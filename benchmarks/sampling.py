"""Tokens per second of our sampler against transformers' `generate`: same job, same run.

64 prompts of 40 to 150 tokens x 16 samples x 64 new tokens; temperature 1, no top-k, no top-p. No EOS, so that both do
the same work. On a CPU ours is the embedded engine, and `generate` gets 8 prompts a call, the best of the batchings
tried (2, 8, 32 and all): their keys and values then fit the cache better. On a GPU both run the model in bfloat16, and
ours is the engine for models of any architecture; `generate` gets all prompts at once.
"""

from __future__ import annotations

from measuring import (
    ON_GPU,
    SIZES,
    VOCAB,
    interleaved,
    make_model,
    make_prompts,
    make_tokenizer,
    matmul_peak,
    report,
    weights,
    with_generate,
)

from excursions.rollout.sampler import sample_seed
from excursions.rollout.torch_engine import TorchEngine
from excursions.rollout.transformers_engine import TransformersEngine

N_PROMPTS, N_SAMPLES, NEW_TOKENS = 64, 16, 64
PROMPTS_PER_CALL = N_PROMPTS if ON_GPU else 8  # of generate
MAX_BATCH_TOKENS = 2**18  # on a GPU: all at once


def main() -> None:
    prompts = make_prompts(N_PROMPTS, 40, 150)
    seeds = [[sample_seed(0, 0, str(p), i) for i in range(N_SAMPLES)] for p in range(N_PROMPTS)]
    n_tokens = N_PROMPTS * N_SAMPLES * NEW_TOKENS
    rows = []
    for size in SIZES:
        model = make_model(size).eval()
        model.generation_config.eos_token_id = None
        if ON_GPU:
            tokenizer = make_tokenizer()
            tokenizer.eos_token = None
            engine = TransformersEngine(model.bfloat16(), tokenizer, MAX_BATCH_TOKENS)
        else:
            engine = TorchEngine(model, None, VOCAB)
        jobs = {
            "ours": lambda e=engine: e.generate(prompts, seeds, max_new_tokens=NEW_TOKENS, temperature=1.0),
            "peer": lambda m=model: with_generate(m, prompts, N_SAMPLES, NEW_TOKENS, PROMPTS_PER_CALL),
        }
        found = interleaved(jobs, rounds=3 if ON_GPU else 2)
        floor = n_tokens * 2 * weights(model) / matmul_peak()
        rows.append(
            {
                "job": f"sampler, {size}, {N_PROMPTS} x {N_SAMPLES} x {NEW_TOKENS}, tokens/s",
                "peer_name": "transformers generate",
                "ours": n_tokens / found["ours"],
                "peer": n_tokens / found["peer"],
                "ratio": found["peer"] / found["ours"],
                "floor": n_tokens / floor,
            }
        )
    report(rows)


if __name__ == "__main__":
    main()
