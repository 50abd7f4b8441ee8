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
import json
import logging
import random
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
import yaml
from transformers import PreTrainedTokenizerBase

from excursions.data import nano
from excursions.params import UserError

# benchmark -> the harness's name of the task, the folder of its task file, the columns it reads of the hub's dataset
HARNESS_TASKS = {
    "lambada": ("lambada_openai", "lambada", ("text",)),
    "hellaswag": ("hellaswag", "hellaswag", ("activity_label", "ctx_a", "ctx_b", "endings", "label")),
    "arc_easy": ("arc_easy", "arc", ("question", "choices", "answerKey")),
    "arc_challenge": ("arc_challenge", "arc", ("question", "choices", "answerKey")),
    "piqa": ("piqa", "piqa", ("goal", "sol1", "sol2", "label")),
    "openbookqa": ("openbookqa", "openbookqa", ("question_stem", "choices", "answerKey")),
}
BENCHMARKS = tuple(HARNESS_TASKS)


@dataclass(frozen=True)
class Source:
    """Where the six benchmarks come from."""

    tasks: dict[str, str]  # benchmark -> the harness's name of the task
    folder: Path | None = None  # task files that replace the harness's own
    metadata: dict[str, int] = field(default_factory=dict)  # handed to the tasks that make their items
    limit: int | None = None  # items of each benchmark; None = all
    copies: Path | None = None  # <harness's name of the task>.jsonl in place of the hub's datasets; None = the hub


def nano_source(world_seed: int, items: int, items_seed: int) -> Source:
    """The benchmarks over the nano world, `items` of each. No network, no files but our own."""
    metadata = {"world_seed": world_seed, "items": items, "items_seed": items_seed}
    folder = Path(nano.__file__).parent / "tasks"
    return Source({name: f"nano_{name}" for name in BENCHMARKS}, folder, metadata)


def hub_source(items: int, folder: Path | None = None) -> Source:
    """The real benchmarks, from the Hugging Face hub or a folder of local copies; the first `items` of each, 0 = all.

    folder: holds lambada_openai.jsonl, hellaswag.jsonl, arc_easy.jsonl, arc_challenge.jsonl, piqa.jsonl and
    openbookqa.jsonl, one JSON object a line with the columns of the hub's dataset: the split that the harness scores
    (validation for HellaSwag and PIQA, else test). Raises UserError naming the file, line and column that is not so.
    """
    tasks = {name: task for name, (task, _, _) in HARNESS_TASKS.items()}
    if folder is not None:
        folder = Path(folder).expanduser().resolve()
        for name, task in tasks.items():
            _check_copy(name, folder / f"{task}.jsonl")
    return Source(tasks, limit=items or None, copies=folder)


def evaluate_general(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, source: Source, batch_size: int = 128
) -> list[dict]:
    """One row per benchmark: {"benchmark", "n", "correct"}. The model stays as it was, random states too.

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
            found = evaluate(harness_model, loaded, limit=source.limit, bootstrap_iters=0, log_samples=False)
    finally:
        model.train(was_training)
        random.setstate(random_state)  # the harness draws from it
    rows = []
    for name, task in source.tasks.items():
        n = found["n-samples"][task]["effective"]
        rows.append({"benchmark": name, "n": n, "correct": round(found["results"][task]["acc,none"] * n)})
    return rows


def check_source(source: Source) -> None:
    """Loads the tasks once, which downloads what is not there yet: a failure shows before training and not after it."""
    with _quiet(), tempfile.TemporaryDirectory() as scratch:
        load_tasks(source, Path(scratch))


def load_tasks(source: Source, scratch: Path) -> dict:
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


def _check_copy(name: str, file: Path) -> None:
    """Raises UserError unless every line has the columns that the harness reads, and an answer among its choices."""
    if not file.is_file():
        accepted = ", ".join(f"{task}.jsonl" for task, _, _ in HARNESS_TASKS.values())
        raise UserError(f"{file} does not exist: hub.general in params.yaml is to be a folder with {accepted}.")
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UserError(f"{file}, line {number}: not valid JSON ({error}).") from None
            try:
                wrong = _wrong_with(row, HARNESS_TASKS[name][2])
            except (TypeError, AttributeError):
                wrong = f"a column has the wrong type: {line.strip()[:200]}"
            if wrong:
                raise UserError(f"{file}, line {number}: {wrong}.")


def _wrong_with(row: object, columns: tuple[str, ...]) -> str | None:
    """What keeps the harness from scoring a row, if anything."""
    if not isinstance(row, dict):
        return f"found {row!r}, expected an object with the columns {', '.join(columns)}"
    for column in columns:
        if column not in row:
            return f"column '{column}' is missing, found {', '.join(row)}; expected {', '.join(columns)}"
    if "choices" in columns:
        choices = row["choices"]
        if not isinstance(choices, dict) or not isinstance(choices.get("label"), list):
            return f"column 'choices' is {choices!r}, expected {{'text': [...], 'label': [...]}}"
        if len(choices["label"]) != len(choices.get("text", [])):
            return f"column 'choices' has {len(choices['label'])} labels for the texts {choices.get('text')!r}"
        key = row["answerKey"].lstrip() if "question_stem" in columns else row["answerKey"]  # as the harness does
        if key not in choices["label"]:
            return f"column 'answerKey' is {row['answerKey']!r}, expected one of {', '.join(choices['label'])}"
    elif "label" in columns:
        n_choices = len(row["endings"]) if "endings" in columns else 2
        if str(row["label"]) not in map(str, range(n_choices)):
            return f"column 'label' is {row['label']!r}, expected 0 to {n_choices - 1}"
    elif " " not in row["text"]:
        return f"column 'text' is {row['text']!r}, expected a text whose last word is asked"
    return None


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
