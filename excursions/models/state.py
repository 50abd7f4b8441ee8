"""The saved state of unfinished work: folder/step-<n> with tensors.safetensors and about.json, the last two of them.

Each is written whole (see `files`); one that cannot be read is as if absent, which is said, and the one before it is
used. Nothing that is read can run code: no pickle.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from excursions.files import whole_folder

KEPT = 2


def save_state(folder: Path, step: int, tensors: dict[str, torch.Tensor], about: dict[str, Any]) -> None:
    """Writes folder/step-<n>, and deletes all others but the last before it.

    about: what JSON can hold; lists come back for tuples. Raises OSError if the disk refuses, the states before kept.
    """
    before = [state for state in saved_states(folder) if _step(state) < step]
    with whole_folder(folder / f"step-{step}") as aside:
        (aside / "about.json").write_text(json.dumps(about | {"step": step}), encoding="utf-8")
        safetensors.torch.save_file(
            {name: t.contiguous() for name, t in tensors.items()}, aside / "tensors.safetensors"
        )
    kept = {*before[1 - KEPT :], folder / f"step-{step}"}
    for left in [*saved_states(folder), *folder.glob(".step-*")]:  # the latter by kills
        if left not in kept:
            shutil.rmtree(left)


def load_state(folder: Path, fingerprint: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]] | None:
    """(about, tensors) of the last state that can be read and whose `about` has this fingerprint; None without one."""
    for state in reversed(saved_states(folder)):
        try:
            about = json.loads((state / "about.json").read_text(encoding="utf-8"))
            if about["fingerprint"] != fingerprint:
                continue
            return about, read_tensors(state)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            print(f"{state} cannot be read ({str(error).splitlines()[0]}) and is taken as absent", flush=True)
    return None


def read_tensors(state: Path) -> dict[str, torch.Tensor]:
    """The tensors of one state, on the CPU."""
    with safe_open(state / "tensors.safetensors", framework="pt") as found:
        return {name: found.get_tensor(name) for name in found.keys()}


def saved_states(folder: Path) -> list[Path]:
    """The states in a folder, the last one last."""
    return sorted((path for path in folder.glob("step-*") if path.name[5:].isdecimal()), key=_step)


def _step(state: Path) -> int:
    return int(state.name.removeprefix("step-"))
