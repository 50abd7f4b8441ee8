"""Tokens per second of the engine for models of any architecture against transformers' `generate`: same job, same run.

A Llama of 4M parameters, 16 questions of 40 to 60 tokens x 8 samples x 64 new tokens, asked without examples (0-shot)
and after the same 700 tokens of worked examples (8-shot), which our engine computes once for all questions. No EOS: so
both do the same work, and what ending at a stop string saves comes on top. `generate` gets four questions a call.
"""

from __future__ import annotations

import torch
from measuring import PAD, VOCAB, interleaved, make_prompts, make_tokenizer, report, with_generate
from transformers import LlamaConfig, LlamaForCausalLM

from excursions.rollout.sampler import sample_seed
from excursions.rollout.transformers_engine import TransformersEngine

N_PROMPTS, N_SAMPLES, NEW_TOKENS, EXAMPLES = 16, 8, 64, 700
PROMPTS_PER_CALL = 4  # of generate


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        pad_token_id=PAD,
        eos_token_id=None,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config).eval()
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    engine = TransformersEngine(model, tokenizer)
    seeds = [[sample_seed(0, 0, str(p), i) for i in range(N_SAMPLES)] for p in range(N_PROMPTS)]
    n_tokens = N_PROMPTS * N_SAMPLES * NEW_TOKENS
    (examples,) = make_prompts(1, EXAMPLES, EXAMPLES)
    rows = []
    for how, shared in (("0-shot", []), ("8-shot", examples)):
        prompts = [shared + prompt for prompt in make_prompts(N_PROMPTS, 40, 60)]
        jobs = {
            "ours": lambda p=prompts: engine.generate(p, seeds, max_new_tokens=NEW_TOKENS, temperature=1.0),
            "peer": lambda p=prompts: with_generate(model, p, N_SAMPLES, NEW_TOKENS, PROMPTS_PER_CALL),
        }
        found = interleaved(jobs, rounds=2)
        rows.append(
            {
                "job": f"any model, Llama 4M, {how}, {N_PROMPTS} x {N_SAMPLES} x {NEW_TOKENS}, tokens/s",
                "peer_name": "transformers generate",
                "ours": n_tokens / found["ours"],
                "peer": n_tokens / found["peer"],
                "ratio": found["peer"] / found["ours"],
            }
        )
    report(rows)


if __name__ == "__main__":
    main()
