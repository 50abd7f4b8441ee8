"""What each file of a run, and a suite's suite.json, must be: columns and keys, their types and their ranges.

A table is a pyarrow schema with a few rules over whole columns; a JSON file is a pydantic type. Both say what is wrong
in words, without the file's name and the remedy, which `tables` adds.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import (
    Annotated,
    Any,
    NotRequired,  # pydantic asks for these before Python 3.12
)

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import (
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    with_config,
)
from typing_extensions import TypedDict

IDENTITY = {
    "scale": pa.string(),
    "suite": pa.string(),
    "checkpoint": pa.string(),
    "tokens": pa.int64(),  # pretraining tokens the checkpoint has seen
    "recipe": pa.string(),
    "seed": pa.int64(),
}
# What every log has, named as in TRL; a log may have more (for example sft_loss).
MEASUREMENTS = (
    "reward reward_std frac_reward_zero_std completions/mean_length completions/clipped_ratio entropy loss "
    "grad_norm num_tokens step_time share_rollout share_grading share_training"
).split()
SHARES = [name for name in MEASUREMENTS if name == "reward" or re.search("share|ratio|frac", name)]
AMOUNTS = [name for name in MEASUREMENTS if name not in (*SHARES, "loss")]


@dataclass(frozen=True)
class Schema:
    """A table: its columns, those that name a row, where an integer must lie, and which of them may be empty."""

    columns: Mapping[str, pa.DataType]
    key: tuple[str, ...]  # besides the identity of the run
    limits: Mapping[str, tuple[int, int | str | None]]  # column -> smallest value, largest (a number or a column)
    nullable: tuple[str, ...] = ()
    may_be_empty: bool = False

    def fault(self, table: pa.Table, run: np.ndarray | int = 0) -> tuple[int, str] | None:
        """The first row that breaks a rule, and what is wrong there; None if all is well.

        Looks at those columns that `table` has. run: of each row, the number of the run it is of.
        """
        for name in {*table.column_names} & {*self.columns} - {*self.nullable}:
            if table[name].null_count:
                return pc.index(pc.is_null(table[name]), True).as_py(), f"column '{name}' is empty"
        for name, (least, most) in self.limits.items():
            if name not in table.column_names:
                continue
            top = table[most] if most in table.column_names else most if isinstance(most, int) else None
            wrong = pc.less(table[name], least)
            if top is not None:
                wrong = pc.or_(wrong, pc.greater(table[name], top))
            if (row := pc.index(wrong, True).as_py()) >= 0:
                limit = f"{most} ({table[most][row]})" if isinstance(most, str) else most
                accepted = f"{least} or more" if most is None else f"{least} to {limit}"
                return row, f"column '{name}' is {table[name][row]}, accepted: {accepted}"
        if {*self.key} <= {*table.column_names} and (row := _repeated(table, self.key, run)) is not None:
            return row, f"a second row with the same {', '.join(self.key)}"
        return None


def _repeated(table: pa.Table, key: tuple[str, ...], run: np.ndarray | int) -> int | None:
    """A row whose key an earlier row of its run has. Rows are written in the order of their keys, which is fast."""
    code = run + np.zeros(len(table), np.int64)
    for name in key:
        column = table[name].combine_chunks()
        if pa.types.is_string(column.type):
            column = column.dictionary_encode()
        number = np.asarray(column.indices if pa.types.is_dictionary(column.type) else column)
        code = code * (int(number.max(initial=0)) + 1) + number
    if (code[1:] > code[:-1]).all():
        return None
    _, firsts = np.unique(code, return_index=True)
    return None if len(firsts) == len(code) else int(np.setdiff1d(np.arange(len(code)), firsts)[0])


_WHO = {"tokens": (1, None), "seed": (0, None)}
OUTCOMES = Schema(
    IDENTITY
    | {
        "step": pa.int64(),  # 0 = before training; the last step is the recipe's result
        "benchmark": pa.string(),
        "question_id": pa.string(),
        "n": pa.int64(),  # samples
        "correct": pa.int64(),  # of them with the right final answer
        "valid": pa.int64(),  # of these derived step by step; null where steps cannot be checked
    },
    key=("step", "benchmark", "question_id"),
    limits=_WHO | {"step": (0, None), "n": (1, None), "correct": (0, "n"), "valid": (0, "correct")},
    nullable=("valid",),
)
GENERAL = Schema(
    IDENTITY | {"benchmark": pa.string(), "item_id": pa.string(), "correct": pa.int64()},  # correct: 0 or 1
    key=("benchmark", "item_id"),
    limits=_WHO | {"correct": (0, 1)},
)
TRAINING = Schema(
    IDENTITY | {"step": pa.int64()} | dict.fromkeys(MEASUREMENTS, pa.float64()),
    key=("step",),
    limits=_WHO | {"step": (1, None)} | dict.fromkeys(SHARES, (0, 1)) | dict.fromkeys(AMOUNTS, (0, None)),
    nullable=tuple(MEASUREMENTS),
    may_be_empty=True,  # `base` does not train
)

_MORE = ConfigDict(extra="allow", strict=True)


@with_config(_MORE)
class RunFile(TypedDict):
    """run.json; it may hold more."""

    parameters: dict[str, Any]
    versions: dict[str, Any]
    git_commit: str | None
    machine: dict[str, Any]
    wall_seconds: NonNegativeFloat
    peak_memory_mb: NonNegativeFloat
    fingerprint: Annotated[str, Field(min_length=1)]
    code: NotRequired[dict[str, Any]]  # its digest, the modules, how it was shown
    files: NotRequired[dict[str, str]]  # the others of the run, each with its sha256


@with_config(_MORE)
class SuiteFile(TypedDict):
    """suite.json of a folder of checkpoints; it may hold more."""

    parameters: PositiveInt
    tokens: Annotated[dict[str, PositiveInt], Field(min_length=1)]  # of each checkpoint
    total_tokens: PositiveInt
    code: NotRequired[dict[str, Any]]


@with_config(_MORE)
class Counts(TypedDict):
    """What was measured of a model on one question."""

    benchmark: str
    question_id: str
    n: PositiveInt
    correct: NonNegativeInt
    valid: NonNegativeInt | None


@with_config(_MORE)
class Sample(TypedDict):
    """One line of samples.jsonl.gz: a kept completion."""

    benchmark: str
    question_id: str
    step: NonNegativeInt  # of training
    prompt: str
    gold: str
    completion: str
    correct: bool
    valid: bool | None  # null where steps cannot be checked
    stop_reason: str


@with_config(_MORE)
class DataFile(TypedDict):
    """results/<scale>/data.json, what is known of the questions; it holds more."""

    # benchmark -> k -> pass@k in percent of answers drawn from those of the training questions, unread
    guess_floor: NotRequired[
        dict[str, dict[Annotated[str, Field(pattern="^[1-9][0-9]{0,5}$")], Annotated[float, Field(ge=0, le=100)]]]
    ]


RUN, SUITE, SAMPLE, DATA = (TypeAdapter(kind) for kind in (RunFile, SuiteFile, Sample, DataFile))
MEASURED = TypeAdapter(tuple[list[Counts], list[dict[str, Any]]])  # in scratch/measured
RUN_KEYS = tuple(key for key in RunFile.__annotations__ if key not in ("code", "files"))  # what every run.json has


def parse(kind: TypeAdapter, content: bytes) -> dict:
    """JSON as the type it must be. Raises ValueError saying which key is wrong and what was found there."""
    try:
        return kind.validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            raise ValueError(f"key '{key}' is missing; found: {', '.join(first['input']) or 'no key'}") from None
        where = f"key '{key}'" if key else "the content"
        raise ValueError(f"{where} is {reprlib.repr(first['input'])}: {first['msg']}") from None
