"""Sampling with transformers' models: the draws of the embedded engine, for any architecture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    PreTrainedTokenizerFast,
    RecurrentGemmaConfig,
    RecurrentGemmaForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
)

from excursions.params import UserError
from excursions.rollout.sampler import Stop, sample_seed
from excursions.rollout.torch_engine import TorchEngine
from excursions.rollout.transformers_engine import TransformersEngine

torch.set_num_threads(1)

VOCAB, ROWS, EOS = 50, 64, 7  # ids of the tokenizer, rows of the embedding, which is padded
SHAPE = {
    "vocab_size": ROWS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,  # wide: distributions far from uniform, and no near ties for greedy
    "pad_token_id": 0,
    "eos_token_id": 3,  # not the tokenizer's, which counts
}
ARCHITECTURES = [(Olmo2ForCausalLM, Olmo2Config), (LlamaForCausalLM, LlamaConfig), (GPTNeoXForCausalLM, GPTNeoXConfig)]


def tiny(model=Olmo2ForCausalLM, config=Olmo2Config, **changes):
    torch.manual_seed(1)
    return model(config(**SHAPE | changes)).eval()


@pytest.fixture(params=ARCHITECTURES, ids=lambda pair: pair[0].__name__)
def model(request):
    return tiny(*request.param)


def words(n: int = VOCAB, eos: str | None = f"w{EOS}") -> PreTrainedTokenizerFast:
    level = models.WordLevel({f"w{i}": i for i in range(n)}, unk_token="w0")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(level), eos_token=eos)


def prompts_of(*lengths: int) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(1, VOCAB, size=n).tolist() for n in lengths]


def seeds_of(prompts: list[list[int]], n: int) -> list[list[int]]:
    return [[sample_seed(0, 0, f"q{p}", i) for i in range(n)] for p in range(len(prompts))]


def assert_same(found, expected, atol=1e-4):
    for one, other in zip(sum(found, []), sum(expected, []), strict=True):
        assert (one.token_ids, one.stop_reason) == (other.token_ids, other.stop_reason)
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=atol)


def test_an_architecture_that_goes_on_from_elsewhere_than_its_cache_is_refused():
    with pytest.raises(UserError, match="RwkvForCausalLM cannot be sampled step by step .* differ by .* nats"):
        TransformersEngine(tiny(RwkvForCausalLM, RwkvConfig), words())
    recurrent = tiny(RecurrentGemmaForCausalLM, RecurrentGemmaConfig, lru_width=32, attention_window_size=16)
    with pytest.raises(UserError, match="RecurrentGemmaForCausalLM cannot be sampled step by step"):
        TransformersEngine(recurrent, words())
    mamba = tiny(MambaForCausalLM, MambaConfig, initializer_range=0.3)
    with pytest.raises(UserError, match="MambaForCausalLM cannot be sampled step by step"):
        TransformersEngine(mamba, words())


@pytest.mark.parametrize("temperature", [0, 0.6, 1.0])
@pytest.mark.parametrize("stop", [None, ["w11 w12", "w9"]])
def test_draws_are_those_of_the_embedded_engine(temperature, stop):
    model = tiny()
    prompts = prompts_of(3, 20, 11)
    request = {"max_new_tokens": 60, "temperature": temperature, "stop": stop}
    ours = TransformersEngine(model, words()).generate(prompts, seeds_of(prompts, 6), **request)
    embedded = TorchEngine(model, EOS, VOCAB, tokenizer=words()).generate(prompts, seeds_of(prompts, 6), **request)
    assert_same(ours, embedded)
    if temperature:
        reasons = {c.stop_reason for group in ours for c in group}
        assert reasons == {"eos", "length"} if stop is None else {"eos", "stop"} <= reasons


@pytest.mark.parametrize("temperature", [0, 0.6, 1.0])
def test_logprobs_equal_a_full_forward(model, temperature):
    prompts = prompts_of(3, 20, 11)
    groups = TransformersEngine(model, words()).generate(
        prompts, seeds_of(prompts, 4), max_new_tokens=40, temperature=temperature
    )
    for prompt, group in zip(prompts, groups, strict=True):
        for c in group:
            ids = torch.tensor([prompt + c.token_ids])
            with torch.inference_mode():
                logits = model(ids).logits[0, len(prompt) - 1 : -1, :VOCAB]
            expected = (logits / (temperature or 1)).log_softmax(-1).gather(1, ids[0, len(prompt) :, None])
            torch.testing.assert_close(torch.tensor(c.logprobs), expected.squeeze(1), atol=1e-4, rtol=0)
            assert EOS not in c.token_ids[:-1] and max(c.token_ids) < VOCAB
            assert (c.stop_reason == "eos") == (c.token_ids[-1] == EOS)
            assert c.stop_reason == "eos" or len(c.token_ids) == 40


def test_greedy_equals_generate(model):
    prompts = prompts_of(9)
    with torch.no_grad():  # out of reach of both
        model.get_output_embeddings().weight[VOCAB:] = 0
    found = TransformersEngine(model, words(eos=None)).generate(prompts, [[0]], max_new_tokens=30, temperature=0)
    plain = model.generate(torch.tensor(prompts), max_new_tokens=30, do_sample=False, eos_token_id=None)
    assert found[0][0].token_ids == plain[0, 9:].tolist()
    assert found[0][0].stop_reason == "length"


def test_prompts_that_begin_alike_are_computed_once_and_sampled_alike(model, monkeypatch):
    alone = [prompt[::-1] for prompt in prompts_of(70, 9)]
    common = prompts_of(66)[0]
    prompts = [common + [5, 6, 7], alone[0], common + [8], common + [5, 6], alone[1], common]
    engine = TransformersEngine(model, words())
    computed, forward = [], engine.model.forward

    def record(**kwargs):
        computed.append(kwargs["input_ids"].numel())
        return forward(**kwargs)

    monkeypatch.setattr(engine.model, "forward", record)
    found = engine.generate(prompts, seeds_of(prompts, 3), max_new_tokens=20, temperature=1.0)
    # the common beginning once (but its last token, from which one of the prompts goes on), then four ends of up to 4
    assert sorted(computed, reverse=True)[:3] == [2 * 70, 65, 4 * 4]
    for p, prompt in enumerate(prompts):
        one_by_one = engine.generate([prompt], [seeds_of(prompts, 3)[p]], max_new_tokens=20, temperature=1.0)
        assert_same([found[p]], one_by_one)


WINDOWED = [
    (MistralForCausalLM, MistralConfig, {"num_key_value_heads": 2, "sliding_window": 8}),
    (GPTNeoForCausalLM, GPTNeoConfig, {"window_size": 8, "attention_types": [[["global", "local"], 1]]}),
]


@pytest.mark.parametrize(("architecture", "config", "changes"), WINDOWED)
def test_a_model_with_sliding_windows_is_sampled_as_it_is(architecture, config, changes):
    model = tiny(architecture, config, **changes)
    common = prompts_of(66)[0]
    prompts = [common + [5, 6, 7], common + [8], *prompts_of(9)]
    engine = TransformersEngine(model, words(), max_batch_tokens=200)  # several batches
    for temperature in (0, 1.0):
        groups = engine.generate(prompts, seeds_of(prompts, 3), max_new_tokens=20, temperature=temperature)
        for prompt, group in zip(prompts, groups, strict=True):
            for c in group:
                ids = torch.tensor([prompt + c.token_ids])
                with torch.inference_mode():
                    logits = model(ids).logits[0, len(prompt) - 1 : -1, :VOCAB]
                expected = logits.log_softmax(-1).gather(1, ids[0, len(prompt) :, None]).squeeze(1)
                torch.testing.assert_close(torch.tensor(c.logprobs), expected, atol=1e-4, rtol=0)


# --- Stop strings ---


def bytes_tokenizer(*words: str) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of single characters and these words."""
    letters = pre_tokenizers.ByteLevel.alphabet()
    vocab = {word: i for i, word in enumerate(["<eos>", *sorted(letters), *words])}
    level = Tokenizer(models.WordLevel(vocab, unk_token="<eos>"))
    level.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=level, eos_token="<eos>")


@pytest.mark.parametrize(
    ("pieces", "stop", "kept"),
    [
        (["5", "Ċ", "Ċ", "Question", ":"], "\n\nQuestion:", ["5"]),
        (["5", "ĊĊ", "Question", ":"], "\n\nQuestion:", ["5"]),
        (["5", "}ĊĊ", "Question", ":"], "\n\nQuestion:", ["5", "}ĊĊ"]),  # without it the answer would be another
        (["5", "Ġ", "Question", ":"], "Question:", ["5"]),  # the space goes with it
        (["Question", ":"], "Question:", ["Question"]),  # at least one
        (["5", "Ċ", "Question"], "\n\nQuestion:", None),
        (["5", ":", "Ċ", "x", "y"], ["yx", "xy"], ["5", ":"]),
        (["5", "Ã", "©"], "é", ["5"]),
    ],
)
def test_the_tokens_of_the_text_before_the_stop_string_are_kept(pieces, stop, kept):
    tokenizer = bytes_tokenizer("ĊĊ", "Question", "}ĊĊ")
    ids = tokenizer.convert_tokens_to_ids(pieces)
    stopping = Stop(tokenizer, stop)
    assert stopping.kept(ids) == (None if kept is None else len(kept))
    if kept is not None:
        assert stopping.may_end_v[ids[-1]]


def test_a_stop_string_ends_what_would_have_gone_on(model):
    prompts = prompts_of(3, 20)
    request = {"max_new_tokens": 60, "temperature": 1.0}
    engine = TransformersEngine(model, words())
    plain = engine.generate(prompts, seeds_of(prompts, 8), **request)
    stopped = engine.generate(prompts, seeds_of(prompts, 8), stop=["w11 w12", "w9"], **request)
    reasons = set()
    for before, after in zip(sum(plain, []), sum(stopped, []), strict=True):
        text = " ".join(f"w{i}" for i in before.token_ids) + " "
        ends = [at for at in (text.find("w11 w12 "), text.find("w9 ")) if at >= 0]
        length = max(1, len(text[: min(ends)].split())) if ends else len(before.token_ids)
        assert after.token_ids == before.token_ids[:length]
        np.testing.assert_allclose(after.logprobs, before.logprobs[:length], atol=1e-4)
        assert after.stop_reason == ("stop" if ends else before.stop_reason)
        reasons.add(after.stop_reason)
    assert reasons == {"stop", "eos", "length"} or reasons == {"stop", "eos"}


def test_an_empty_stop_string_is_refused_and_text_needs_a_tokenizer():
    with pytest.raises(ValueError, match="give the engine its tokenizer"):
        TorchEngine(tiny(), EOS, VOCAB).generate([[1]], [[0]], max_new_tokens=2, temperature=1.0, stop="w5")
    with pytest.raises(UserError, match="A stop string is empty"):
        TransformersEngine(tiny(), words()).generate([[1]], [[0]], max_new_tokens=2, temperature=1.0, stop="")


def test_neither_batching_nor_order_changes_a_sample(model):
    prompts = prompts_of(3, 20, 11, 40)
    seeds = seeds_of(prompts, 3)

    def sample(prompts, seeds, **limit):
        engine = TransformersEngine(model, words(), **limit)
        return engine.generate(prompts, seeds, max_new_tokens=30, temperature=1.0)

    together = sample(prompts, seeds)
    for limit in (1, 110, 300):  # tokens: one row a batch; groups cut in two; several groups a batch
        assert_same(sample(prompts, seeds, max_batch_tokens=limit), together)
    backwards = sample(prompts[::-1], [s[::-1] for s in seeds[::-1]])
    assert_same([group[::-1] for group in backwards[::-1]], together)


def test_no_batch_is_larger_than_the_limit(monkeypatch):
    model = tiny()
    engine = TransformersEngine(model, words(eos=None), max_batch_tokens=150)
    cached, forward = [], engine.model.forward

    def record(**kwargs):
        cached.append(kwargs["attention_mask"].numel())
        return forward(**kwargs)

    monkeypatch.setattr(engine.model, "forward", record)
    prompts = prompts_of(3, 20, 11, 40)
    engine.generate(prompts, seeds_of(prompts, 5), max_new_tokens=30, temperature=1.0)
    assert 130 < max(cached) <= 150


def test_padded_ids_are_never_sampled():
    model = tiny()
    with torch.no_grad():  # where transformers would sample nothing else
        model.lm_head.weight[VOCAB:] *= 50
    prompts = prompts_of(2, 5)
    for temperature in (0, 1.0, 5.0):
        groups = TransformersEngine(model, words()).generate(
            prompts, seeds_of(prompts, 30), max_new_tokens=5, temperature=temperature
        )
        assert max(t for group in groups for c in group for t in c.token_ids) < VOCAB


def test_the_models_own_settings_have_no_say():
    model, plain = tiny(), tiny()
    settings = {
        "do_sample": True,
        "temperature": 0.1,
        "top_k": 1,
        "top_p": 0.1,
        "repetition_penalty": 3.0,
        "suppress_tokens": list(range(20)),
        "eos_token_id": list(range(40)),
        "use_cache": False,
        "max_length": 4,
    }
    for name, value in settings.items():
        setattr(model.generation_config, name, value)
    model.config.use_cache = False
    prompts = prompts_of(3, 20)
    request = {"max_new_tokens": 40, "temperature": 1.0}
    found = TransformersEngine(model, words()).generate(prompts, seeds_of(prompts, 4), **request)
    expected = TransformersEngine(plain, words()).generate(prompts, seeds_of(prompts, 4), **request)
    assert found == expected
    assert model.generation_config.top_k == 1 and model.config.use_cache is False  # the trainer's stays as it is


def test_weights_are_a_snapshot_until_loaded_again(model):
    prompts = prompts_of(8)
    engine = TransformersEngine(model, words(eos=None))

    def greedy():
        return engine.generate(prompts, [[0]], max_new_tokens=20, temperature=0)[0][0].token_ids

    before = greedy()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    assert greedy() == before
    engine.load_weights(model)
    fresh = TransformersEngine(model, words(eos=None)).generate(prompts, [[0]], max_new_tokens=20, temperature=0)
    assert greedy() == fresh[0][0].token_ids != before


def test_starting_and_sampling_leave_torchs_random_numbers_alone(model):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    TransformersEngine(model, words()).generate([[1, 2]], [[3]], max_new_tokens=3, temperature=1.0)
    assert torch.equal(torch.rand(3), expected)


def test_bad_requests_are_explained():
    engine = TransformersEngine(tiny(), words())

    def refused(message, prompts=([1, 2],), seeds=((0,),), error=UserError, max_new_tokens=4, temperature=1.0):
        with pytest.raises(error, match=message):
            engine.generate(list(prompts), list(seeds), max_new_tokens=max_new_tokens, temperature=temperature)

    refused("Prompt 0 has 120 tokens; .*that is 129.*context is 128", [[1] * 120], max_new_tokens=9)
    refused("Prompt 1 is empty", [[1], []], [[0], [0]])
    refused("ids from 3 to 64.*0 to 63", [[3, 64]])
    refused("temperature is -1", temperature=-1)
    refused("max_new_tokens is 0", max_new_tokens=0)
    refused("1 prompts but seeds for 2", seeds=[[0], [0]], error=ValueError)
    assert engine.generate([], [], max_new_tokens=4, temperature=1.0) == []
    assert engine.generate([[1]], [[]], max_new_tokens=4, temperature=1.0) == [[]]
    with pytest.raises(UserError, match="tokenizer has 65 tokens, the model's vocab_size is 64"):
        TransformersEngine(tiny(), words(65))
    diverged = tiny()
    with torch.no_grad():
        diverged.model.norm.weight[0] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        TransformersEngine(diverged, words()).generate([[1]], [[0]], max_new_tokens=1, temperature=1)


def test_soft_caps_are_sampled_with():
    model = tiny(Gemma2ForCausalLM, Gemma2Config, head_dim=8, num_key_value_heads=2, attn_logit_softcapping=1.0)
    prompts = prompts_of(9)
    ((found,),) = TransformersEngine(model, words()).generate(prompts, [[0]], max_new_tokens=8, temperature=1.0)
    ids = torch.tensor([prompts[0] + found.token_ids])
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        logps = model(ids).logits[0, 8:-1, :VOCAB].log_softmax(-1).gather(1, ids[0, 9:, None]).squeeze(1)
    torch.testing.assert_close(torch.tensor(found.logprobs), logps, atol=1e-4, rtol=0)
