"""Tokens per second of the embedded engine against vLLM on a CPU, on the job of sampling.py: `make bench-vllm`.

In vLLM's own environment. vLLM computes in a process of its own, so these are seconds of the clock and not of a CPU:
the machine must be idle. Each side has one thread for its products. Both end at the EOS; tokens are counted.
"""

from __future__ import annotations

import time

from measuring import EOS, VOCAB, make_model, make_prompts, report
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from excursions.rollout.sampler import Sampler, sample_seed
from excursions.rollout.torch_engine import TorchEngine
from excursions.rollout.vllm_engine import VllmEngine

N_PROMPTS, N_SAMPLES, NEW_TOKENS = 64, 16, 64
ROUNDS = 3


def main() -> None:
    prompts = make_prompts(N_PROMPTS, 40, 150)
    words = models.WordLevel({f"w{i}": i for i in range(VOCAB)}, unk_token="w0")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), eos_token=f"w{EOS}")
    model = make_model("1M").eval()
    engines = {"ours": TorchEngine(model, EOS, VOCAB), "peer": VllmEngine(model, tokenizer, kv_cache_gb=1.0)}
    rates = {name: [] for name in engines}
    for step in range(ROUNDS):
        for name, engine in engines.items():
            rates[name].append(tokens_per_second(engine, prompts, step))
    ours, peer = (max(found) for found in rates.values())
    engines["peer"].close()
    job = f"sampler, 1M, {N_PROMPTS} x {N_SAMPLES} x {NEW_TOKENS}, tokens/s"
    report([{"job": job, "peer_name": "vLLM on a CPU", "ours": ours, "peer": peer, "ratio": ours / peer}])


def tokens_per_second(engine: Sampler, prompts: list[list[int]], step: int) -> float:
    """With other seeds at each step, so that no answer is known from before."""
    seeds = [[sample_seed(0, step, str(p), i) for i in range(N_SAMPLES)] for p in range(N_PROMPTS)]
    started = time.perf_counter()
    found = engine.generate(prompts, seeds, max_new_tokens=NEW_TOKENS, temperature=1.0)
    return sum(len(c.token_ids) for group in found for c in group) / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
