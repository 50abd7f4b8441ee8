"""The paper scale's data through `datasets`: OpenMathInstruct-1, GSM8K and MATH, and the pretraining stream.

Every source is a name on the Hugging Face hub, a local folder, or a .jsonl(.gz, .zst) or .parquet file, and all go
through the same two functions (`open_rows`, `open_texts`), which check the columns. What is our choice:

- Of OpenMathInstruct-1 we take the correct solutions in plain text. Those that call a Python interpreter (`<llm-code>`)
  are left out, as none runs in our evaluations. The paper has about 23 solutions per question and does not say which.
- Solutions that our grader does not find correct are left out too, so that every demonstration earns the reward.
- Which questions are for validation, and which of many solutions are taken, is decided by a hash of text and seed: it
  does not depend on the order of rows, and a row more or less moves little.
- Examples of few-shot prompts: examples.yaml.
- The pretraining data are read in many places at once, in the order of their files (see `TextStream`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import torch
import yaml
from datasets import (
    Dataset,
    IterableDataset,
    concatenate_datasets,
    disable_progress_bars,
    load_dataset,
    load_dataset_builder,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from excursions.data.questions import Question, QuestionSet, normalize
from excursions.files import whole_file
from excursions.grading import grade
from excursions.params import Hub, Questions, Scale, UserError

FILES = tuple(f"{kind}{packed}" for kind in (".jsonl", ".json") for packed in ("", ".gz", ".zst")) + (".parquet",)
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
PARTS = 32  # places of the pretraining data that are read in turn
DOCUMENTS = 64  # tokenized at once


# --- Questions ---


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
            f'"from excursions import params; from excursions.data import public; public.write_without_overlap('
            f"params.load().scale('paper'), 'train.jsonl')\"`, and set hub.train to that file."
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
    for number, row in enumerate(_rows(source, key, split, GSM8K, ("main",), "GSM8K")):
        steps, mark, answer = row["answer"].rpartition("####")
        if not mark or not answer.strip():
            raise _bad_row(source, key, number, "answer", row["answer"], "a solution that ends with `#### <number>`")
        # The calculator's marks <<48/2=24>> are for a calculator that nobody runs.
        solution = re.sub(r"<<[^<>]*>>", "", steps) + "#### " + answer.strip()
        found.append(_question(row["question"], answer.strip(), (solution,), benchmark, split))
    return found


def load_math(source: str, key: str, split: str, benchmark: str) -> list[Question]:
    r"""MATH (`EleutherAI/hendrycks_math`, all seven subjects, or `HuggingFaceH4/MATH-500`), rows in order; the gold
    answer is the column `answer` if there is one, else the last `\boxed{}` of the solution."""
    found = []
    for number, row in enumerate(_rows(source, key, split, MATH, MATH_CONFIGS, "MATH")):
        answer = row.get("answer") or (grade.extract_answer(row["solution"]) if "boxed" in row["solution"] else None)
        if not answer:
            raise _bad_row(source, key, number, "solution", row["solution"], r"a solution with a `\boxed{}` answer")
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
                raise _bad_row(hub.train, "train", number, name, None, f"a {OPENMATHINSTRUCT[name]} in every row")
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


# --- Opening a source ---


def open_rows(
    source: str, key: str, split: str, columns: dict[str, str], configs: tuple[str | None, ...], schema: str
) -> Dataset:
    """A whole data set in rows, its columns checked.

    key: which key of `hub` names the source. split: of a folder or a hub data set; a file is taken as it is.
    configs: the configurations to read one after another, where the data set has them. schema: what to call it.
    Raises UserError if it cannot be had, or lacks a column, or has one of another type.
    """
    with _reading(source, key):
        if _is_file(source):
            rows = load_dataset(_file_kind(source), data_files={split: source}, split=split)
        else:
            try:
                rows = concatenate_datasets([load_dataset(source, config, split=split) for config in configs])
            except ValueError:  # a copy, or a part, without these configurations
                rows = load_dataset(source, split=split)
    accepted = ", ".join(f"{name} ({kind})" for name, kind in columns.items())
    for name, kind in columns.items():
        found = getattr(rows.features.get(name), "dtype", rows.features.get(name))
        if found is None or str(found).removeprefix("large_") != kind:
            what = f"has no column '{name}'" if found is None else f"has the column '{name}' as {found}, not {kind}"
            raise UserError(
                f"{source} (hub.{key}) {what}; found: {', '.join(rows.features)}; "
                f"accepted: the columns of {schema}: {accepted}."
            )
    return rows


def _rows(
    source: str, key: str, split: str, columns: dict[str, str], configs: tuple[str | None, ...], schema: str
) -> Iterator[dict]:
    for number, row in enumerate(open_rows(source, key, split, columns, configs, schema)):
        for name in columns:
            if row[name] is None:
                raise _bad_row(source, key, number, name, None, f"a {columns[name]} in every row")
        yield row


def open_texts(source: str, config: str | None, parts: int) -> tuple[str, list[IterableDataset]]:
    """A data set's documents as up to `parts` streams of neighbouring files, and which column holds them.

    JSON files are read line by line as plain text ("json": each row is a line yet to be parsed), because in mixtures
    such as DOLMino their further columns differ from file to file, which `datasets` refuses to put into one table.
    Nothing is downloaded but what is read. Raises UserError if it cannot be had or is of another kind.
    """
    with _reading(source, "stream"):
        if _is_file(source):
            kind, names = _file_kind(source), [source]
        else:
            builder = load_dataset_builder(source, config)
            kind, names = builder.name, (builder.config.data_files or {}).get("train", [])
        if kind not in ("json", "parquet") or not names:
            raise ValueError(f"it holds {len(names)} files of the kind '{kind}' for training")
        if kind == "json":
            stream = load_dataset("text", data_files={"train": names}, split="train", streaming=True)
        else:
            stream = load_dataset("parquet", data_files={"train": names}, split="train", streaming=True)
            if "text" not in stream.column_names:
                raise _no_text(source, stream.column_names)
            stream = stream.select_columns(["text"])
        count = min(parts, stream.num_shards)
        return kind, [stream.shard(count, index) for index in range(count)]


def _is_file(source: str) -> bool:
    return source.endswith(FILES)


def _is_hub_name(source: str) -> bool:
    return source.count("/") == 1 and not source.startswith((".", "/", "~")) and not Path(source).exists()


def _file_kind(source: str) -> str:
    if not Path(source).is_file():
        raise FileNotFoundError("there is no such file")
    return "parquet" if source.endswith(".parquet") else "json"


@contextmanager
def _reading(source: str, key: str) -> Iterator[None]:
    """Whatever goes wrong in reading a source becomes one sentence with the remedy: data sets come from many libraries,
    which fail in many ways."""
    disable_progress_bars()
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error.__cause__ or error).split())[:300].rstrip(".") or type(error).__name__
        kinds = "" if key == "tokenizer" else f", or a file ({', '.join(FILES)})"
        remedy = f"Set hub.{key} in params.yaml to where it is."
        if "zstd" in reason:  # as in DOLMino
            remedy = "For .zst files `pip install zstandard`."
        elif _is_hub_name(source):
            what = "" if key == "tokenizer" else "--repo-type dataset "
            remedy = (
                f"Where there is no network, or HF_HUB_OFFLINE is set, fetch it elsewhere with `hf download {what}"
                f"{source} --local-dir FOLDER` and set hub.{key} in params.yaml to that folder."
            )
        raise UserError(
            f"{source} (hub.{key}) could not be read: {reason}. Accepted: a name on the Hugging Face hub, a local "
            f"folder{kinds}. {remedy}"
        ) from None


def _bad_row(source: str, key: str, number: int, column: str, found: str | None, accepted: str) -> UserError:
    shown = "nothing" if found is None else repr(found[-80:])
    return UserError(f"{source} (hub.{key}), row {number}, column '{column}': found {shown}; accepted: {accepted}.")


def _no_text(source: str, found: list[str]) -> UserError:
    return UserError(
        f"{source} (hub.stream) has no column 'text' of type string; found: {', '.join(found)}; "
        f"accepted: documents with their text in the column 'text'."
    )


def load_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a hub model or a local folder. One without a padding token pads with its end token, which no
    loss and no attention ever sees there. Raises UserError if it cannot be had or has no end token."""
    with _reading(name, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(name)
    if tokenizer.eos_token_id is None:
        raise UserError(f"{name} (hub.tokenizer) has no end token; accepted: a tokenizer that names its eos_token.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


# --- The pretraining stream ---


class TextStream:
    """The documents of hub.stream, without end: after the last one it starts again.

    The files are read in up to PARTS places at once, a document of each in turn, so that a mixture stored source by
    source is mixed in every batch. No random numbers and no buffer are involved: a position can be resumed exactly.
    """

    def __init__(self, source: str, config: str | None = None) -> None:
        self.source, self.config = source, config
        self.passes = 0  # begun so far
        self._open()

    def _open(self) -> None:
        self.passes += 1
        self.kind, self.parts = open_texts(self.source, self.config, PARTS)
        self.turn = 0  # which part comes next
        self.ended = [False] * len(self.parts)
        self._iterators: list[Iterator[dict] | None] = [None] * len(self.parts)

    def next_text(self) -> str:
        """The next document. Raises UserError if it is unreadable, or if there is none at all."""
        empty_pass = False
        while True:
            if all(self.ended):
                if empty_pass:
                    raise UserError(f"{self.source} (hub.stream) holds no documents; accepted: at least one.")
                empty_pass = True
                self._open()
            part = self.turn
            self.turn = (part + 1) % len(self.parts)
            if self.ended[part]:
                continue
            with _reading(self.source, "stream"):
                if self._iterators[part] is None:
                    self._iterators[part] = iter(self.parts[part])
                row = next(self._iterators[part], None)
            if row is None:
                self.ended[part] = True
            elif row["text"] or self.kind == "parquet":
                return self._text(row["text"])

    def _text(self, found: str | None) -> str:
        if self.kind == "json":
            try:
                found = json.loads(found)
            except ValueError:
                raise UserError(
                    f"{self.source} (hub.stream) holds a line that is no JSON: {found[:80]!r}; "
                    f"accepted: one JSON object a line."
                ) from None
            if not isinstance(found, dict) or not isinstance(found.get("text"), str):
                raise _no_text(self.source, [*found] if isinstance(found, dict) else [repr(found)[:80]])
            return found["text"]
        if not isinstance(found, str):
            raise _no_text(self.source, [f"text ({type(found).__name__})"])
        return found

    def state_dict(self) -> dict:
        """The position, in plain Python types."""
        states = [part.state_dict() if it else None for part, it in zip(self.parts, self._iterators, strict=True)]
        return {"passes": self.passes, "turn": self.turn, "ended": list(self.ended), "parts": states}

    def load_state_dict(self, state: dict) -> None:
        """Goes to a position that `state_dict` of the same data has returned. Raises UserError for other data."""
        self._open()
        if len(state["parts"]) != len(self.parts):
            raise UserError(
                f"{self.source} (hub.stream) is no longer what the saved state was made with: {len(self.parts)} parts, "
                f"it had {len(state['parts'])}. Bring the data back, or remove the state to start again."
            )
        self.passes, self.turn, self.ended = state["passes"], state["turn"], list(state["ended"])
        for number, (part, saved) in enumerate(zip(self.parts, state["parts"], strict=True)):
            if saved is not None:
                part.load_state_dict(saved)
                self._iterators[number] = iter(part)


class PackedStream:
    """Batches of the pretraining stream: documents joined by the end token and cut into sequences, nothing lost.

    Every process that makes one reads the same batches; each trains on its own rows of them.
    """

    def __init__(self, scale: Scale, tokenizer: PreTrainedTokenizerFast) -> None:
        self.shape = (scale.pretrain.batch_size, scale.model.context)
        self.tokenizer = tokenizer
        self.texts = TextStream(scale.hub.stream, scale.hub.stream_config)
        self.left = np.empty(0, dtype=np.int32)  # tokens read and not yet given out

    def next_batch(self) -> np.ndarray:
        """The next batch of token ids, int32 (batch, context)."""
        size = self.shape[0] * self.shape[1]
        pieces, tokens = [self.left], len(self.left)
        while tokens < size:
            texts = [self.texts.next_text() for _ in range(DOCUMENTS)]
            encoded = self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False).input_ids
            pieces += [np.asarray([*ids, self.tokenizer.eos_token_id], dtype=np.int32) for ids in encoded]
            tokens = sum(map(len, pieces))
        joined = np.concatenate(pieces)
        self.left = joined[size:].copy()
        return joined[:size].reshape(self.shape)

    def state_dict(self) -> dict:
        """The position after the last batch; `torch.save` writes it, `torch.load(weights_only=True)` reads it."""
        return {"texts": self.texts.state_dict(), "left": torch.from_numpy(self.left.copy())}

    def load_state_dict(self, state: dict) -> None:
        """Goes on behind the batch after which `state_dict` was called. Raises UserError if the data are others."""
        self.texts.load_state_dict(state["texts"])
        self.left = state["left"].numpy().copy()
