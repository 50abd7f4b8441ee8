"""What each file of a run, and a suite's suite.json, must be: columns and keys, their types and their ranges.

A table is a pyarrow schema with a few rules over whole columns; a JSON file is a pydantic type. Both say what is wrong
in words, without the file's name and the remedy, which `tables` adds.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

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
from typing_extensions import TypedDict  # pydantic asks for this one before Python 3.12

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

INT32 = 2**31 - 1  # the largest count: in memory counts are half as wide as in the files


@dataclass(frozen=True)
class Schema:
    """A table: its columns, those that name a row, where an integer must lie, and which of them may be empty."""

    columns: Mapping[str, pa.DataType]
    key: tuple[str, ...]  # besides the identity of the run
    limits: Mapping[str, tuple[int, int | str | None]]  # column -> smallest value, largest (a number or a column)
    nullable: tuple[str, ...] = ()
    may_be_empty: bool = False

    def fault(self, table: pa.Table) -> str | None:
        """What is wrong with the rows of one run, or None. Looks at those columns that `table` has."""
        if not table.num_rows:
            return None if self.may_be_empty else "the table has no rows"
        for name in table.column_names:
            if name in self.columns and name not in self.nullable and table[name].null_count:
                return f"column '{name}' is empty in {table[name].null_count} of {table.num_rows} rows"
        for name, (least, most) in self.limits.items():
            if name not in table.column_names:
                continue
            top = table[most] if most in table.column_names else most if isinstance(most, int) else None
            wrong = pc.less(table[name], least)
            if top is not None:
                wrong = pc.or_(wrong, pc.greater(table[name], top))
            if pc.any(wrong).as_py():
                row = pc.index(wrong, True).as_py()
                limit = f"{most} ({table[most][row]})" if isinstance(most, str) else most
                accepted = f"{least} or more" if most is None else f"{least} to {limit}"
                return f"column '{name}' is {table[name][row]} in row {row}, accepted: {accepted}"
        if set(self.key) <= set(table.column_names):
            distinct = table.select(self.key).group_by(list(self.key), use_threads=False).aggregate([]).num_rows
            if distinct < table.num_rows:
                return f"{table.num_rows - distinct} rows repeat the {', '.join(self.key)} of another row"
        return None


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
    limits=_WHO | {"step": (0, INT32), "n": (1, INT32), "correct": (0, "n"), "valid": (0, "correct")},
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
    limits=_WHO | {"step": (1, INT32)},
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


@with_config(_MORE)
class SuiteFile(TypedDict):
    """suite.json of a folder of checkpoints; it may hold more."""

    parameters: PositiveInt
    tokens: Annotated[dict[str, PositiveInt], Field(min_length=1)]  # of each checkpoint
    total_tokens: PositiveInt


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


RUN, SUITE, SAMPLE = TypeAdapter(RunFile), TypeAdapter(SuiteFile), TypeAdapter(Sample)
RUN_KEYS = tuple(RunFile.__annotations__)


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
