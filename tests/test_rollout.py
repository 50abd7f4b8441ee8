"""The embedded sampler against transformers: same tokens, same log-probabilities, the right distribution."""

import dataclasses

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Olmo2Config, Olmo2ForCausalLM

from excursions.params import UserError
from excursions.rollout.sampler import Completion, sample_seed, uniforms
from excursions.rollout.torch_engine import TorchEngine

torch.set_num_threads(1)

VOCAB = 50  # ids of the tokenizer; the embedding has padded rows beyond
PADDED_VOCAB = 64
EOS = 7


def tiny_model(kv_heads: int = 4, tied: bool = False, vocab_size: int = VOCAB, **changes) -> Olmo2ForCausalLM:
    torch.manual_seed(1)
    config = Olmo2Config(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        max_position_embeddings=128,
        tie_word_embeddings=tied,
        initializer_range=0.3,  # wide: distributions far from uniform, and no near ties for greedy
        pad_token_id=0,
        eos_token_id=None,
        **changes,
    )
    model = Olmo2ForCausalLM(config).eval()
    with torch.no_grad():  # norms away from one, so that a norm on the wrong side of the rotary shows
        for name, p in model.named_parameters():
            if "norm" in name:
                p.uniform_(0.5, 1.5)
    return model


def prompts_of(*lengths: int) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(1, VOCAB, size=n).tolist() for n in lengths]


def seeds_of(prompts: list[list[int]], n: int) -> list[list[int]]:
    return [[sample_seed(0, 0, f"q{p}", i) for i in range(n)] for p in range(len(prompts))]


@torch.inference_mode()
def reference_logprobs(model, prompt: list[int], completion: Completion, temperature: float) -> torch.Tensor:
    """The log-probability of each sampled token by one full forward of transformers."""
    ids = torch.tensor([prompt + completion.token_ids])
    logits = model(ids).logits[0, len(prompt) - 1 : -1, :VOCAB].float()
    return (logits / temperature).log_softmax(-1).gather(1, ids[0, len(prompt) :, None]).squeeze(1)


@pytest.mark.parametrize("shape", [{}, {"kv_heads": 2}, {"kv_heads": 1}, {"tied": True}], ids=str)
def test_greedy_equals_transformers_generate(shape):
    model = tiny_model(**shape)
    prompts = prompts_of(1, 17, 33)
    engine = TorchEngine(model, None, VOCAB)
    ours = engine.generate(prompts, seeds_of(prompts, 2), max_new_tokens=40, temperature=0)
    for prompt, completions in zip(prompts, ours, strict=True):
        theirs = model.generate(torch.tensor([prompt]), max_new_tokens=40, do_sample=False)
        theirs = theirs[0, len(prompt) :].tolist()
        assert [c.token_ids for c in completions] == [theirs, theirs]
        expected = reference_logprobs(model, prompt, completions[0], 1.0)
        torch.testing.assert_close(torch.tensor(completions[0].logprobs), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [{}, {"kv_heads": 2}, {"tied": True}, {"vocab_size": PADDED_VOCAB}], ids=str)
@pytest.mark.parametrize("temperature", [0.6, 1.0])
def test_logprobs_equal_a_full_forward(shape, temperature):
    model = tiny_model(**shape)
    prompts = prompts_of(3, 20, 11)
    engine = TorchEngine(model, EOS, VOCAB)  # some rows end early: the others must not notice
    groups = engine.generate(prompts, seeds_of(prompts, 6), max_new_tokens=70, temperature=temperature)
    for prompt, completions in zip(prompts, groups, strict=True):
        for c in completions:
            expected = reference_logprobs(model, prompt, c, temperature)
            torch.testing.assert_close(torch.tensor(c.logprobs), expected, atol=1e-4, rtol=0)
    assert {c.stop_reason for completions in groups for c in completions} == {"eos", "length"}


def test_the_eos_ends_a_completion_and_belongs_to_it():
    model = tiny_model()
    prompts = prompts_of(4, 9)
    engine = TorchEngine(model, EOS, VOCAB)
    groups = engine.generate(prompts, seeds_of(prompts, 32), max_new_tokens=12, temperature=1.5)
    for c in (c for completions in groups for c in completions):
        assert len(c.logprobs) == len(c.token_ids)
        assert EOS not in c.token_ids[:-1]
        if c.stop_reason == "eos":
            assert c.token_ids[-1] == EOS
        else:
            assert c.token_ids[-1] != EOS and len(c.token_ids) == 12


def test_an_eos_in_the_last_place_is_an_eos():
    model = tiny_model()
    prompts = prompts_of(4)
    completion = TorchEngine(model, None, VOCAB).generate(prompts, [[1]], max_new_tokens=1, temperature=1)[0][0]
    again = TorchEngine(model, completion.token_ids[0], VOCAB).generate(
        prompts, [[1]], max_new_tokens=1, temperature=1
    )[0][0]
    assert again == dataclasses.replace(completion, stop_reason="eos")


def test_neither_batching_nor_order_nor_company_changes_a_sample():
    model = tiny_model()
    prompts = prompts_of(3, 20, 11, 20, 40)
    seeds = seeds_of(prompts, 3)

    def sample(prompts, seeds, **limit):
        return TorchEngine(model, EOS, VOCAB, **limit).generate(prompts, seeds, max_new_tokens=40, temperature=1.0)

    def tokens(groups):
        return [[c.token_ids for c in completions] for completions in groups]

    together = sample(prompts, seeds)
    assert sample(prompts, seeds) == together  # bit for bit, log-probabilities included
    for limit in (1, 100, 230):  # tokens: one row a batch; groups cut in two; several groups a batch
        split = sample(prompts, seeds, max_batch_tokens=limit)
        assert tokens(split) == tokens(together)
        for one, other in zip(sum(split, []), sum(together, []), strict=True):
            np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-4)
    backwards = sample(prompts[::-1], [s[::-1] for s in seeds[::-1]])
    assert tokens(c[::-1] for c in backwards[::-1]) == tokens(together)
    alone = sample([prompts[1]], [[seeds[1][2]]])
    assert alone[0][0].token_ids == together[1][2].token_ids


def test_the_first_token_follows_the_softmax():
    model = tiny_model(vocab_size=PADDED_VOCAB)
    prompt, n, temperature = prompts_of(6)[0], 20_000, 0.8
    with torch.inference_mode():
        p = (model(torch.tensor([prompt])).logits[0, -1, :VOCAB] / temperature).softmax(-1).double().numpy()
    groups = TorchEngine(model, None, VOCAB).generate(
        [prompt], [list(range(n))], max_new_tokens=1, temperature=temperature
    )
    counts = np.bincount([c.token_ids[0] for c in groups[0]], minlength=VOCAB)
    likely = p * n > 5
    expected = np.append(p[likely], p[~likely].sum()) * n
    found = np.append(counts[likely], counts[~likely].sum())
    chi_square, degrees = ((found - expected) ** 2 / expected).sum(), likely.sum()
    assert degrees > 10
    assert chi_square < degrees + 4 * np.sqrt(2 * degrees)  # four standard deviations above the mean


def test_padded_ids_are_never_sampled():
    model = tiny_model(vocab_size=PADDED_VOCAB)
    with torch.no_grad():  # where transformers would sample nothing else
        model.lm_head.weight[VOCAB:] *= 50
    prompts = prompts_of(2, 5)
    for temperature in (0, 1.0, 5.0):
        groups = TorchEngine(model, None, VOCAB).generate(
            prompts, seeds_of(prompts, 50), max_new_tokens=5, temperature=temperature
        )
        assert max(t for completions in groups for c in completions for t in c.token_ids) < VOCAB


def test_weights_are_a_snapshot_until_loaded_again():
    model = tiny_model()
    prompts = prompts_of(8)
    engine = TorchEngine(model, None, VOCAB)

    def greedy():
        return engine.generate(prompts, [[0]], max_new_tokens=20, temperature=0)[0][0].token_ids

    before = greedy()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    assert greedy() == before
    engine.load_weights(model)
    generated = model.generate(torch.tensor(prompts), max_new_tokens=20, do_sample=False)[0, 8:].tolist()
    assert greedy() == generated != before


def test_half_precision_models_are_run_in_fp32():
    model = tiny_model().to(torch.bfloat16)
    prompts = prompts_of(8)
    half = TorchEngine(model, None, VOCAB).generate(prompts, [[5]], max_new_tokens=20, temperature=1)
    full = TorchEngine(model.float(), None, VOCAB).generate(prompts, [[5]], max_new_tokens=20, temperature=1)
    assert half == full


def test_seeds_are_stable_and_do_not_collide():
    # pinned: committed results depend on them
    assert sample_seed(0, 0, "easy-0001", 0) == 8401456609738937799
    assert sample_seed(7, 120, "hard-0042", 31) == 3400750737374378544
    np.testing.assert_array_equal(
        uniforms([0, 2**63 - 1], 2),
        [[0.8833108082136426, 0.43152799704850997], [0.5572490742492745, 0.6693562358305625]],
    )
    seeds = {sample_seed(r, s, f"q{q}", i) for r in range(3) for s in range(11) for q in range(40) for i in range(32)}
    assert len(seeds) == 3 * 11 * 40 * 32
    assert all(0 <= seed < 2**63 for seed in seeds)
    # a separator inside an id cannot make two samples the same
    assert sample_seed(1, 2, "3/q", 4) != sample_seed(1, 2, "q", 4)


def test_uniforms_are_uniform_and_depend_on_seed_and_token_only():
    u = uniforms(list(range(300)), 64)
    assert u.dtype == np.float64 and 0 <= u.min() and u.max() < 1
    np.testing.assert_array_equal(uniforms([17], 5)[0], u[17, :5])
    assert len(np.unique(u)) == u.size
    assert abs(u.mean() - 0.5) < 4 / np.sqrt(12 * u.size)
    neighbours = (
        np.corrcoef(u[:-1].ravel(), u[1:].ravel())[0, 1],
        np.corrcoef(u[:, :-1].ravel(), u[:, 1:].ravel())[0, 1],
    )
    assert max(map(abs, neighbours)) < 4 / np.sqrt(u.size)


def test_bad_requests_are_explained():
    model = tiny_model()
    engine = TorchEngine(model, None, VOCAB)

    def refused(message, prompts=([1, 2],), seeds=((0,),), error=UserError, max_new_tokens=4, temperature=1.0):
        with pytest.raises(error, match=message):
            engine.generate(list(prompts), list(seeds), max_new_tokens=max_new_tokens, temperature=temperature)

    refused(
        "Prompt 0 has 120 tokens; with max_new_tokens 9 that is 129.*context is 128",
        [[1] * 120],
        max_new_tokens=9,
    )
    refused("Prompt 1 is empty", [[1], []], [[0], [0]])
    refused("ids from 3 to 50.*0 to 49", [[3, 50]])
    refused("temperature is -1", temperature=-1)
    refused("max_new_tokens is 0", max_new_tokens=0)
    refused("1 prompts but seeds for 2", seeds=[[0], [0]], error=ValueError)
    assert engine.generate([], [], max_new_tokens=4, temperature=1.0) == []
    assert engine.generate([[1]], [[]], max_new_tokens=4, temperature=1.0) == [[]]


def test_models_it_cannot_run_are_refused():
    with pytest.raises(UserError, match="not LlamaForCausalLM"):
        config = LlamaConfig(
            vocab_size=VOCAB, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
        )
        TorchEngine(LlamaForCausalLM(config), EOS, VOCAB)
    with pytest.raises(UserError, match="attention_bias is True"):
        TorchEngine(tiny_model(attention_bias=True), EOS, VOCAB)
    with pytest.raises(UserError, match="tokenizer has 51 tokens"):
        TorchEngine(tiny_model(), EOS, VOCAB + 1)
    with pytest.raises(UserError, match="eos_token_id is 50"):
        TorchEngine(tiny_model(), VOCAB, VOCAB)
    diverged = tiny_model()
    with torch.no_grad():
        diverged.model.norm.weight[0] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        TorchEngine(diverged, EOS, VOCAB).generate([[1]], [[0]], max_new_tokens=1, temperature=1)
