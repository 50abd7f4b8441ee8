"""The vLLM engine against the embedded one and the trainer's score. Run with `make test-vllm`; skipped without vLLM."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, Olmo2Config, Olmo2ForCausalLM, PreTrainedTokenizerFast

from excursions.models.processes import Processes
from excursions.models.scoring import completion_logprobs
from excursions.params import UserError
from excursions.rollout import vllm_engine
from excursions.rollout.sampler import sample_seed
from excursions.rollout.torch_engine import TorchEngine
from excursions.rollout.transformers_engine import TransformersEngine
from excursions.rollout.vllm_engine import VllmEngine
from excursions.training.grpo import Group, rl_gradients

vllm = pytest.importorskip("vllm", reason="vLLM is not installed; make test-vllm installs it in an environment apart")

VOCAB, ROWS, EOS, CONTEXT = 50, 64, 7, 256  # ids of the tokenizer, rows of the embedding, which is padded
SHAPE = {
    "vocab_size": ROWS,
    "hidden_size": 128,  # 32 a head: the least that vLLM's attention on a CPU can do
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.15,  # wide: distributions far from uniform, and no near ties for greedy
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 3,  # not the tokenizer's, which counts
}


def tiny(seed: int = 1, **changes) -> Olmo2ForCausalLM:
    torch.manual_seed(seed)
    model = Olmo2ForCausalLM(Olmo2Config(num_key_value_heads=2, **SHAPE | changes)).eval()
    with torch.no_grad():  # ids that, if they could be, would nearly always be sampled
        model.lm_head.weight[VOCAB:] *= 50
    return model


def tiny_pythia() -> GPTNeoXForCausalLM:
    torch.manual_seed(1)
    return GPTNeoXForCausalLM(GPTNeoXConfig(**SHAPE)).eval()


def words(n: int = VOCAB) -> PreTrainedTokenizerFast:
    level = models.WordLevel({f"w{i}": i for i in range(n)}, unk_token="w0")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(level), eos_token=f"w{EOS}")


def prompts_of(*lengths: int) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(1, VOCAB, size=n).tolist() for n in lengths]


def seeds_of(prompts: list[list[int]], n: int, step: int = 0) -> list[list[int]]:
    return [[sample_seed(0, step, f"q{p}", i) for i in range(n)] for p in range(len(prompts))]


def tokens(groups) -> list[list[list[int]]]:
    return [[c.token_ids for c in group] for group in groups]


@pytest.fixture(scope="session")
def engine():
    """One engine for all tests: starting it takes a minute. Each test loads the weights it is about."""
    before = dict(os.environ)
    engine = VllmEngine(tiny(), words(), kv_cache_gb=0.1)
    assert dict(os.environ) == before
    yield engine
    engine.close()


def assert_greedy_is_the_embedded_engines(engine, model) -> list:
    prompts = prompts_of(3, 150, 150, 20)  # vLLM caches blocks of 128 tokens on a CPU
    prompts[2][:140] = prompts[1][:140]
    request = {"max_new_tokens": 60, "temperature": 0}
    found = engine.generate(prompts, seeds_of(prompts, 2), **request)
    expected = TorchEngine(model, EOS, VOCAB).generate(prompts, seeds_of(prompts, 2), **request)
    assert tokens(found) == tokens(expected)
    for one, other in zip(sum(found, []), sum(expected, []), strict=True):
        assert one.stop_reason == other.stop_reason
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-4)
    return tokens(found)


def test_greedy_equals_the_embedded_engine_before_and_after_an_update(engine):
    model = tiny()
    engine.load_weights(model)
    before = assert_greedy_is_the_embedded_engines(engine, model)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    prompts = prompts_of(3, 150, 150, 20)
    prompts[2][:140] = prompts[1][:140]
    unchanged = engine.generate(prompts, seeds_of(prompts, 2), max_new_tokens=60, temperature=0)
    assert tokens(unchanged) == before  # a snapshot until loaded again
    engine.load_weights(model)
    after = assert_greedy_is_the_embedded_engines(engine, model)
    assert all(one[0] != other[0] for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize("temperature", [0.6, 1.0])
def test_logprobs_are_those_the_trainer_scores(engine, temperature):
    model = tiny()
    engine.load_weights(model)
    prompts = prompts_of(3, 130, 11)
    groups = engine.generate(prompts, seeds_of(prompts, 16), max_new_tokens=60, temperature=temperature)
    with torch.no_grad():
        logp_bt, _, mask_bt = completion_logprobs(
            model, prompts, tokens(groups), temperature=temperature, vocab_size=VOCAB
        )
    completions = sum(groups, [])
    found = torch.cat([torch.tensor(c.logprobs) for c in completions])
    torch.testing.assert_close(found, logp_bt[mask_bt > 0], atol=1e-3, rtol=0)
    assert max(max(c.token_ids) for c in completions) < VOCAB
    assert {c.stop_reason for c in completions} == {"eos", "length"}
    for c in completions:
        assert EOS not in c.token_ids[:-1]
        assert (c.stop_reason == "eos") == (c.token_ids[-1] == EOS)
        assert c.stop_reason == "eos" or len(c.token_ids) == 60
    assert any(3 in c.token_ids[:-1] for c in completions)  # the EOS of the model's own configuration stops nothing


def test_stop_strings_end_and_cut_as_in_the_embedded_engines(engine):
    model = tiny()
    engine.load_weights(model)
    prompts = prompts_of(3, 130, 11)
    reference = TransformersEngine(model, words())
    request = {"max_new_tokens": 60, "temperature": 0}
    whole = reference.generate(prompts, seeds_of(prompts, 1), **request)
    said = [token for token in whole[0][0].token_ids[20:] if token > 9]  # a word of one digit begins others
    request["stop"] = ["w11 w12", f"w{said[0]}"]
    found = engine.generate(prompts, seeds_of(prompts, 1), **request)
    expected = reference.generate(prompts, seeds_of(prompts, 1), **request)
    assert tokens(found) == tokens(expected)
    reasons = [c.stop_reason for group in found for c in group]
    assert reasons == [c.stop_reason for group in expected for c in group] and "stop" in reasons
    sampled = engine.generate(prompts, seeds_of(prompts, 16), **request | {"temperature": 1.0})
    for c in sum(sampled, []):
        assert len(c.logprobs) == len(c.token_ids) >= 1
        assert len(c.token_ids) == 1 or said[0] not in c.token_ids


def test_an_eos_in_the_last_place_is_an_eos(engine):
    engine.load_weights(tiny())
    found = engine.generate([[1, 2]], [list(range(300))], max_new_tokens=1, temperature=1.0)[0]
    assert {(c.token_ids[0] == EOS, c.stop_reason) for c in found} == {(True, "eos"), (False, "length")}


def test_the_first_token_follows_the_softmax(engine):
    model, prompt, n, temperature = tiny(), prompts_of(6)[0], 4000, 0.8
    engine.load_weights(model)
    with torch.inference_mode():
        p = (model(torch.tensor([prompt])).logits[0, -1, :VOCAB] / temperature).softmax(-1).double().numpy()
    found = engine.generate([prompt], seeds_of([prompt], n), max_new_tokens=1, temperature=temperature)[0]
    counts = np.bincount([c.token_ids[0] for c in found], minlength=VOCAB)
    likely = p * n > 5
    expected = np.append(p[likely], p[~likely].sum()) * n
    chi_square = ((np.append(counts[likely], counts[~likely].sum()) - expected) ** 2 / expected).sum()
    degrees = likely.sum()
    assert degrees > 10
    assert chi_square < degrees + 4 * np.sqrt(2 * degrees)  # four standard deviations above the mean


def test_same_seeds_give_the_same_samples(engine):
    engine.load_weights(tiny())
    prompts = prompts_of(3, 20, 11)
    request = {"max_new_tokens": 40, "temperature": 1.0}
    first = engine.generate(prompts, seeds_of(prompts, 4), **request)
    assert tokens(engine.generate(prompts, seeds_of(prompts, 4), **request)) == tokens(first)
    assert tokens(engine.generate(prompts, seeds_of(prompts, 4, step=1), **request)) != tokens(first)
    # in float32 another batch changes no sample here
    alone = engine.generate([prompts[1]], [seeds_of(prompts, 4)[1][:1]], **request)
    assert alone[0][0].token_ids == first[1][0].token_ids
    assert len({tuple(c.token_ids) for group in first for c in group}) == 12


def test_two_rl_steps_keep_sampler_and_trainer_together(engine):
    model = tiny()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    prompts = prompts_of(3, 20, 11)
    sampled = []
    for step in range(2):
        engine.load_weights(model)
        found = engine.generate(prompts, seeds_of(prompts, 8), max_new_tokens=30, temperature=0.6)
        sampled.append(tokens(found))
        rewards = [[float(sum(c.token_ids) % 2) for c in group] for group in found]
        groups = [Group(*group) for group in zip(prompts, found, rewards, strict=True)]
        metrics = rl_gradients(model, groups, temperature=0.6, vocab_size=VOCAB, processes=Processes())
        assert metrics["frac_reward_zero_std"] == 0, "the steps would have nothing to learn from"
        assert metrics["sampling/sampling_logp_difference/max"] < 1e-3, step
        optimizer.step()
        optimizer.zero_grad()
    assert sampled[0] != sampled[1]  # same seeds, other weights


def test_bad_requests_are_explained(engine):
    def refused(message, prompts=([1, 2],), seeds=((0,),), error=UserError, max_new_tokens=4, temperature=1.0):
        with pytest.raises(error, match=message):
            engine.generate(list(prompts), list(seeds), max_new_tokens=max_new_tokens, temperature=temperature)

    refused("Prompt 0 has 250 tokens; .*that is 259.*context is 256", [[1] * 250], max_new_tokens=9)
    refused("Prompt 1 is empty", [[1], []], [[0], [0]])
    refused("ids from 3 to 50.*0 to 49", [[3, 50]])
    refused("temperature is -1", temperature=-1)
    refused("temperature is 2.5: vLLM samples at 0", temperature=2.5)
    refused("temperature is 0.001: vLLM samples at 0", temperature=0.001)
    refused("max_new_tokens is 0", max_new_tokens=0)
    refused("1 prompts but seeds for 2", seeds=[[0], [0]], error=ValueError)
    assert engine.generate([], [], max_new_tokens=4, temperature=1.0) == []
    assert engine.generate([[1]], [[]], max_new_tokens=4, temperature=1.0) == [[]]
    diverged = tiny()
    with torch.no_grad():
        diverged.model.norm.weight[0] = float("nan")
    engine.load_weights(diverged)
    refused("not finite")


def test_models_it_cannot_run_are_refused(monkeypatch):
    with pytest.raises(UserError, match="tied embeddings.*engine.name in params.yaml to transformers"):
        VllmEngine(tiny(tie_word_embeddings=True), words(), kv_cache_gb=0.1)
    with pytest.raises(UserError, match="tokenizer has 65 tokens, the model's vocab_size is 64"):
        VllmEngine(tiny(), words(65), kv_cache_gb=0.1)

    def broken(**options):
        raise RuntimeError("Engine core initialization failed")

    monkeypatch.setattr(vllm, "LLM", broken)
    with pytest.raises(UserError, match="did not start .Engine core.*engine.kv_cache_gb.*now 0.1"):
        VllmEngine(tiny(), words(), kv_cache_gb=0.1)


def test_weights_go_through_memory_or_else_the_disk_and_leave_nothing(engine, monkeypatch, tmp_path):
    places = [vllm_engine.MEMORY_FOLDER, Path(tempfile.gettempdir())]

    def left():
        return {path for place in places if place.is_dir() for path in place.glob("excursions-vllm-*")}

    before = left()
    model = tiny(seed=2)
    engine.load_weights(model)
    monkeypatch.setattr(vllm_engine, "MEMORY_FOLDER", tmp_path / "none")
    engine.load_weights(model)
    assert_greedy_is_the_embedded_engines(engine, model)

    def full(*args, **options):
        raise OSError("disk full")

    monkeypatch.setattr(vllm_engine, "save_file", full)
    with pytest.raises(UserError, match="0.0 GB of weights for vLLM could not be written.*disk full.*TMPDIR"):
        engine.load_weights(model)
    assert left() == before


def test_each_process_of_a_launch_has_its_own_engine_which_ends_with_it(tmp_path):
    """Two processes of one gloo group, a Pythia: what vLLM's process inherits must not confuse it."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    with open(tmp_path / "log", "w+", encoding="utf-8") as log:
        code = subprocess.run([*launch, __file__, str(tmp_path)], stdout=log, stderr=log, timeout=600).returncode
        log.seek(0)
        assert code == 0, log.read()
    started = [int(pid) for rank in (0, 1) for pid in (tmp_path / f"started-{rank}").read_text().split()]
    assert len(started) >= 2
    deadline = time.monotonic() + 60
    while running := [pid for pid in started if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]:
        assert time.monotonic() < deadline, f"of vLLM's processes {started} these live on: {running}"
        time.sleep(0.5)


def _in_each_process(folder: Path) -> None:
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    model = tiny_pythia()
    engine = VllmEngine(model, words(), kv_cache_gb=0.1, local_rank=int(os.environ["LOCAL_RANK"]))
    started = [child.pid for child in psutil.Process().children(recursive=True)]
    (folder / f"started-{rank}").write_text(" ".join(map(str, started)))
    prompts = prompts_of(5, 30)[rank::2]  # its share of the prompts
    request = {"max_new_tokens": 30, "temperature": 0}
    before = None
    for _ in range(2):
        engine.load_weights(model)
        found = engine.generate(prompts, [[0]], **request)
        expected = TransformersEngine(model, words()).generate(prompts, [[0]], **request)
        everywhere = [None, None]
        torch.distributed.all_gather_object(everywhere, tokens(found) == tokens(expected) != before)
        assert everywhere == [True, True], everywhere
        before = tokens(found)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.05 * torch.randn_like(p))
    torch.distributed.destroy_process_group()
    os._exit(0)  # like a kill: the engine is not closed


if __name__ == "__main__":
    _in_each_process(Path(sys.argv[1]))
