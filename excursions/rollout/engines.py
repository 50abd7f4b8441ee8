"""The choice of an engine: what samples the completions is named in params.yaml, `<scale>.engine.name`."""

from __future__ import annotations

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from excursions.params import ENGINES, Engine, one_of
from excursions.rollout.sampler import Sampler
from excursions.rollout.torch_engine import TorchEngine
from excursions.rollout.transformers_engine import TransformersEngine
from excursions.rollout.vllm_engine import VllmEngine


def start_engine(
    params: Engine, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, local_rank: int = 0
) -> Sampler:
    """The engine that `params` names, with the model's weights.

    `local_rank` is the number of this process among those of its machine, and so of its GPU. Raises UserError for a
    model or a machine that the engine cannot serve.
    """
    one_of(params.name, ENGINES, "engine (key '<scale>.engine.name' of params.yaml)")
    if params.name == "torch":
        return TorchEngine(model, tokenizer.eos_token_id, len(tokenizer), tokenizer=tokenizer)
    if params.name == "transformers":
        return TransformersEngine(model, tokenizer)
    return VllmEngine(model, tokenizer, params.kv_cache_gb, local_rank)
