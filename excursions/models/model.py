"""Models as Hugging Face folders: build and save OLMo2, load any causal language model."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Olmo2Config,
    Olmo2ForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from excursions.files import whole_file, whole_folder
from excursions.models.weights import first_line, remedy, weight_files
from excursions.params import Model, UserError
from excursions.tokens import read_tokenizer

transformers_logging.disable_progress_bar()  # of loading and saving, which take no time here


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


def load_model(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model (fp32, evaluation mode) and tokenizer of a checkpoint folder, of any architecture transformers has.

    A tokenizer without a padding token pads with its end token: every loss masks padding by position, so the end
    token is learned all the same. Raises UserError if the folder is missing, a file of it is missing or damaged, the
    weights do not fit config.json, that does not say how long a context is, or the tokenizer does not fit the model.
    """
    if not (folder / "config.json").is_file():
        raise UserError(f"The checkpoint {folder} has no file config.json. {remedy(folder)}")
    weight_files(folder)
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # its table of weights that do not fit is our one sentence
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except Exception as error:  # what a damaged file raises depends on where in transformers it is met
        raise UserError(f"The checkpoint {folder} is damaged ({first_line(error)}). {remedy(folder)}") from None
    finally:
        transformers_logging.set_verbosity(verbosity)
    # transformers would go on, with random numbers for weights that are missing or of another shape
    for kind, what in (("missing", "lacks {}"), ("unexpected", "has {} besides"), ("mismatched", "has {} reshaped")):
        if keys := sorted(key if isinstance(key, str) else key[0] for key in found[f"{kind}_keys"]):
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise UserError(
                f"The checkpoint {folder} does not fit its config.json: it {what.format(keys[0] + more)}. "
                f"{remedy(folder)}"
            )
    if not all(torch.isfinite(p).all() for p in model.parameters()):
        raise UserError(f"The checkpoint {folder} is damaged (weights that are not finite). {remedy(folder)}")
    if not isinstance(getattr(model.config, "max_position_embeddings", None), int):
        raise UserError(
            f"{folder / 'config.json'} does not say how many tokens {type(model).__name__} may read; accepted: "
            "a model of text alone, with the key max_position_embeddings. Add it where that has another name."
        )
    return model.eval(), _load_tokenizer(folder, model.get_input_embeddings().weight.shape[0])


def _load_tokenizer(folder: Path, rows: int) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint whose embedding has so many rows."""
    try:
        tokenizer = read_tokenizer(str(folder))
    except UserError:
        raise
    except Exception as error:  # the tokenizers library raises nothing more special
        raise UserError(
            f"The checkpoint {folder} is damaged (tokenizer: {first_line(error)}). {remedy(folder)}"
        ) from None
    if len(tokenizer) > rows:
        raise UserError(
            f"The tokenizer of {folder} has {len(tokenizer)} tokens, but the model's embedding only {rows} rows: it is "
            f"the tokenizer of another model. {remedy(folder)}"
        )
    return tokenizer


def import_gguf(file: Path, folder: Path) -> None:
    """Writes the model and tokenizer of a GGUF file as an ordinary checkpoint folder, in float32.

    Quantized weights become the numbers they stand for. transformers reads the file (with the package `gguf`), but
    refuses to save what it has read: so the weights go into a new model of the same shape. Raises UserError if the file
    cannot be read.
    """
    try:
        read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except ImportError as error:
        raise UserError(f"{file} could not be read ({first_line(error)}): `pip install gguf`.") from None
    except Exception as error:  # of three libraries
        raise UserError(
            f"{file} could not be read ({first_line(error)}); accepted: a GGUF file of an architecture that "
            f"transformers reads."
        ) from None
    config = copy.deepcopy(read.config)
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    save_model(model, tokenizer, folder, "float32")


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, dtype: str) -> None:
    """Saves a folder that `AutoModelForCausalLM.from_pretrained` loads, whole or not at all."""
    state = {name: value.detach().to(getattr(torch, dtype)) for name, value in model.state_dict().items()}
    if wrong := [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]:
        raise UserError(
            f"{folder} was not written: {wrong[0]} has values that are not finite in {dtype}; the training diverged."
        )
    with whole_folder(folder) as temporary:
        model.save_pretrained(temporary, state_dict=state)
        tokenizer.save_pretrained(temporary)
        config = json.loads((temporary / "config.json").read_text(encoding="utf-8"))
        # where from_pretrained looks for the type of the saved weights
        (temporary / "config.json").write_text(json.dumps(config | {"dtype": dtype}, indent=2) + "\n", encoding="utf-8")


def save_weights(file: Path, model: torch.nn.Module, about: str) -> None:
    """Writes a model's weights alone, whole or not at all, with a line `about` what they are."""
    # clones, as safetensors refuses embeddings that are tied to the head
    weights = {name: value.detach().cpu().clone().contiguous() for name, value in model.state_dict().items()}
    with whole_file(file) as temporary:
        safetensors.torch.save_file(weights, temporary, metadata={"about": about})


def load_weights(file: Path, model: torch.nn.Module, about: str) -> bool:
    """Puts weights that `save_weights` wrote into a model; False if there are none that are `about` the same."""
    try:
        with safetensors.safe_open(file, framework="pt") as found:
            if (found.metadata() or {}).get("about") != about:
                return False
            model.load_state_dict({name: found.get_tensor(name) for name in found.keys()})
    except (FileNotFoundError, SafetensorError):
        return False
    return True


def count_parameters(model: torch.nn.Module) -> int:
    """All parameters, embeddings included, as in the paper's 1B."""
    return sum(p.numel() for p in model.parameters())


def model_digest(model: torch.nn.Module) -> str:
    """sha256 over all weights: two models with the same digest give the same measurements."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def use_machine(threads: int | None = None) -> torch.device:
    """Where one model is sampled and measured: the GPU where there is one, else the CPU with so many threads; None: as
    many as OMP_NUM_THREADS says ("4", or "4,2" where parallel regions are nested), or else all cores."""
    said = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if not threads and said and not (said.isdecimal() and int(said)):
        raise UserError(f"The environment variable OMP_NUM_THREADS is {said!r}; accepted: a whole number from 1 on.")
    torch.set_num_threads(threads or int(said or os.cpu_count() or 1))
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def one_thread() -> None:
    """One thread for this process: two processes of one thread each are far faster than two that share both cores."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
