"""Reading the files of runs: each table and JSON file against its schema, and many files as one table.

A study has thousands of files, so they are checked as a whole; what is wrong is told by file, column and row.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pandas.api.types import union_categoricals
from pydantic import TypeAdapter

from excursions.params import RECIPES, UserError
from excursions.results import schemas
from excursions.results.schemas import Schema

NAMES = pa.dictionary(pa.int32(), pa.string())  # how names are held: a study repeats each of them thousands of times
TOGETHER = 100  # files that are checked at once: fast, and what the check needs of memory stays small
COUNTS = ("step", "n", "correct", "valid")
SCHEMAS = {"outcomes": schemas.OUTCOMES, "general": schemas.GENERAL, "training": schemas.TRAINING}


def identity(folder: Path) -> dict[str, str | int]:
    """What the path of a run says it is."""
    scale, suite, checkpoint, recipe, seed = folder.parts[-5:]
    number = seed.removeprefix("seed-")
    if not number.isdecimal() or number != str(int(number)):
        raise UserError(f"{folder}: the folder of a run is named seed-<number>. Rename or delete it.")
    return {"scale": scale, "suite": suite, "checkpoint": checkpoint, "recipe": recipe, "seed": int(number)}


def load_files(
    folders: Sequence[Path], name: str, columns: Sequence[str] | None = None, between: bool = True
) -> pd.DataFrame:
    """One table of all these runs, by suite, along pretraining, by recipe and by seed."""
    schema, tokens = SCHEMAS[name], _tokens(folders, name)
    folders, found = sorted(folders, key=lambda folder: _place(folder, tokens)), []
    for at in range(0, len(folders), TOGETHER):
        some = folders[at : at + TOGETHER]
        tables = [_read_table(folder / f"{name}.parquet", schema, columns, between) for folder in some]
        for folder, table in zip(some, tables, strict=True):
            _check_tokens(folder.parents[1], table, tokens)
        whole = pa.concat_tables(tables, promote_options="default").unify_dictionaries()
        _check(whole, [folder / f"{name}.parquet" for folder in some], [*map(len, tables)], schema)
        frame = whole.to_pandas(split_blocks=True)
        if "valid" in frame:  # empty where steps cannot be checked, and an integer still
            frame["valid"] = whole["valid"].to_pandas(types_mapper={pa.int32(): pd.Int32Dtype()}.get)
        found.append(frame)
    return _joined(found)


def _joined(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """All rows as one frame, column by column, so that a study of thousands of runs is held once and not twice."""
    columns = {}
    for name in dict.fromkeys(name for frame in frames for name in frame.columns):
        parts = [frame.pop(name) if name in frame else pd.Series(np.nan, frame.index) for frame in frames]
        is_name = isinstance(parts[0].dtype, pd.CategoricalDtype)
        columns[name] = pd.Series(union_categoricals(parts)) if is_name else pd.concat(parts, ignore_index=True)
        del parts
        pa.default_memory_pool().release_unused()  # Arrow keeps what numbers were held in
    return pd.DataFrame(columns, copy=False)


def _check(whole: pa.Table, files: Sequence[Path], lengths: Sequence[int], schema: Schema) -> None:
    """Raises UserError naming the first file whose rows break a rule, or are of another run than its folder."""
    if not schema.may_be_empty and 0 in lengths:
        raise damaged(files[lengths.index(0)], "the table has no rows")
    run = np.repeat(np.arange(len(files)), lengths)
    fault = schema.fault(whole, run) or _gap(whole, run, schema)
    expected = pd.DataFrame([identity(file.parent) for file in files])
    for column in (column for column in expected if not fault and column in whole.column_names):
        values = whole[column].combine_chunks()
        if pa.types.is_dictionary(values.type):
            place = {name: number for number, name in enumerate(values.dictionary.to_pylist())}
            wrong = values.indices.to_numpy() != expected[column].map(place).fillna(-1).to_numpy()[run]
        else:
            wrong = values.to_numpy() != expected[column].to_numpy()[run]
        if wrong.any():
            row = int(wrong.argmax())
            folder = f"but the folder is of {expected[column].tolist()[run[row]]!r}"
            fault = row, f"column '{column}' holds {values[row].as_py()!r}, {folder}"
    if fault:
        row, what = fault
        names = {name: whole[name][row].as_py() for name in schema.key if name in whole.column_names}
        where = ", ".join(f"{name} {value}" for name, value in names.items())
        raise damaged(files[run[row]], f"{what} ({where})")


def _gap(whole: pa.Table, run: np.ndarray, schema: Schema) -> tuple[int, str] | None:
    """The first row of a run that lacks some: of outcomes, questions of its first or last step; of a log, a step."""
    if schema is schemas.GENERAL or "step" not in whole.column_names or not len(whole):
        return None
    step, first = whole["step"].to_numpy(), np.flatnonzero(np.diff(run, prepend=-1))
    last = np.maximum.reduceat(step, first)
    rows = np.diff(first, append=len(run))
    if schema is schemas.TRAINING:
        wrong, what = rows != last, "the log has not one row for each step"
    else:
        at_first, at_last = (np.add.reduceat(step == at, first) for at in (0, np.repeat(last, rows)))
        wrong, what = at_first != at_last, "its first step, 0, and its last one are not of the same questions"
    return (int(first[wrong.argmax()]), what) if wrong.any() else None


def _tokens(folders: Sequence[Path], name: str) -> dict[Path, int]:
    """Folder of a checkpoint -> the tokens it has seen, by the first of its runs that has rows; else 0."""
    found: dict[Path, int] = {}
    for folder in folders:
        if not found.get(folder.parents[1]):
            table = _read_table(folder / f"{name}.parquet", SCHEMAS[name], ["tokens"], between=True)
            found[folder.parents[1]] = table["tokens"][0].as_py() if len(table) else 0
    return found


def _place(folder: Path, tokens: dict[Path, int]) -> tuple:
    """Where a run belongs among others."""
    who = identity(folder)
    rank = RECIPES.index(who["recipe"]) if who["recipe"] in RECIPES else len(RECIPES)
    return who["suite"], tokens[folder.parents[1]], who["checkpoint"], rank, who["seed"]


def _check_tokens(checkpoint: Path, table: pa.Table, tokens: dict[Path, int]) -> None:
    """Raises UserError if two runs from one checkpoint disagree on the tokens it has seen."""
    seen = table["tokens"][0].as_py() if len(table) and "tokens" in table.column_names else tokens[checkpoint]
    if seen != tokens[checkpoint]:
        raise UserError(
            f"{checkpoint}: its runs disagree on the checkpoint's tokens ({tokens[checkpoint]} and {seen}), some "
            f"are of an older pretraining. Delete them, run `{command_for(*checkpoint.parts[-3:-1])}`."
        )


def _read_table(file: Path, schema: Schema, columns: Sequence[str] | None, between: bool) -> pa.Table:
    """One table of one run with the columns and types of the contract; names as dictionaries, counts half as wide."""
    names = [name for name, kind in schema.columns.items() if kind == pa.string()]
    try:
        opened = pq.ParquetFile(file, read_dictionary=names)
        found = opened.schema_arrow.names
        if missing := [name for name in schema.columns if name not in found]:
            raise damaged(file, f"column '{missing[0]}' is missing; found: {', '.join(found)}")
        table = opened.read(columns, use_threads=False)
    except FileNotFoundError:
        raise damaged(file, "the file is missing") from None
    except (pa.ArrowException, OSError) as error:
        raise damaged(file, f"not readable as parquet ({str(error).splitlines()[0]})") from None
    if not between:
        step = table["step"]
        table = table.filter(pc.or_(pc.equal(step, 0), pc.equal(step, pc.max(step))))
    whole = []
    for column, values in zip(table.column_names, table.itercolumns(), strict=True):
        kind = schema.columns.get(column, pa.float64())
        try:
            values = values if values.type in (kind, NAMES) else values.cast(kind)
        except pa.ArrowException:
            raise damaged(file, f"column '{column}' is {values.type}, expected {kind}") from None
        if values.type == pa.string():
            values = values.dictionary_encode()
        try:
            whole.append(values.cast(pa.int32()) if column in COUNTS else values)
        except pa.ArrowException:
            raise damaged(file, f"column '{column}' holds a number of 2^31 or more") from None
    return pa.table(whole, names=table.column_names)


def read_contract(file: Path, kind: TypeAdapter, remedy: str = "") -> dict:
    """One JSON file, checked against the contract."""
    try:
        return schemas.parse(kind, file.read_bytes())
    except FileNotFoundError:
        what = "the file is missing"
    except OSError as error:
        what = f"not readable ({error.strerror})"
    except ValueError as error:
        what = str(error)
    raise UserError(f"{file}: {what}. {remedy}") if remedy else damaged(file, what)


def damaged(file: Path, what: str) -> UserError:
    """The error for a file of a run that is not what it must be, with the command that brings it back."""
    scale, suite = file.absolute().parts[-6:-4]
    return UserError(
        f"{file}: {what}. Bring it back with `git checkout -- {file}`, "
        f"or delete the folder {file.parent} and run `{command_for(scale, suite)}`."
    )


def command_for(scale: str, suite: str) -> str:
    """What computes the runs of a suite."""
    return f"excursions train --scale {scale}" + (f" --suite {suite}" if suite != "main" else "")
