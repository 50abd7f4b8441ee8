"""The public copies of the six general benchmarks, written in the columns of the hub's datasets."""

from __future__ import annotations

import json
from pathlib import Path


def hub_rows(shared: Path) -> dict[str, list[dict]]:
    """The harness's name of a task -> rows with the columns that its dataset has on the hub (up to 200 each)."""
    data = shared / "data" / "general_benchmarks"
    return {
        "lambada_openai": [
            {"text": f"{row['context']} {row['continuation']}"} for row in read(data / "lambada_openai.jsonl")
        ],
        "hellaswag": read(data / "hellaswag_raw.jsonl"),
        "arc_easy": [
            {"question": row["query"].removeprefix("Question: "), **_lettered(row)}
            for row in read(data / "arc_easy.jsonl")
        ],
        "arc_challenge": read(data / "arc_challenge_hub.jsonl"),
        "piqa": [
            {
                "goal": row["query"].removeprefix("Question: ").strip(),
                "sol1": row["choices"][0],
                "sol2": row["choices"][1],
                "label": row["gold"],
            }
            for row in read(data / "piqa.jsonl")
        ],
        "openbookqa": [{"question_stem": row["query"], **_lettered(row)} for row in read(data / "openbookqa.jsonl")],
    }


def write_copies(rows: dict[str, list[dict]], folder: Path) -> Path:
    """A folder as `hub.general` in params.yaml names it: one .jsonl a task."""
    folder.mkdir(parents=True, exist_ok=True)
    for task, of_it in rows.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in of_it)
        (folder / f"{task}.jsonl").write_text(text, encoding="utf-8")
    return folder


def read(file: Path) -> list[dict]:
    """The rows of a .jsonl file."""
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _lettered(row: dict) -> dict:
    """Choices and answer with letters, as ARC and OpenBookQA have them on the hub."""
    labels = list("ABCDE"[: len(row["choices"])])
    return {"choices": {"text": row["choices"], "label": labels}, "answerKey": labels[row["gold"]]}
