"""Scoring in one packed pass: equal to whole sequences through transformers, log-probabilities and gradients."""

from __future__ import annotations

import random

import pytest
import torch
from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    RecurrentGemmaConfig,
    RecurrentGemmaForCausalLM,
)

from excursions.models import scoring
from excursions.models.scoring import completion_logprobs
from excursions.params import UserError

VOCAB, ROWS = 29, 32  # ids the sampler draws, rows of the embedding and the head
SIZES = {"vocab_size": ROWS, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "max_position_embeddings": 64, "initializer_range": 0.3}
GEMMA = {"num_key_value_heads": 1, "head_dim": 8, "sliding_window": 5}
QWEN = {"use_sliding_window": True, "max_window_layers": 1, "sliding_window": 5, "num_experts": 2}
QWEN |= {
    "num_key_value_heads": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "num_experts_per_tok": 1,
}
DEEPSEEK = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 12}
DEEPSEEK |= {"first_k_dense_replace": 2}  # no experts
KINDS = {
    "olmo2": (Olmo2ForCausalLM, Olmo2Config, {}),
    "olmo2, grouped": (Olmo2ForCausalLM, Olmo2Config, {"num_key_value_heads": 2}),
    "olmo2, tied": (Olmo2ForCausalLM, Olmo2Config, {"tie_word_embeddings": True}),
    "olmo2, transformers' pass": (type("Other", (Olmo2ForCausalLM,), {}), Olmo2Config, {"num_key_value_heads": 2}),
    "llama": (LlamaForCausalLM, LlamaConfig, {"num_key_value_heads": 1}),
    "deepseek, values of another width": (DeepseekV3ForCausalLM, DeepseekV3Config, DEEPSEEK),
    "gpt_neox": (GPTNeoXForCausalLM, GPTNeoXConfig, {}),
    # windows that are shorter than the longer prompts, and than the longer completions
    "mistral": (MistralForCausalLM, MistralConfig, {"num_key_value_heads": 1, "sliding_window": 3}),
    "qwen2, experts": (Qwen2MoeForCausalLM, Qwen2MoeConfig, QWEN),
    "gemma3": (Gemma3ForCausalLM, Gemma3TextConfig, GEMMA | {"layer_types": ["sliding_attention", "full_attention"]}),
}


def model_of(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    architecture, config, changes = KINDS[kind]
    model = architecture(config(**SIZES, **changes)).train()
    with torch.no_grad():  # norms away from one, so that a norm on the wrong side of the rotary shows
        for name, p in model.named_parameters():
            if "norm" in name:
                p.uniform_(0.5, 1.5)
    return model


def batch(lengths: list[list[int]]) -> tuple[list[list[int]], list[list[list[int]]]]:
    """Prompts of 1, 4 and 9 tokens, with completions of the given lengths."""
    draw = random.Random(0)
    prompts = [[draw.randrange(2, VOCAB) for _ in range(n)] for n in (1, 4, 9)]
    return prompts, [[[draw.randrange(2, VOCAB) for _ in range(n)] for n in group] for group in lengths]


def in_full(model, prompt: list[int], ids: list[int], temperature: float) -> torch.Tensor:
    """Log-probabilities (t, v) by one plain forward pass of the whole sequence."""
    logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1, :VOCAB]
    return torch.log_softmax(logits / temperature, -1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [[[1, 3, 7], [2, 5], [6]], [[1], [1, 1], [1]]], ids=["mixed", "one token"])
def test_equals_whole_sequences(kind, lengths):
    model = model_of(kind)
    assert scoring._is_lean(model) == (kind in ("olmo2", "olmo2, grouped", "olmo2, tied"))
    prompts, completions = batch(lengths)
    logp, entropy, mask = completion_logprobs(model, prompts, completions, temperature=0.7, vocab_size=VOCAB)
    weight = torch.randn(logp.shape, generator=torch.Generator().manual_seed(1))
    (logp * weight).sum().backward()
    found = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    assert not entropy.requires_grad

    row, total = 0, 0.0
    for prompt, group in zip(prompts, completions, strict=True):
        for ids in group:
            n = len(ids)
            logps = in_full(model, prompt, ids, 0.7)
            expected = logps[torch.arange(n), torch.tensor(ids)]
            torch.testing.assert_close(logp[row, :n], expected, rtol=1e-5, atol=1e-5)
            spread = torch.distributions.Categorical(logits=logps.detach()).entropy()
            torch.testing.assert_close(entropy[row, :n], spread, rtol=1e-5, atol=1e-5)
            assert mask[row].tolist() == [1.0] * n + [0.0] * (logp.shape[1] - n)
            assert not logp[row, n:].any() and not entropy[row, n:].any()
            total = total + (expected * weight[row, :n]).sum()
            row += 1
    total.backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(found[name], p.grad, rtol=1e-4, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
    assert model.config._attn_implementation != "packed"  # whoever uses the model next finds it as it was


def test_same_call_same_bytes():
    model = model_of("olmo2")
    results = []
    for _ in range(2):
        logp, entropy, _ = completion_logprobs(model, *batch([[1, 3, 7], [2, 5], [6]]), vocab_size=VOCAB)
        logp.sum().backward()
        results.append([logp, entropy, *(p.grad for p in model.parameters())])
        model.zero_grad()
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_ids_that_are_never_drawn_take_no_part():
    model = model_of("olmo2")
    logp, _, _ = completion_logprobs(model, *batch([[4], [4], [4]]), vocab_size=VOCAB)
    logp.sum().backward()
    assert model.lm_head.weight.grad[:VOCAB].all() and not model.lm_head.weight.grad[VOCAB:].any()


@pytest.mark.parametrize("wrapped", ["autocast", "half"])
def test_other_precisions_go_through_transformers(wrapped):
    model = model_of("olmo2")
    exact, _, _ = completion_logprobs(model, *batch([[4], [4], [4]]), vocab_size=VOCAB)
    if wrapped == "autocast":
        model.forward = torch.autocast("cpu", torch.bfloat16)(model.forward)
    else:
        model = model.to(torch.bfloat16)
    rounded, _, _ = completion_logprobs(model, *batch([[4], [4], [4]]), vocab_size=VOCAB)
    assert rounded.dtype == torch.float32 and not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, rtol=0.1, atol=0.3)


def test_models_that_cannot_be_packed_are_named():
    model = model_of("llama")
    model.gradient_checkpointing_enable()
    with pytest.raises(UserError, match="gradient_checkpointing_disable"):
        completion_logprobs(model, *batch([[1], [2], [3]]))


def test_attention_that_is_more_than_a_softmax_of_products_is_refused():
    model = Gemma2ForCausalLM(Gemma2Config(**SIZES, **GEMMA))
    with pytest.raises(UserError, match="Gemma2Attention attends with `softcap`"):
        completion_logprobs(model, *batch([[1], [2], [3]]))
    model = model_of("llama")
    model.config.layer_types = ["chunked_attention", "full_attention"]
    recurrent = RecurrentGemmaForCausalLM(RecurrentGemmaConfig(**SIZES, lru_width=32))
    with pytest.raises(UserError, match="layers of full or sliding attention alone"):
        completion_logprobs(recurrent, *batch([[1], [2], [3]]))
    with pytest.raises(UserError, match="layers of full or sliding attention alone"):
        completion_logprobs(model, *batch([[1], [2], [3]]))
