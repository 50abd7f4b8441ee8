"""The questions of the paper's scale from public data: OpenMathInstruct-1, GSM8K and MATH.

Sources are opened, and their columns checked, in `public_files`. What is our choice:

- Of OpenMathInstruct-1 we take the correct solutions in plain text. Those that call a Python interpreter (`<llm-code>`)
  are left out, as none runs in our evaluations. The paper has about 23 solutions per question and does not say which.
- Solutions that our grader does not find correct are left out too, so that every demonstration earns the reward.
- Which questions are for validation, and which of many solutions are taken, is decided by a hash of text and seed: it
  does not depend on the order of rows, and a row more or less moves little.
- Examples of few-shot prompts: examples.yaml, looked up in hub.easy_train and hub.hard_train; or, where these are null,
  questions of the training data, which are then not trained on.
- One benchmark may be the whole study: with questions.hard null its rows, files and examples are not asked for.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import yaml

from excursions.data.public_files import bad_row, hub_of, read_rows
from excursions.data.questions import Question, QuestionSet, normalize
from excursions.files import whole_file
from excursions.grading import grade
from excursions.params import Hub, Questions, Scale, UserError

# Columns that are read, with their kinds; data sets may have more.
OPENMATHINSTRUCT = {
    "question": "text",
    "expected_answer": "text or number",
    "generated_solution": "text",
    "is_correct": "bool",
    "dataset": "text",
}
GSM8K = {"question": "text", "answer": "text"}
MATH = {"problem": "text", "solution": "text", "answer": "text or number?"}
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
EXAMPLES = {"easy": 8, "hard": 4}  # worked examples, where they come out of the training data


def load_question_set(scale: Scale) -> QuestionSet:
    """The questions of both benchmarks; `train_easy`, `train_hard` and `test` are upper limits, as data may hold fewer.

    Raises UserError if a source cannot be read or lacks a column, if a question for training or an example stands in a
    test set, or if nothing is left to train on.
    """
    return _load(hub_of(scale), scale.questions)[0]


def load_benchmark(scale: Scale, benchmark: str) -> tuple[list[Question], list[Question]]:
    """All test questions of one benchmark, in the order of the study, and its worked examples; where these are named
    by examples.yaml, no training data are read."""
    hub, params = hub_of(scale), scale.questions
    role = next(role for role, name in _roles(params).items() if name == benchmark)
    load = load_gsm8k if role == "easy" else load_math
    source = hub.easy_test if role == "easy" else hub.hard_test
    assert source is not None  # a second benchmark has a test set (params.py)
    tests = list({q.id: q for q in load(source, f"{role}_test", "test", benchmark)}.values())
    examples = load_examples(hub, params, (role,)).get(role)
    if examples is None:
        examples = [q for q in load_question_set(scale).examples if q.benchmark == benchmark]
    return _in_order(tests, params.seed), examples


def train_counts(scale: Scale) -> dict[str, int]:
    """What became of the rows of hub.train: how many there are, and how many were left out for which reason."""
    return dict(_load(hub_of(scale), scale.questions)[1])


@lru_cache(maxsize=4)
def _load(hub: Hub, params: Questions) -> tuple[QuestionSet, dict[str, int]]:
    tests = _load_tests(hub, params)
    asked = {normalize(q.text): q for q in tests}
    examples = load_examples(hub, params)  # by role
    for example in sum(examples.values(), []):
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
            f'"from excursions import params; from excursions.data import public; public.write_without_overlap('
            f"params.load().scale('SCALE'), 'train.jsonl')\"`, SCALE being the scale's name, and set hub.train to it."
        )
    shown = {normalize(example.text) for example in sum(examples.values(), [])}
    splits: dict[str, list[Question]] = {"train": [], "validation": []}
    for role, benchmark in _roles(params).items():
        limit = params.train_easy if role == "easy" else params.train_hard
        own = 0 if role in examples else EXAMPLES[role]
        pool = [g for key, g in groups.items() if g.benchmark == benchmark and key not in shown]
        found = _choose(pool, own + params.validation + limit, params, counts)
        if limit and len(found) <= own + params.validation:
            as_examples = f" and few-shot examples {own}" if own else ""
            raise UserError(
                f"{hub.train} (hub.train) has {len(found)} usable questions for {benchmark}, of which "
                f"questions.validation takes {params.validation}{as_examples}; accepted: more than that. "
                f"Lower questions.validation, or name a larger data set."
            )
        if own:
            examples[role], found = [replace(q, split="examples") for q in found[:own]], found[own:]
        splits["validation"] += [replace(q, split="validation") for q in found[: params.validation]]
        splits["train"] += found[params.validation :]
    shown_tests: list[Question] = []
    for benchmark in _roles(params).values():
        ordered = _in_order([q for q in tests if q.benchmark == benchmark], params.seed)
        shown_tests += ordered[: params.test]
    shown_examples = tuple(example for role in _roles(params) for example in examples[role])
    return QuestionSet(tuple(splits["train"]), tuple(splits["validation"]), tuple(shown_tests), shown_examples), counts


def _roles(params: Questions) -> dict[str, str]:
    """The benchmarks of the study by their roles."""
    return {"easy": params.easy} | ({"hard": params.hard} if params.hard else {})


def _load_tests(hub: Hub, params: Questions) -> list[Question]:
    """All test questions, each once."""
    tests = load_gsm8k(hub.easy_test, "easy_test", "test", params.easy)
    if params.hard and hub.hard_test:
        tests += load_math(hub.hard_test, "hard_test", "test", params.hard)
    return list({q.id: q for q in tests}.values())


def load_gsm8k(source: str, key: str, split: str, benchmark: str) -> list[Question]:
    """GSM8K (`openai/gsm8k`), rows in order; the gold answer follows `####`. key: the key of `hub` that names it."""
    found = []
    for place, row in read_rows(source, key, split, GSM8K, ("main",), "GSM8K"):
        steps, mark, answer = row["answer"].rpartition("####")
        if not mark or not answer.strip():
            raise bad_row(
                source, key, place, "answer", repr(row["answer"][-80:]), "a solution that ends with `#### <number>`"
            )
        # The calculator's marks <<48/2=24>> are for a calculator that nobody runs.
        solution = re.sub(r"<<[^<>]*>>", "", steps) + "#### " + answer.strip()
        found.append(_question(row["question"], answer.strip(), (solution,), benchmark, split))
    return found


def load_math(source: str, key: str, split: str, benchmark: str) -> list[Question]:
    r"""MATH (`EleutherAI/hendrycks_math`, all seven subjects, or `HuggingFaceH4/MATH-500`), rows in order; the gold
    answer is the column `answer` if there is one, else the last `\boxed{}` of the solution."""
    found = []
    for place, row in read_rows(source, key, split, MATH, MATH_CONFIGS, "MATH"):
        answer = row.get("answer") or (grade.extract_answer(row["solution"]) if "boxed" in row["solution"] else None)
        if not answer:
            raise bad_row(
                source, key, place, "solution", repr(row["solution"][-80:]), r"a solution with a `\boxed{}` answer"
            )
        found.append(_question(row["problem"], answer, (row["solution"],), benchmark, split))
    return found


def load_examples(hub: Hub, params: Questions, roles: Iterable[str] = ("easy", "hard")) -> dict[str, list[Question]]:
    """The worked examples of few-shot prompts, 8 of the easy and 4 of the hard benchmark, as examples.yaml names them:
    for each role whose published train split is named.

    They are found in hub.easy_train and hub.hard_train by the digest of their question, wherever the row stands now.
    Raises UserError for one that is not there.
    """
    wanted = yaml.safe_load(files("excursions.data").joinpath("examples.yaml").read_text(encoding="utf-8"))
    found: dict[str, list[Question]] = {}
    for role, benchmark in _roles(params).items():
        source = hub.easy_train if role == "easy" else hub.hard_train
        if source is None or role not in roles:
            continue
        pool = (load_gsm8k if role == "easy" else load_math)(source, f"{role}_train", "train", benchmark)
        by_digest = {_digest(normalize(q.text)): q for q in pool}
        found[role] = []
        for entry in wanted[role]:
            q = by_digest.get(entry["sha256"])
            if q is None:
                raise UserError(
                    f"{source} (hub.{role}_train) has no row with the question of the few-shot example {entry['id']} "
                    f"(excursions/data/examples.yaml), found {len(pool)} others; accepted: the published train split, "
                    f"or null: then questions of hub.train are the examples."
                )
            found[role].append(replace(q, id=entry["id"], split="examples"))
    return found


def write_without_overlap(scale: Scale, path: Path | str) -> int:
    """Writes the correct plain-text rows of hub.train whose question is in no test set as JSON lines; returns how many
    questions were left out. No question is changed, so every other one keeps its split and its solutions' order."""
    hub, params = hub_of(scale), scale.questions
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
    # besides the names of OpenMathInstruct-1 those of the study: for training data of one's own
    benchmarks = {"gsm8k": params.easy, "math": params.hard, params.easy: params.easy, params.hard: params.hard}
    kinds = ("rows", "false", "with_code", "repeated", "rejected", "without_solution", "other_benchmark")
    counts = dict.fromkeys(kinds, 0)
    groups: dict[str, _Group] = {}
    for row in _correct_rows(hub, counts):
        key = normalize(row["question"])
        if row["dataset"] not in benchmarks:
            accepted = ", ".join(name for name in benchmarks if name)
            raise UserError(
                f"{hub.train} (hub.train): the column 'dataset' holds {row['dataset']!r}; accepted: {accepted}."
            )
        benchmark = benchmarks[row["dataset"]]
        if benchmark is None:
            counts["other_benchmark"] += 1
            continue
        # Two questions can differ by a sign alone, which `normalize` does not see: one of them stands for both.
        this = (row["question"], row["expected_answer"])
        group = groups.get(key)
        if group is None or this < (group.text, group.answer):
            counts["repeated"] += len(group.solutions) if group else 0
            group = groups[key] = _Group(*this, benchmark)
        solution = row["generated_solution"].strip()
        if this == (group.text, group.answer) and solution not in group.solutions:
            group.solutions.add(solution)
        else:
            counts["repeated"] += 1
    return groups, counts


def _correct_rows(hub: Hub, counts: dict[str, int]) -> Iterator[dict]:
    """The rows of hub.train that are correct and in plain text; what is left out is added to `counts`."""
    counts |= {name: counts.get(name, 0) for name in ("rows", "false", "with_code")}
    for _, row in read_rows(hub.train, "train", "train", OPENMATHINSTRUCT, (None,), "OpenMathInstruct-1"):
        counts["rows"] += 1
        if not row["is_correct"]:
            counts["false"] += 1
        elif CODE in row["generated_solution"]:
            counts["with_code"] += 1
        else:
            yield row


def _choose(pool: list[_Group], number: int, params: Questions, counts: dict[str, int]) -> list[Question]:
    """The first `number` questions of a pool, each with up to `params.solutions` solutions that the grader accepts."""
    found: list[Question] = []
    for group in sorted(pool, key=lambda group: _digest(f"{params.seed}/{group.text}")):
        if len(found) == number:
            break
        chosen: list[str] = []
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
