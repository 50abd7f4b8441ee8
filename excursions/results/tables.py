"""The results contract: what one run leaves behind, and the tables that figures and claims are made of.

A run is one recipe from one checkpoint with one seed. Its folder is complete or absent:
results/<scale>/<suite>/<checkpoint>/<recipe>/seed-<k>/. `root` is everywhere the project's folder, which
holds results/ and checkpoints/. What each file must be is in `schemas`; it is checked on writing and on reading.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from excursions import params
from excursions.files import whole_folder
from excursions.params import RECIPES, UserError
from excursions.results import schemas
from excursions.results.schemas import MEASUREMENTS, RUN_KEYS, Schema
from excursions.tree import run_folder, suites_with_results

NAMES = pa.dictionary(pa.int32(), pa.string())  # how names are held: a study repeats each of them thousands of times
COUNTS = ("step", "n", "correct", "valid")
SCHEMAS = {"outcomes": schemas.OUTCOMES, "general": schemas.GENERAL, "training": schemas.TRAINING}
KS = (1, 8, 32)
# The benchmarks of all scales, and what they are for.
ROLES = {"easy": "easy", "gsm8k": "easy", "hard": "hard", "math": "hard"}


@dataclass(frozen=True)
class Tables:
    """What claims read of one scale; outcomes and general hold all its suites."""

    scale: str
    outcomes: pd.DataFrame
    general: pd.DataFrame
    parameters: dict[str, int]  # suite -> parameters of its model, for multiples of Chinchilla-optimal
    training: pd.DataFrame = field(default_factory=pd.DataFrame)  # the logs of all suites
    # (easy or hard, k) -> pass@k in percent of guessing; without an entry answers are taken as impossible to guess
    floors: dict[tuple[str, int], float] = field(default_factory=dict)


class StoredTables(Tables):
    """Those of a results tree, each read when it is first asked for: a notebook reads what its figures need."""

    folders: Sequence[Path]
    between: bool

    def __init__(self, root: Path, scale: str, folders: Sequence[Path], between: bool) -> None:
        suites = dict.fromkeys(folder.parts[-4] for folder in folders)
        parameters = {suite: load_suite(root, scale, suite)["parameters"] for suite in suites}
        vars(self).update(
            scale=scale, folders=folders, between=between, parameters=parameters, floors=_floors(root, scale)
        )

    @cached_property
    def outcomes(self) -> pd.DataFrame:
        return _load(self.folders, "outcomes", None, self.between)

    @cached_property
    def general(self) -> pd.DataFrame:
        return _load(self.folders, "general")

    @cached_property
    def training(self) -> pd.DataFrame:
        return _load(self.folders, "training", [*schemas.IDENTITY, "step", "reward", "entropy"])


def write_run(
    folder: Path,
    outcomes: pd.DataFrame,
    general: pd.DataFrame,
    training: pd.DataFrame,
    samples: list[dict],
    run: dict,
) -> None:
    """Writes the five files of a run aside and puts them in place together, where they replace an older run.

    training: may be empty (`base` does not train); measurements a recipe does not have become NaN, further
    columns are kept as numbers. Row order does not matter, and equal inputs give equal bytes.
    Raises ValueError naming the file and what is wrong in it, UserError when the disk refuses.
    """
    further = {str(name): pa.float64() for name in sorted(set(training.columns) - set(schemas.TRAINING.columns))}
    training = training.assign(**{name: None for name in MEASUREMENTS if name not in training.columns})
    if training.empty:
        training = training.reindex(columns=[*schemas.TRAINING.columns, *further])
    files = {
        "outcomes.parquet": _parquet("outcomes", outcomes),
        "general.parquet": _parquet("general", general),
        "training.parquet": _parquet("training", training, further),
        # mtime 0: the header would otherwise hold the time of writing
        "samples.jsonl.gz": gzip.compress(
            b"".join(_json_bytes("samples.jsonl.gz", schemas.SAMPLE, line) for line in samples), mtime=0
        ),
        "run.json": _json_bytes("run.json", schemas.RUN, run, indent=1, sort_keys=True),
    }
    try:
        with whole_folder(Path(folder)) as aside:
            for name, content in files.items():
                (aside / name).write_bytes(content)
    except OSError as error:
        raise UserError(
            f"{folder} could not be written: {error.strerror or error}. Nothing was changed there; "
            f"free space or permissions, then start the stage again with `dvc repro`."
        ) from error


def run_folders(root: Path | str, scale: str, suite: str) -> list[Path]:
    """The folders of all runs of a suite. Raises UserError when there are none."""
    folders = sorted((Path(root) / "results" / scale / suite).glob("[!.]*/[!.]*/seed-*"))
    if not folders:
        expected = Path(root) / "results" / scale / suite / "<checkpoint>" / "<recipe>" / "seed-<k>"
        raise UserError(
            f"There are no results of scale '{scale}', suite '{suite}': looked for {expected}. Run from the "
            f"project's folder. `git checkout -- results` brings them back, `{_command(scale, suite)}` makes new ones."
        )
    return folders


def load_outcomes(
    root: Path | str, scale: str, suite: str = "main", between: bool = True, columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """Outcomes of a suite: columns of schemas.OUTCOMES, one row per run, step, benchmark and question.

    between: with the evaluations between the first and the last step. columns: read these alone (of ends, `step` too).
    Names are categories and `valid` is a nullable integer. Rows are in the order of pretraining and of RECIPES.
    """
    return _load(run_folders(root, scale, suite), "outcomes", columns, between)


def load_general(
    root: Path | str, scale: str, suite: str = "main", columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """Answers to the general benchmarks: columns of schemas.GENERAL, one row per run, benchmark and item."""
    return _load(run_folders(root, scale, suite), "general", columns)


def load_training(
    root: Path | str, scale: str, suite: str = "main", columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """Training logs: columns of schemas.TRAINING and what some recipes log besides, one row per run and step."""
    return _load(run_folders(root, scale, suite), "training", columns)


def load_runs(root: Path | str, scale: str, suite: str = "main") -> pd.DataFrame:
    """run.json of all runs: scale, suite, checkpoint, recipe, seed, then RUN_KEYS (some hold mappings)."""
    rows = []
    for folder in run_folders(root, scale, suite):
        run = _read_json(folder / "run.json", schemas.RUN)
        rows.append(_identity(folder) | {key: run[key] for key in RUN_KEYS})
    return in_order(pd.DataFrame(rows))


def load_samples(folder: Path | str) -> list[dict]:
    """The kept completions of one run, from its samples.jsonl.gz: schemas.Sample."""
    file = Path(folder) / "samples.jsonl.gz"
    try:
        lines = gzip.decompress(file.read_bytes()).splitlines()
    except FileNotFoundError:
        raise _damaged(file, "the file is missing") from None
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(file, f"not readable as gzip ({error})") from None
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(schemas.parse(schemas.SAMPLE, line))
        except ValueError as error:
            raise _damaged(file, f"line {number}: {error}") from None
    return found


def load_suite(root: Path | str, scale: str, suite: str = "main") -> dict:
    """suite.json of the checkpoints: parameters (int), tokens (checkpoint -> int), total_tokens (int)."""
    file = Path(root) / "checkpoints" / scale / suite / "suite.json"
    again = f"run `{_command(scale, suite)}`" + (" to pretrain" if suite == "main" else " to write it again")
    return _read_json(file, schemas.SUITE, f"Bring it back with `git checkout -- {file}`, or delete it and {again}.")


def load_run(folder: Path, name: str) -> pd.DataFrame:
    """One table (outcomes, general or training) of one run."""
    return _load([folder], name)


def tokens_of(root: Path | str, scale: str, suite: str, checkpoint: str) -> int:
    """Pretraining tokens that a checkpoint has seen. Raises UserError if its suite.json does not say so."""
    tokens = load_suite(root, scale, suite)["tokens"]
    return tokens[params.one_of(checkpoint, list(tokens), f"checkpoint in suite.json of {scale}, suite {suite}")]


def load_tables(root: Path | str, scale: str, between: bool = True) -> Tables:
    """Outcomes, general benchmarks, logs (reward and entropy) and parameters of all suites of a scale with results.

    Only of the checkpoints, recipes and seeds that root/params.yaml names: a cell taken out of the study keeps its
    results on disk and leaves the figures. (A folder of results without params.yaml is taken whole.)
    between: as for `load_outcomes`. A table is read when it is first asked for.
    """
    file, suites = Path(root) / "params.yaml", suites_with_results(root, scale)
    folders = [folder for suite in suites for folder in run_folders(root, scale, suite)]
    if file.is_file():
        study = params.load(file)
        cells = {run_folder(root, scale, suite, *cell) for suite in suites for cell in study.cells(suite)}
        folders = [folder for folder in folders if folder in cells]
    return StoredTables(Path(root), scale, folders, between)


def _floors(root: Path, scale: str) -> dict[tuple[str, int], float]:
    """What guessing scores, from results/<scale>/data.json, which may not be there or not say it."""
    file = root / "results" / scale / "data.json"
    if not file.is_file():
        return {}
    remedy = f"Bring it back with `git checkout -- {file}`, or run `excursions data --scale {scale}`."
    found = _read_json(file, schemas.DATA, remedy).get("guess_floor", {})
    return {(ROLES.get(name, name), int(k)): value for name, by_k in found.items() for k, value in by_k.items()}


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Rows sorted as a reader expects: along pretraining, recipes in the order of RECIPES."""
    keys = ["suite", "tokens", "checkpoint", "recipe", "seed", "step", "benchmark", "question_id", "item_id", "k"]
    rank = {recipe: number for number, recipe in enumerate(RECIPES)}
    return table.sort_values(
        [key for key in keys if key in table.columns],
        key=lambda column: column.astype(str).map(rank) if column.name == "recipe" else column,
        kind="stable",
        ignore_index=True,
    )


def _parquet(name: str, frame: pd.DataFrame, further: dict[str, pa.DataType] | None = None) -> bytes:
    """The bytes of a table with exactly the columns and types of its schema, and nothing of the program's state."""
    schema = SCHEMAS[name]
    columns = dict(schema.columns) | (further or {})
    if missing := [column for column in columns if column not in frame.columns]:
        raise ValueError(f"{name}.parquet: missing {', '.join(missing)}; found: {', '.join(map(str, frame.columns))}.")
    frame = frame[list(columns)].sort_values(list(schema.key), kind="stable")
    table = pa.Table.from_pandas(frame, schema=pa.schema(list(columns.items())), preserve_index=False)
    if not (table.num_rows or schema.may_be_empty):
        raise ValueError(f"{name}.parquet: the table has no rows.")
    if fault := schema.fault(table):
        raise ValueError(f"{name}.parquet: {fault[1]}.")
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(None), buffer, compression="zstd")
    return buffer.getvalue()


def _json_bytes(name: str, kind: TypeAdapter, value: dict, **how: Any) -> bytes:
    """One JSON text and a line's end, checked by reading it as it will be read."""
    content = (json.dumps(value, ensure_ascii=False, **how) + "\n").encode()
    try:
        schemas.parse(kind, content)
    except ValueError as error:
        raise ValueError(f"{name}: {error}.") from None
    return content


def _identity(folder: Path) -> dict[str, str | int]:
    """What the path of a run says it is."""
    scale, suite, checkpoint, recipe, seed = folder.parts[-5:]
    number = seed.removeprefix("seed-")
    if not number.isdecimal():
        raise UserError(f"{folder}: the folder of a run is named seed-<number>. Rename or delete it.")
    return {"scale": scale, "suite": suite, "checkpoint": checkpoint, "recipe": recipe, "seed": int(number)}


def _load(
    folders: Sequence[Path], name: str, columns: Sequence[str] | None = None, between: bool = True
) -> pd.DataFrame:
    """One table of all these runs, checked as a whole: a study has thousands of files."""
    schema = SCHEMAS[name]
    read = [(folder, _read(folder / f"{name}.parquet", schema, columns, between)) for folder in folders]
    read.sort(key=lambda pair: _place(*pair))
    _check_tokens(read)
    whole = pa.concat_tables([table for _, table in read], promote_options="default").unify_dictionaries()
    _check(whole, [folder / f"{name}.parquet" for folder, _ in read], [len(table) for _, table in read], schema)
    frame = whole.to_pandas()
    if "valid" in frame:  # empty where steps cannot be checked, and an integer still
        frame["valid"] = whole["valid"].to_pandas(types_mapper={pa.int32(): pd.Int32Dtype()}.get)
    return frame


def _check(whole: pa.Table, files: Sequence[Path], lengths: Sequence[int], schema: Schema) -> None:
    """Raises UserError naming the first file whose rows break a rule, or are of another run than its folder."""
    if not schema.may_be_empty and 0 in lengths:
        raise _damaged(files[lengths.index(0)], "the table has no rows")
    run = np.repeat(np.arange(len(files)), lengths)
    fault = schema.fault(whole, run)
    expected = pd.DataFrame([_identity(file.parent) for file in files])
    for column in (column for column in expected if not fault and column in whole.column_names):
        values = whole[column].combine_chunks()
        if pa.types.is_dictionary(values.type):
            place = {name: number for number, name in enumerate(values.dictionary.to_pylist())}
            wrong = values.indices.to_numpy() != expected[column].map(place).fillna(-1).to_numpy()[run]
        else:
            wrong = values.to_numpy() != expected[column].to_numpy()[run]
        if wrong.any():
            row = int(wrong.argmax())
            folder = f"but the folder is of {expected[column][run[row]]!r}"
            fault = row, f"column '{column}' holds {values[row].as_py()!r}, {folder}"
    if fault:
        row, what = fault
        names = {name: whole[name][row].as_py() for name in schema.key if name in whole.column_names}
        where = ", ".join(f"{name} {value}" for name, value in names.items())
        raise _damaged(files[run[row]], f"{what} ({where})")


def _place(folder: Path, table: pa.Table) -> tuple:
    """Where a run belongs among others: by suite, along pretraining, by recipe, by seed."""
    who = _identity(folder)
    rank = RECIPES.index(who["recipe"]) if who["recipe"] in RECIPES else len(RECIPES)
    tokens = table["tokens"][0].as_py() if "tokens" in table.column_names and len(table) else 0
    return who["suite"], tokens, who["checkpoint"], rank, who["seed"]


def _check_tokens(read: Sequence[tuple[Path, pa.Table]]) -> None:
    """Raises UserError if two runs from one checkpoint disagree on the tokens it has seen."""
    seen: dict[Path, int] = {}
    for folder, table in read:
        if len(table) == 0 or "tokens" not in table.column_names:
            continue
        checkpoint, tokens = folder.parents[1], table["tokens"][0].as_py()
        if seen.setdefault(checkpoint, tokens) != tokens:
            raise UserError(
                f"{checkpoint}: its runs disagree on the checkpoint's tokens ({seen[checkpoint]} and {tokens}), some "
                f"are of an older pretraining. Delete them, run `{_command(*checkpoint.parts[-3:-1])}`."
            )


def _read(file: Path, schema: Schema, columns: Sequence[str] | None, between: bool) -> pa.Table:
    """One table of one run with the columns and types of the contract; names as dictionaries, counts half as wide."""
    names = [name for name, kind in schema.columns.items() if kind == pa.string()]
    try:
        opened = pq.ParquetFile(file, read_dictionary=names)
        found = opened.schema_arrow.names
        if missing := [name for name in schema.columns if name not in found]:
            raise _damaged(file, f"column '{missing[0]}' is missing; found: {', '.join(found)}")
        wanted = columns if between or columns is None else [*dict.fromkeys([*columns, "step"])]
        table = opened.read(wanted, use_threads=False)
    except FileNotFoundError:
        raise _damaged(file, "the file is missing") from None
    except (pa.ArrowException, OSError) as error:
        raise _damaged(file, f"not readable as parquet ({str(error).splitlines()[0]})") from None
    if not between:
        step = table["step"]
        table = table.filter(pc.or_(pc.equal(step, 0), pc.equal(step, pc.max(step))))
    whole = []
    for column, values in zip(table.column_names, table.itercolumns(), strict=True):
        kind = schema.columns.get(column, pa.float64())
        try:
            values = values if values.type in (kind, NAMES) else values.cast(kind)
        except pa.ArrowException:
            raise _damaged(file, f"column '{column}' is {values.type}, expected {kind}") from None
        if values.type == pa.string():
            values = values.dictionary_encode()
        whole.append(values.cast(pa.int32()) if column in COUNTS else values)
    return pa.table(whole, names=table.column_names)


def _read_json(file: Path, kind: TypeAdapter, remedy: str = "") -> dict:
    """One JSON file, checked against the contract."""
    try:
        return schemas.parse(kind, file.read_bytes())
    except FileNotFoundError:
        what = "the file is missing"
    except OSError as error:
        what = f"not readable ({error.strerror})"
    except ValueError as error:
        what = str(error)
    raise UserError(f"{file}: {what}. {remedy}") if remedy else _damaged(file, what)


def _damaged(file: Path, what: str) -> UserError:
    scale, suite = file.absolute().parts[-6:-4]
    return UserError(
        f"{file}: {what}. Bring it back with `git checkout -- {file}`, "
        f"or delete the folder {file.parent} and run `{_command(scale, suite)}`."
    )


def _command(scale: str, suite: str) -> str:
    """What computes the runs of a suite."""
    return "dvc repro" if suite == "main" else f"excursions train --scale {scale} --suite {suite}"
