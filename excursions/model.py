"""OLMo2 models as Hugging Face folders: build, load, save."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Olmo2Config,
    Olmo2ForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.utils.logging import disable_progress_bar

from excursions.files import whole_folder
from excursions.params import Model, UserError

disable_progress_bar()  # of loading and saving, which take no time here


def build_model(params: Model, tokenizer: PreTrainedTokenizerFast, seed: int) -> Olmo2ForCausalLM:
    """A new OLMo2 model in fp32 with random weights drawn from `seed`."""
    config = Olmo2Config(
        vocab_size=-(-len(tokenizer) // 16) * 16,
        hidden_size=params.hidden_size,
        intermediate_size=params.intermediate_size,
        num_hidden_layers=params.layers,
        num_attention_heads=params.heads,
        max_position_embeddings=params.context,
        rope_parameters={"rope_type": "default", "rope_theta": params.rope_theta},
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    return Olmo2ForCausalLM(config)


def load_model(folder: Path) -> tuple[Olmo2ForCausalLM, PreTrainedTokenizerFast]:
    """Model (fp32, evaluation mode) and tokenizer of a checkpoint folder.

    Raises UserError if the folder is missing or a file of it is missing or damaged.
    """
    remedy = f"Restore it with `git checkout -- {folder}`, or train it again with `excursions pretrain`."
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        if not (folder / name).is_file():
            raise UserError(f"The checkpoint {folder} has no file {name}. {remedy}")
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError) as error:
        raise UserError(f"The checkpoint {folder} is damaged ({error}). {remedy}") from None
    if not all(torch.isfinite(p).all() for p in model.parameters()):
        raise UserError(f"The checkpoint {folder} is damaged (weights that are not finite). {remedy}")
    return model.eval(), tokenizer


def save_model(model: Olmo2ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path, dtype: str) -> None:
    """Saves a folder that `AutoModelForCausalLM.from_pretrained` loads, whole or not at all."""
    state = {name: value.detach().to(getattr(torch, dtype)) for name, value in model.state_dict().items()}
    with whole_folder(folder) as temporary:
        model.save_pretrained(temporary, state_dict=state)
        tokenizer.save_pretrained(temporary)
        _say_dtype(temporary / "config.json", dtype)


def _say_dtype(config: Path, dtype: str) -> None:
    """The saved weights' type is written into config.json, where from_pretrained looks for it."""
    text = config.read_text(encoding="utf-8").replace('"dtype": "float32"', f'"dtype": "{dtype}"')
    config.write_text(text, encoding="utf-8")


def count_parameters(model: torch.nn.Module) -> int:
    """All parameters, embeddings included, as in the paper's 1B."""
    return sum(p.numel() for p in model.parameters())


def one_thread() -> None:
    """One thread for this process: two processes of one thread each are far faster than two that share both cores."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
