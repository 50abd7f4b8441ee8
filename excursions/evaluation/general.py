"""Accuracy of a model on the six general benchmarks of the paper, through lm-evaluation-harness.

LAMBADA, HellaSwag, ARC-Easy, ARC-Challenge, PIQA and OpenBookQA, all 0-shot, plain accuracy. At paper scale
the tasks are the harness's own, its prompts, processing and splits included, over the hub's datasets or local copies
of them. At nano scale they are ours, which the harness's command line runs as well:

    lm_eval --model hf --model_args pretrained=checkpoints/nano/main/p88 --tasks nano_piqa \\
        --include_path excursions/data/nano/tasks --metadata '{"world_seed": 0, "items": 200, "items_seed": 0}'
"""

from __future__ import annotations

import contextlib
import io
import logging
import random
import tempfile
from pathlib import Path

import torch
import yaml
from transformers import PreTrainedTokenizerBase

from excursions.data.general import HARNESS_TASKS, GeneralTasks
from excursions.models.scoring import log_likelihoods
from excursions.params import UserError


def evaluate_general(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, source: GeneralTasks, batch_size: int = 128
) -> list[dict]:
    """One row per item: {"benchmark", "item_id", "correct"} (1 or 0). The model stays as it was, random states too.

    Raises UserError if the harness or the hub does not have a benchmark.
    """
    # The harness takes seconds to import, and most commands do not need it.
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    was_training, random_state = model.training, random.getstate()
    try:
        with _quiet(), tempfile.TemporaryDirectory() as scratch:
            loaded = load_tasks(source, Path(scratch))
            for task in loaded["tasks"].values():
                task.set_config(key="num_fewshot", value=0)
            harness_model = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
            if model._supports_attention_backend:  # else the harness's own passes, one a choice

                def answer(requests: list, **_) -> list[tuple[float, bool]]:
                    return answers(model, [ids for _, *ids in requests], harness_model.max_length, batch_size)

                harness_model._loglikelihood_tokens = answer
            found = evaluate(harness_model, loaded, limit=source.limit, bootstrap_iters=0, log_samples=True)
    finally:
        model.train(was_training)
        random.setstate(random_state)  # the harness draws from it
    return [
        {"benchmark": name, "item_id": str(item["doc"].get("id", item["doc_id"])), "correct": int(item["acc"])}
        for name, task in source.tasks.items()
        for item in found["samples"][task]
    ]


def answers(
    model: torch.nn.Module, asked: list[list[list[int]]], max_length: int, batch_size: int
) -> list[tuple[float, bool]]:
    """(context, continuation) in token ids -> log-likelihood of the continuation, and whether it is the greedy one.

    A context goes through the model once for all its continuations, about `batch_size` of them in a pass; one that is
    too long loses its beginning, as in the harness.
    """
    places: dict[tuple[int, ...], list[int]] = {}
    for i, (context, continuation) in enumerate(asked):
        fits = max(0, max_length + 1 - len(continuation))
        places.setdefault(tuple(context[max(0, len(context) - fits) :]), []).append(i)
    batches, rows = [[]], 0  # type: list[list], int
    for context in sorted(places, key=len):  # type: ignore[assignment]  # keys from here on; of like length: little padding
        if rows >= batch_size:
            batches.append([])
            rows = 0
        batches[-1].append(context)
        rows += len(places[context])  # type: ignore[index]  # contexts are keys from here on
    found: list[tuple[float, bool]] = [(0.0, False)] * len(asked)
    for batch in filter(None, batches):
        continuations = [[asked[i][1] for i in places[context]] for context in batch]
        of_batch = log_likelihoods(model, [list(context) for context in batch], continuations)
        for context, of_context in zip(batch, of_batch, strict=True):
            for i, answer in zip(places[context], of_context, strict=True):
                found[i] = answer
    return found


def check_tasks(source: GeneralTasks) -> None:
    """Loads the tasks once, which downloads what is not there yet: a failure shows before training and not after it."""
    with _quiet(), tempfile.TemporaryDirectory() as scratch:
        load_tasks(source, Path(scratch))


def load_tasks(source: GeneralTasks, scratch: Path) -> dict:
    """The harness's tasks with their data: {"tasks": {name: task}, ...}. `scratch` must outlive them."""
    from lm_eval.tasks import TaskManager

    if source.folder is not None:
        manager = TaskManager(include_path=source.folder, include_defaults=False, metadata=source.metadata)
        return manager.load(list(source.tasks.values()))
    manager = TaskManager(include_defaults=False)  # reading all of the harness's task files takes most of a minute
    built = []
    for name, task in source.tasks.items():
        file = _harness_file(name) if source.copies is None else _with_copy(name, source.copies, scratch)
        try:
            built += manager.load(str(file))["tasks"].values()
        except Exception as error:  # of the network, the hub's client, `datasets` or the harness
            said = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
            if source.copies is not None:
                raise UserError(f"{source.copies / task}.jsonl: the harness cannot read it ({said}).") from error
            raise UserError(
                f"The general benchmark {name} could not be loaded from the Hugging Face hub ({said}). Download it "
                f"with network once, or set hub.general of the scale in params.yaml to a folder with local copies: "
                f"{', '.join(f'{each}.jsonl' for each, _, _ in HARNESS_TASKS.values())}."
            ) from error
    return manager.load(built)


def _harness_file(name: str) -> Path:
    """The harness's own task file of a benchmark."""
    from lm_eval import tasks

    task, folder, _ = HARNESS_TASKS[name]
    file = Path(tasks.__file__).parent / folder / f"{task}.yaml"
    if not file.is_file():
        raise UserError(
            f"lm-evaluation-harness has no task '{task}': there is no {file}. "
            f"Install the version of requirements.lock: pip install -r requirements.lock"
        )
    return file


def _with_copy(name: str, copies: Path, scratch: Path) -> Path:
    """A task file that is the harness's own but for the dataset, which is a local copy."""
    task = HARNESS_TASKS[name][0]
    copy = str(copies / f"{task}.jsonl")
    # The harness loads all splits a task names, and scores one; 0-shot nothing is read of the others.
    data = {"data_files": dict.fromkeys(("train", "validation", "test"), copy), "cache_dir": str(scratch / "cache")}
    own = {"include": str(_harness_file(name)), "dataset_path": "json", "dataset_name": None, "dataset_kwargs": data}
    file = scratch / f"{task}.yaml"
    file.write_text(yaml.safe_dump(own | {"task": task}), encoding="utf-8")
    return file


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
