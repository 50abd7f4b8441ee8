"""Low-rank adapters (LoRA, arXiv 2106.09685) through peft: a small part of a model is trained, all of it is sampled.

The base weights are frozen, and what engines and evaluations take is an ordinary model whose weights are those of the
base plus the adapters' product, computed anew each time: merging in place and back would add rounding at every step.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from excursions.params import Lora, UserError


def add_lora(model: PreTrainedModel, params: Lora, seed: int) -> torch.nn.Module:
    """The model with adapters on all linear layers but the head, alone to be trained. It begins as the model itself,
    as one of the two matrices is zero. Raises UserError for a rank below 1."""
    try:
        import peft
    except ImportError as error:
        raise UserError(
            f"LoRA needs peft ({error}): `pip install 'excursions[lora]'`, or set `lora` to null."
        ) from None
    if params.rank < 1:
        raise UserError(f"lora.rank is {params.rank}; accepted: 1 or more.")
    torch.manual_seed(seed)
    config = peft.LoraConfig(r=params.rank, lora_alpha=params.alpha, target_modules="all-linear", task_type="CAUSAL_LM")  # type: ignore[arg-type]  # peft declares int, and only divides it
    return peft.get_peft_model(model, config)


@torch.no_grad()
def merge_lora(model: torch.nn.Module, plain: PreTrainedModel) -> PreTrainedModel:
    """Writes base weights plus adapters of `model` into `plain`, a copy of the model that `add_lora` was given."""
    from peft.tuners.lora import LoraLayer

    targets = dict(plain.named_modules())
    for name, layer in model.get_base_model().named_modules():
        if isinstance(layer, LoraLayer):
            targets[name].weight.copy_(layer.base_layer.weight + layer.get_delta_weight("default"))  # type: ignore[attr-defined]  # linear layers have it
    return plain
