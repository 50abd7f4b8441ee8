"""Accuracy of a model on the six general benchmarks of the paper, through lm-evaluation-harness.

LAMBADA, HellaSwag, ARC-Easy, ARC-Challenge, PIQA and OpenBookQA, all 0-shot, plain accuracy. At paper scale
the tasks are the harness's own; at nano scale they are ours, which the harness's command line runs as well:

    lm_eval --model hf --model_args pretrained=checkpoints/nano/main/p88 --tasks nano_piqa \\
        --include_path excursions/nano/tasks --metadata '{"world_seed": 0, "items": 200, "items_seed": 0}'
"""

from __future__ import annotations

import contextlib
import io
import logging
import random
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

BENCHMARKS = ("lambada", "hellaswag", "arc_easy", "arc_challenge", "piqa", "openbookqa")


@dataclass(frozen=True)
class Source:
    """Where the six benchmarks come from."""

    tasks: dict[str, str]  # benchmark -> the harness's name of the task
    folder: Path | None = None  # task files that replace the harness's own
    metadata: dict[str, int] = field(default_factory=dict)  # handed to the tasks that make their items
    limit: int | None = None  # items of each benchmark; None = all


def nano_source(world_seed: int, items: int, items_seed: int) -> Source:
    """The benchmarks over the nano world, `items` of each. No network, no files but our own."""
    metadata = {"world_seed": world_seed, "items": items, "items_seed": items_seed}
    folder = Path(__file__).parent / "nano" / "tasks"
    return Source({name: f"nano_{name}" for name in BENCHMARKS}, folder, metadata)


def hub_source(items: int) -> Source:
    """The real benchmarks, downloaded from the Hugging Face hub; the first `items` of each, 0 = all."""
    tasks = {name: name for name in BENCHMARKS} | {"lambada": "lambada_openai"}
    return Source(tasks, limit=items or None)


def evaluate_general(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, source: Source, batch_size: int = 128
) -> list[dict]:
    """One row per benchmark: {"benchmark", "n", "correct"}. The model stays as it was, random states too."""
    # The harness takes seconds to import, and most commands do not need it.
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    was_training, random_state = model.training, random.getstate()
    try:
        with _quiet():
            manager = TaskManager(
                include_path=source.folder, include_defaults=source.folder is None, metadata=source.metadata
            )
            loaded = manager.load(list(source.tasks.values()))
            for task in loaded["tasks"].values():
                task.set_config(key="num_fewshot", value=0)
            harness_model = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
            found = evaluate(harness_model, loaded, limit=source.limit, bootstrap_iters=0, log_samples=False)
    finally:
        model.train(was_training)
        random.setstate(random_state)  # the harness draws from it
    rows = []
    for name, task in source.tasks.items():
        n = found["n-samples"][task]["effective"]
        rows.append({"benchmark": name, "n": n, "correct": round(found["results"][task]["acc,none"] * n)})
    return rows


@contextlib.contextmanager
def _quiet():
    """The harness without its progress bars and its hints about settings that we chose."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
