"""The six general benchmarks of the paper: their names, and where their items come from (see `evaluation.general`)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

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
class GeneralTasks:
    """Where the six benchmarks come from."""

    tasks: dict[str, str]  # benchmark -> the harness's name of the task
    folder: Path | None = None  # task files that replace the harness's own
    metadata: dict[str, int] = field(default_factory=dict)  # handed to the tasks that make their items
    limit: int | None = None  # items of each benchmark; None = all
    copies: Path | None = None  # <harness's name of the task>.jsonl in place of the hub's datasets; None = the hub


def nano_tasks(world_seed: int, items: int, items_seed: int) -> GeneralTasks:
    """The benchmarks over the nano world, `items` of each. No network, no files but our own."""
    metadata = {"world_seed": world_seed, "items": items, "items_seed": items_seed}
    folder = Path(nano.__file__).parent / "tasks"
    return GeneralTasks({name: f"nano_{name}" for name in BENCHMARKS}, folder, metadata)


def hub_tasks(items: int, folder: Path | None = None) -> GeneralTasks:
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
    return GeneralTasks(tasks, limit=items or None, copies=folder)


def _check_copy(name: str, file: Path) -> None:
    """Raises UserError unless every line has the columns that the harness reads, and an answer among its choices."""
    if not file.is_file():
        accepted = ", ".join(f"{task}.jsonl" for task, _, _ in HARNESS_TASKS.values())
        raise UserError(f"{file} does not exist: hub.general in params.yaml is to be a folder with {accepted}.")
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line.decode())
            except ValueError as error:  # of the text or of its bytes
                raise UserError(f"{file}, line {number}: not valid JSON in UTF-8 ({error}).") from None
            try:
                wrong = _wrong_with(row, HARNESS_TASKS[name][2])
            except (TypeError, AttributeError):
                wrong = f"a column has the wrong type: {line.decode().strip()[:200]}"
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
