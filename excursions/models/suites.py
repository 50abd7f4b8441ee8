"""Public suites of checkpoints: any Hugging Face model with revisions, described by a few lines of params.yaml.

The weights stay where they are: in the cache of the hub's client, or in a local folder that holds one folder per
revision. checkpoints/<scale>/<suite>/ gets a suite.json alone, which says what figures and claims need to know and
where the weights come from; no path of this machine is in it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from excursions import params, tree
from excursions.files import read_json, write_json
from excursions.models.weights import weight_files
from excursions.params import Study, UserError
from excursions.results import tables as results

# What is downloaded of a model: nothing but what loading it reads.
TEXT_FILES = (
    "config.json generation_config.json tokenizer.json tokenizer_config.json special_tokens_map.json "
    "added_tokens.json chat_template.jinja vocab.json merges.txt tokenizer.model"
).split()
SAFETENSORS = ["model.safetensors", "model-*.safetensors", "model.safetensors.index.json"]
PYTORCH = ["pytorch_model.bin", "pytorch_model-*.bin", "pytorch_model.bin.index.json"]  # where there are no safetensors


def prepare_suite(
    study: Study, scale_name: str, suite: str, checkpoint_names: Iterable[str], root: Path
) -> dict[str, Path]:
    """Makes checkpoints of a suite of params.yaml ready to start from: {name: folder with the weights}.

    Downloads what is not on this machine yet, and writes the suite's suite.json. Raises UserError for an unknown suite
    or checkpoint, a model or revision that cannot be had, and a name that a suite of our own pretraining has.
    """
    about = study.public_suites[params.one_of(suite, list(study.public_suites), "suite (key 'suites' of params.yaml)")]
    names = [params.one_of(name, list(about.checkpoints), f"checkpoint of suite {suite}") for name in checkpoint_names]
    home = tree.suite_folder(root, scale_name, suite)
    file = home / "suite.json"
    before = results.load_suite(root, scale_name, suite) if file.is_file() else None
    if before is not None and "model" not in before:
        raise UserError(
            f"{home} holds a suite of our own pretraining; give the suite '{suite}' of params.yaml another name."
        )
    model = _portable(about.model, root)
    by = f"suite {suite} of params.yaml"
    folders = {name: _resolve(root, by, model, about.checkpoints[name].revision) for name in names}
    if folders:
        made = {
            "parameters": _parameters(next(iter(folders.values()))),
            "tokens": {name: each.tokens for name, each in about.checkpoints.items()},
            "total_tokens": about.total_tokens,
            "model": model,
            "revisions": {name: each.revision for name, each in about.checkpoints.items()},
        }
        if made != before:
            write_json(file, made)
    return folders


def lend_suite(root: Path, scale_name: str, lender: str, suite: str) -> None:
    """Writes suite.json of a suite whose runs start from the checkpoints of another one."""
    about = results.load_suite(root, scale_name, lender)
    known = {key: about[key] for key in ("parameters", "tokens", "total_tokens", "model", "revisions") if key in about}
    file = tree.suite_folder(root, scale_name, suite) / "suite.json"
    made = known | {"checkpoints_of": lender}
    if read_json(file) != made:
        write_json(file, made)


def checkpoint_folder(root: Path, scale_name: str, suite: str, checkpoint: str, download: bool = True) -> Path:
    """The folder with a checkpoint's weights: checkpoints/<scale>/<suite>/<pNN>, or where its suite.json says.

    For a checkpoint that is in neither, or that would have to be downloaded and is not to be, it is the former, which
    does not exist.
    """
    folder = tree.suite_folder(root, scale_name, suite) / checkpoint
    if folder.is_dir() or not (folder.parent / "suite.json").is_file():
        return folder
    about = results.load_suite(root, scale_name, suite)
    if "checkpoints_of" in about:
        return checkpoint_folder(root, scale_name, about["checkpoints_of"], checkpoint, download)
    revision = about.get("revisions", {}).get(checkpoint)
    if revision is None:
        return folder
    if not download:
        local = root / about["model"]
        return local / revision if local.is_dir() else _cached(about["model"], revision) or folder
    return _resolve(root, f"suite {suite} of params.yaml", about["model"], revision)


def find_model(name: str) -> Path:
    """The folder with the weights of any model: a local folder, or a hub name, with @revision if it is not the main
    one; downloaded if it is not on this machine. Raises UserError if it cannot be had."""
    if Path(name).is_dir():
        return Path(name)
    model, _, revision = name.partition("@")
    return _resolve(Path("."), "--model", model, revision or "main")


def _portable(model: str, root: Path) -> str:
    """The name of a hub model as it is; a local folder relative to the project's."""
    local = root / Path(model).expanduser()
    return os.path.relpath(local.resolve(), root.resolve()) if local.is_dir() else model


def _resolve(root: Path, by: str, model: str, revision: str) -> Path:
    """The folder with the weights of a revision, complete; downloaded if they are not there. by: what names them."""
    local = root / model
    if local.is_dir():
        if not (local / revision).is_dir():
            found = ", ".join(sorted(path.name for path in local.iterdir() if path.is_dir())) or "no folders"
            raise UserError(f"{local} has no folder {revision}, a revision of {by}; found: {found}.")
        weight_files(local / revision)
        return local / revision
    if model.startswith(("/", ".", "~")) or model.count("/") > 1:
        raise UserError(
            f"{model} ({by}) does not exist; accepted: a hub name such as EleutherAI/pythia-1b, or a local folder (of "
            "a suite: with one folder per revision)."
        )
    if folder := _cached(model, revision):
        return folder
    try:
        folder = _download(model, revision)
    except Exception as error:  # of the network, the hub and its client
        said = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        raise UserError(
            f"{model} ({by}), revision {revision}, could not be downloaded from the Hugging Face hub ({said}), and is "
            f"no local folder. Check the name and the network; where there is none, fill the hub's cache beforehand "
            f"with `hf download {model} --revision {revision}`, or name a folder."
        ) from error
    weight_files(folder)
    return folder


def _cached(model: str, revision: str) -> Path | None:
    """Where the hub's cache has a revision, complete."""
    with contextlib.suppress(OSError, ValueError, UserError):  # not there, or not all of it
        folder = _download(model, revision, local_files_only=True)
        weight_files(folder)
        return folder
    return None


def _download(model: str, revision: str, local_files_only: bool = False) -> Path:
    """The snapshot of a revision in the cache of the hub's client."""
    import huggingface_hub

    for weights in (SAFETENSORS, PYTORCH):
        folder = huggingface_hub.snapshot_download(
            model, revision=revision, allow_patterns=[*TEXT_FILES, *weights], local_files_only=local_files_only
        )
        if any(Path(folder).glob("*.safetensors")):
            break
    return Path(folder)


def _parameters(folder: Path) -> int:
    """All parameters of the model that config.json describes, counted without making them."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from excursions.models.model import count_parameters

    try:
        with torch.device("meta"):
            return count_parameters(AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)))
    except (OSError, ValueError, KeyError, TypeError) as error:
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"{folder / 'config.json'} describes no language model that transformers has ({said})."
        ) from None
