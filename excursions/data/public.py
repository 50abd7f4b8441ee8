"""The questions of the paper's scale from public data: OpenMathInstruct-1, GSM8K and MATH.

Sources are opened, and their columns checked, in `public_files`. What is our choice:

- Of OpenMathInstruct-1 we take the correct solutions in plain text. Those that call a Python interpreter (`<llm-code>`)
  are left out, as none runs in our evaluations. The paper has about 23 solutions per question and does not say which.
- Solutions that our grader does not find correct are left out too, so that every demonstration earns the reward.
- Which questions are for validation, and which of many solutions are taken, is decided by a hash of text and seed: it
  does not depend on the order of rows, and a row more or less moves little.
- Examples of few-shot prompts: examples.yaml.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import pyarrow.compute as pc
import yaml

from excursions.data.public_files import bad_row, open_rows, read_rows
from excursions.data.questions import Question, QuestionSet, normalize
from excursions.files import whole_file
from excursions.grading import grade
from excursions.params import Hub, Questions, Scale, UserError

# Columns that are read, with their types; data sets may have more.
OPENMATHINSTRUCT = {
    "question": "string",
    "expected_answer": "string",
    "generated_solution": "string",
    "is_correct": "bool",
    "dataset": "string",
}
GSM8K = {"question": "string", "answer": "string"}
MATH = {"problem": "string", "solution": "string"}
MATH_CONFIGS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)
CODE = "<llm-code>"


def load_question_set(scale: Scale) -> QuestionSet:
    """The questions of both benchmarks; `train_easy`, `train_hard` and `test` are upper limits, as data may hold fewer.

    Raises UserError if a source cannot be read or lacks a column, if a question for training or an example stands in a
    test set, or if nothing is left to train on.
    """
    return _load(scale.hub, scale.questions)[0]


def train_counts(scale: Scale) -> dict[str, int]:
    """What became of the rows of hub.train: how many there are, and how many were left out for which reason."""
    return dict(_load(scale.hub, scale.questions)[1])


@lru_cache(maxsize=4)
def _load(hub: Hub, params: Questions) -> tuple[QuestionSet, dict[str, int]]:
    tests = _load_tests(hub, params)
    asked = {normalize(q.text): q for q in tests}
    examples = load_examples(hub, params)
    for example in examples:
        if normalize(example.text) in asked:
            raise UserError(
                f"The few-shot example {example.id} (excursions/data/examples.yaml) is also the question "
                f"{asked[normalize(example.text)].id} of a test set (hub.easy_test, hub.hard_test); choose another one."
            )
    groups, counts = _group_solutions(hub, params)
    common = [key for key in groups if key in asked]
    if common:
        text, test = groups[common[0]].text, asked[common[0]]
        source = hub.easy_test if test.benchmark == params.easy else hub.hard_test
        raise UserError(
            f"{len(common)} questions of {hub.train} (hub.train) stand in a test set, the first as {test.id} of "
            f"{source}: {text[:100]!r}. Write the training data without them to a file, for example with `python -c "
            f'"from excursions import params; from excursions.data import public; '
            f"public.write_without_overlap(params.load().paper, 'train.jsonl')\"`, and set hub.train to that file."
        )
    shown = {normalize(example.text) for example in examples}
    splits: dict[str, list[Question]] = {"train": [], "validation": []}
    for benchmark, limit in ((params.easy, params.train_easy), (params.hard, params.train_hard)):
        pool = [g for key, g in groups.items() if g.benchmark == benchmark and key not in shown]
        found = _choose(pool, params.validation + limit, params, counts)
        if limit and len(found) <= params.validation:
            raise UserError(
                f"{hub.train} (hub.train) has {len(found)} usable questions for {benchmark}, of which "
                f"questions.validation takes {params.validation}; accepted: more than that. "
                f"Lower questions.validation, or name a larger data set."
            )
        splits["validation"] += [replace(q, split="validation") for q in found[: params.validation]]
        splits["train"] += found[params.validation :]
    test = []
    for benchmark in (params.easy, params.hard):
        ordered = _in_order([q for q in tests if q.benchmark == benchmark], params.seed)
        test += ordered[: params.test]
    return QuestionSet(tuple(splits["train"]), tuple(splits["validation"]), tuple(test), tuple(examples)), counts


def _load_tests(hub: Hub, params: Questions) -> list[Question]:
    """All test questions, each once."""
    tests = load_gsm8k(hub.easy_test, "easy_test", "test", params.easy)
    tests += load_math(hub.hard_test, "hard_test", "test", params.hard)
    return list({q.id: q for q in tests}.values())


def load_gsm8k(source: str, key: str, split: str, benchmark: str) -> list[Question]:
    """GSM8K (`openai/gsm8k`), rows in order; the gold answer follows `####`. key: the key of `hub` that names it."""
    found = []
    for number, row in enumerate(read_rows(source, key, split, GSM8K, ("main",), "GSM8K")):
        steps, mark, answer = row["answer"].rpartition("####")
        if not mark or not answer.strip():
            raise bad_row(source, key, number, "answer", row["answer"], "a solution that ends with `#### <number>`")
        # The calculator's marks <<48/2=24>> are for a calculator that nobody runs.
        solution = re.sub(r"<<[^<>]*>>", "", steps) + "#### " + answer.strip()
        found.append(_question(row["question"], answer.strip(), (solution,), benchmark, split))
    return found


def load_math(source: str, key: str, split: str, benchmark: str) -> list[Question]:
    r"""MATH (`EleutherAI/hendrycks_math`, all seven subjects, or `HuggingFaceH4/MATH-500`), rows in order; the gold
    answer is the column `answer` if there is one, else the last `\boxed{}` of the solution."""
    found = []
    for number, row in enumerate(read_rows(source, key, split, MATH, MATH_CONFIGS, "MATH")):
        answer = row.get("answer") or (grade.extract_answer(row["solution"]) if "boxed" in row["solution"] else None)
        if not answer:
            raise bad_row(source, key, number, "solution", row["solution"], r"a solution with a `\boxed{}` answer")
        found.append(_question(row["problem"], answer, (row["solution"],), benchmark, split))
    return found


def load_examples(hub: Hub, params: Questions) -> list[Question]:
    """The worked examples of few-shot prompts, 8 of the easy and 4 of the hard benchmark, as examples.yaml names them.

    They are found in hub.easy_train and hub.hard_train by the digest of their question, wherever the row stands now.
    Raises UserError for one that is not there.
    """
    wanted = yaml.safe_load(files("excursions.data").joinpath("examples.yaml").read_text(encoding="utf-8"))
    pools = {
        "easy": (hub.easy_train, load_gsm8k(hub.easy_train, "easy_train", "train", params.easy)),
        "hard": (hub.hard_train, load_math(hub.hard_train, "hard_train", "train", params.hard)),
    }
    found = []
    for role, (source, pool) in pools.items():
        by_digest = {_digest(normalize(q.text)): q for q in pool}
        for entry in wanted[role]:
            q = by_digest.get(entry["sha256"])
            if q is None:
                raise UserError(
                    f"{source} (hub.{role}_train) has no row with the question of the few-shot example {entry['id']} "
                    f"(excursions/data/examples.yaml), found {len(pool)} others; accepted: the published train split."
                )
            found.append(replace(q, id=entry["id"], split="examples"))
    return found


def write_without_overlap(scale: Scale, path: Path | str) -> int:
    """Writes the correct plain-text rows of hub.train whose question is in no test set as JSON lines; returns how many
    questions were left out. No question is changed, so every other one keeps its split and its solutions' order."""
    hub, params = scale.hub, scale.questions
    asked, left_out = {normalize(q.text) for q in _load_tests(hub, params)}, set()
    with whole_file(Path(path)) as temporary, temporary.open("w", encoding="utf-8") as lines:
        for row in _correct_rows(hub, {}):
            if normalize(row["question"]) in asked:
                left_out.add(normalize(row["question"]))
            else:
                lines.write(json.dumps(row) + "\n")
    return len(left_out)


@dataclass
class _Group:
    """A question of the training data with all its different solutions."""

    text: str
    answer: str
    benchmark: str
    solutions: set[str] = field(default_factory=set)


def _group_solutions(hub: Hub, params: Questions) -> tuple[dict[str, _Group], dict[str, int]]:
    """Normalized question -> its correct solutions in plain text; and what was left out."""
    benchmarks = {"gsm8k": params.easy, "math": params.hard}
    counts = dict.fromkeys(("rows", "false", "with_code", "repeated", "rejected", "without_solution"), 0)
    groups: dict[str, _Group] = {}
    for row in _correct_rows(hub, counts):
        key = normalize(row["question"])
        if row["dataset"] not in benchmarks:
            raise UserError(
                f"{hub.train} (hub.train): the column 'dataset' holds {row['dataset']!r}; accepted: gsm8k, math."
            )
        # Two questions can differ by a sign alone, which `normalize` does not see: one of them stands for both.
        this = (row["question"], row["expected_answer"])
        group = groups.get(key)
        if group is None or this < (group.text, group.answer):
            counts["repeated"] += len(group.solutions) if group else 0
            group = groups[key] = _Group(*this, benchmarks[row["dataset"]])
        solution = row["generated_solution"].strip()
        if this == (group.text, group.answer) and solution not in group.solutions:
            group.solutions.add(solution)
        else:
            counts["repeated"] += 1
    return groups, counts


def _correct_rows(hub: Hub, counts: dict[str, int]) -> Iterator[dict]:
    """The rows of hub.train that are correct and in plain text; what is left out is added to `counts`."""
    rows = open_rows(hub.train, "train", "train", OPENMATHINSTRUCT, (None,), "OpenMathInstruct-1")
    for table in rows.select_columns([*OPENMATHINSTRUCT]).with_format("arrow").iter(batch_size=10_000):
        for name, column in zip(table.column_names, table.columns, strict=True):
            if column.null_count:
                number = counts.get("rows", 0) + column.is_null().index(True).as_py()
                raise bad_row(hub.train, "train", number, name, None, f"a {OPENMATHINSTRUCT[name]} in every row")
        correct = table.filter(table["is_correct"])
        plain = correct.filter(pc.invert(pc.match_substring(correct["generated_solution"], CODE)))
        found = {"rows": len(table), "false": len(table) - len(correct), "with_code": len(correct) - len(plain)}
        for name, number in found.items():
            counts[name] = counts.get(name, 0) + number
        yield from plain.to_pylist()


def _choose(pool: list[_Group], number: int, params: Questions, counts: dict[str, int]) -> list[Question]:
    """The first `number` questions of a pool, each with up to `params.solutions` solutions that the grader accepts."""
    found = []
    for group in sorted(pool, key=lambda group: _digest(f"{params.seed}/{group.text}")):
        if len(found) == number:
            break
        chosen = []
        for solution in sorted(group.solutions, key=lambda text: _digest(f"{params.seed}/{group.text}/{text}")):
            if len(chosen) == params.solutions:
                break
            if grade.is_correct(solution, group.answer, marked_only=True):
                chosen.append(solution)
            else:
                counts["rejected"] += 1
        if chosen:
            found.append(_question(group.text, group.answer, tuple(chosen), group.benchmark, "train"))
        else:
            counts["without_solution"] += 1
    return found


def _question(text: str, answer: str, solutions: tuple[str, ...], benchmark: str, split: str) -> Question:
    """A question whose id comes from its text: the same in every copy of the data and in MATH-500 as in MATH."""
    return Question(f"{benchmark}-{_digest(' '.join(text.split()))[:12]}", benchmark, split, text, answer, solutions)


def _in_order(pool: list[Question], seed: int) -> list[Question]:
    """Random order by text and seed: MATH is sorted by subject, and some evaluations ask only the first questions."""
    return sorted(pool, key=lambda q: _digest(f"{seed}/{q.text}"))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
