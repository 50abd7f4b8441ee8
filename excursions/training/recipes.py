"""A recipe as steps: a number of updates, and what happens at each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from excursions.models.processes import Processes
from excursions.params import Scale
from excursions.recipes import RECIPES, Recipe
from excursions.rollout.sampler import Sampler


@dataclass(frozen=True)
class Start:
    """What a training begins with. The model, placed on the processes, is changed in place."""

    recipe: Recipe
    model: PreTrainedModel  # a checkpoint, or the result of the parent recipe
    tokenizer: PreTrainedTokenizerBase
    engine: Sampler
    scale: Scale
    seed: int
    processes: Processes


@dataclass(frozen=True)
class Training:
    """`update(step)` does step 1, 2, ..., `steps` and returns its metrics; `optimizers` hold all other state."""

    steps: int
    update: Callable[[int], dict[str, float]]
    optimizers: tuple[torch.optim.Optimizer, ...]


def training(
    recipe: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    engine: Sampler,
    scale: Scale,
    seed: int,
    processes: Processes,
) -> Training:
    """The training of a recipe on a model that was placed on the processes and that an engine samples from."""
    about = RECIPES[recipe]
    if about.make is None:
        return Training(0, lambda step: {}, ())
    # By name, so that a run depends on the code of its own recipe and not on that of the others (study/code.py).
    make = import_module(f"excursions.training.{about.make}").make
    return make(Start(about, model, tokenizer, engine, scale, seed, processes))
