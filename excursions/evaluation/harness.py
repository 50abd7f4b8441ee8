"""GSM8K as lm-evaluation-harness grades it, on completions that are there: its own filters and metric, read from its
own task file, beside our grades."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

import yaml

STRICT, FLEXIBLE = "strict-match", "flexible-extract"


def harness_grades(completions: Sequence[str], golds: Sequence[str]) -> dict[str, list[bool]]:
    """For each filter of the harness's task `gsm8k` whether it finds the gold answer in each completion."""
    from lm_eval.api.metrics import exact_match_hf_evaluate
    from lm_eval.filters.extraction import RegexFilter

    task = yaml.safe_load(files("lm_eval").joinpath("tasks/gsm8k/gsm8k.yaml").read_text(encoding="utf-8"))
    options = {key: task["metric_list"][0][key] for key in ("ignore_case", "ignore_punctuation", "regexes_to_ignore")}
    found = {}
    for named in task["filter_list"]:
        steps = {step.pop("function"): step for step in named["filter"]}
        answers = RegexFilter(**steps["regex"]).apply([[text] for text in completions], [])
        found[named["name"]] = [
            bool(exact_match_hf_evaluate([answer], [gold], **options)["exact_match"])
            for (answer,), gold in zip(answers, golds, strict=True)
        ]
    return found


def disagreements(samples: Sequence[dict]) -> list[dict]:
    """Kept completions (see `protocol`) on which our grade and one of the harness's differ, each with both of its
    grades and why."""
    by_filter = harness_grades([row["completion"] for row in samples], [row["gold"] for row in samples])
    found = []
    for row, strict, flexible in zip(samples, by_filter[STRICT], by_filter[FLEXIBLE], strict=True):
        if row["correct"] == strict == flexible:
            continue
        found.append(row | {"strict": strict, "flexible": flexible, "why": _why(row, strict, flexible)})
    return found


def _why(row: dict, strict: bool, flexible: bool) -> str:
    from excursions.grading.grade import extract_answer

    answer = extract_answer(row["completion"])
    if flexible and not row["correct"] and answer is None:
        return "no answer is marked; the last number of the text happens to be the gold one (flexible)"
    if flexible and not row["correct"]:
        return "another answer is marked; the last number of the text happens to be the gold one (flexible)"
    if strict and not row["correct"]:
        return "the harness takes the number right behind the first `####`, we what the last marked answer says"
    if row["correct"] and not strict and "####" not in row["completion"]:
        return "the right answer is marked in another way than by `####` (strict)"
    if row["correct"] and not strict:
        return "behind `####` stands the right answer, not as a bare number at once (strict)"
    return "behind the right answer follows another number (flexible)"
