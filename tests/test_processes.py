"""Several processes give what one gives: pretraining, SFT, GRPO and parallel averaging, whole or sharded (FSDP2)."""

from dataclasses import replace
from types import SimpleNamespace

import distributed_work
import pytest
import torch

from excursions.data.nano import corpus
from excursions.models.model import build_model, load_model
from excursions.models.processes import Processes
from excursions.params import UserError
from excursions.rollout.torch_engine import TorchEngine
from excursions.training import pretrain
from excursions.training.recipes import training


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    before = distributed_work.rl.grade_completions
    made = distributed_work.everything(Processes(), tmp_path_factory.mktemp("alone"))
    distributed_work.rl.grade_completions = before
    return made


KINDS = {"whole": ["--multi_gpu"], "sharded": ["--use_fsdp", "--fsdp_version", "2"]}


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_give_what_one_gives(alone, tmp_path, kind):
    options = [*KINDS[kind], "--mixed_precision", "no"]
    distributed_work.launch(*options, distributed_work.__file__, str(tmp_path))
    found = torch.load(tmp_path / "made.pt")
    assert found["sharded"] == (kind == "sharded")
    assert found["made"].keys() == alone.keys()
    for name, one in alone.items():
        two = found["made"][name]
        assert two["seen"] == pytest.approx(one["seen"], abs=5e-5), name
        for key, value in one["weights"].items():
            off = (two["weights"][key] - value).abs()
            # AdamW makes whole steps (of 1e-4) of a gradient that cancels to nearly nothing, as of a token's embedding
            assert off.max() < 4e-4 and (off > 1e-5).float().mean() < 0.005, f"{name}: {key}"


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_is_near_and_the_weights_stay_in_float32(alone, tmp_path, kind):
    options = [*KINDS[kind], "--mixed_precision", "bf16"]
    distributed_work.launch(*options, distributed_work.__file__, str(tmp_path), "parallel")
    two, one = torch.load(tmp_path / "made.pt")["made"]["parallel"], alone["parallel"]
    assert two["seen"] == pytest.approx(one["seen"], abs=0.2) and two["seen"] != pytest.approx(one["seen"], abs=1e-5)
    for key, value in one["weights"].items():
        assert two["weights"][key].dtype == torch.float32
        torch.testing.assert_close(two["weights"][key], value, atol=2e-3, rtol=0, msg=key)


def test_fsdp_1_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "1")
    with pytest.raises(UserError, match="add --fsdp_version 2"):
        Processes()


def test_more_processes_than_gpus_is_one_sentence(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    with pytest.raises(UserError, match="8 processes were started on this machine, which has 2 GPUs"):
        Processes()


def test_a_sampler_that_is_not_the_policy_stops_the_run(smoke):
    tokenizer = corpus.tokenizer(smoke.questions.seed)
    model, other = (build_model(smoke.model, tokenizer, seed).eval() for seed in (0, 1))
    here = Processes()
    model = here.place(model)
    engine = TorchEngine(other, tokenizer.eos_token_id, len(tokenizer), tokenizer=tokenizer)
    engine.load_weights = lambda model: None
    scale = replace(smoke, rl=replace(smoke.rl, kl=0.1), engine=replace(smoke.engine, importance_cap=2.0))  # kl: scored
    with pytest.raises(UserError, match="differ by .* accepted: up to engine.max_logp_difference = 0.001"):
        training("rl", model, tokenizer, engine, scale, 0, here).update(1)


def test_a_batch_that_cannot_be_shared_evenly_is_refused(smoke, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "Processes", lambda: replace_count(Processes(), 3))
    with pytest.raises(UserError, match="batch_size is 4, which 3 processes cannot share"):
        pretrain.pretrain(smoke, tmp_path / "suite", tmp_path / "scratch")


def replace_count(processes, count):
    processes.count = count
    return processes


def test_a_frozen_copy_answers_with_its_own_weights_in_mixed_precision(suite):
    """A wrapped forward that is copied along is bound to the policy: its KL to such a reference would always be 0."""
    processes = Processes()
    processes.accelerator = SimpleNamespace(mixed_precision="bf16")
    policy = processes.place(load_model(suite / "checkpoints/smoke/main/p88")[0])
    reference, ids = processes.frozen(policy), torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        before = reference(input_ids=ids).logits
        for p in policy.parameters():
            p.mul_(2)
        assert before.dtype == torch.bfloat16 and torch.equal(reference(input_ids=ids).logits, before)
        assert not torch.equal(policy(input_ids=ids).logits, before)
