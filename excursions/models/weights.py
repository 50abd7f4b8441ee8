"""The files that make a checkpoint, looked up without loading anything."""

from __future__ import annotations

import json
from pathlib import Path

from excursions.params import UserError


def weight_files(folder: Path) -> list[Path]:
    """The files that make a checkpoint: its weights, tokenizer.json and config.json.

    Weights are what transformers would load: model.safetensors, or its index and shards, or the same as
    pytorch_model.bin. Raises UserError naming a file that is missing.
    """
    files = [folder / "model.safetensors"]
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            files = [folder / name]
            break
        if index.is_file():
            try:
                shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(f"{index} is damaged ({first_line(error)}). {remedy(folder)}") from None
            files = [index, *(folder / shard for shard in shards)]
            break
    files += [folder / "tokenizer.json", folder / "config.json"]
    for file in files:
        if not file.is_file():
            raise UserError(f"The checkpoint {folder} has no file {file.name}. {remedy(folder)}")
    return files


def remedy(folder: Path) -> str:
    """What to do about a checkpoint that cannot be used."""
    parts = folder.absolute().parts
    if "trained" in parts[-6:-5]:
        return f"Restore it (`git checkout -- {folder}`), or make it again (`excursions train --keep-model`)."
    if "checkpoints" not in parts[-4:-3]:
        return "Save it again, or download it again (`hf download --force-download`)."
    return (
        f"Restore it (`git checkout -- {folder}`), or, of a suite of our own, pretrain it again "
        f"(`excursions pretrain --scale {parts[-3]} --suite {parts[-2]}`)."
    )


def first_line(error: Exception) -> str:
    """Of what an error says."""
    return next(iter(str(error).splitlines()), type(error).__name__)
