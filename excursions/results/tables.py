"""The results contract: what one run leaves behind, and the tables that figures and claims are made of.

A run is one recipe from one checkpoint with one seed. Its folder is complete or absent:
results/<scale>/<suite>/<checkpoint>/<recipe>/seed-<k>/. `root` is everywhere the project's folder, which
holds results/ and checkpoints/. What each file must be is in `schemas`; it is checked on writing and on reading.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from excursions import params
from excursions.files import whole_folder
from excursions.params import RECIPES, UserError
from excursions.results import schemas
from excursions.results.reading import SCHEMAS, command_for, damaged, identity, load_files, read_contract
from excursions.results.schemas import MEASUREMENTS, RUN_KEYS
from excursions.tree import run_folder, suites_with_results

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
        return load_files(self.folders, "outcomes", between=self.between)

    @cached_property
    def general(self) -> pd.DataFrame:
        return load_files(self.folders, "general")

    @cached_property
    def training(self) -> pd.DataFrame:
        return load_files(self.folders, "training", [*schemas.IDENTITY, "step", "reward", "entropy"])


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
    }
    run = run | {"files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}}
    files["run.json"] = _json_bytes("run.json", schemas.RUN, run, indent=1, sort_keys=True)
    try:
        with whole_folder(Path(folder)) as aside:
            for name, content in files.items():
                (aside / name).write_bytes(content)
    except OSError as error:
        raise UserError(
            f"{folder} could not be written: {error.strerror or error}. Nothing was changed there; "
            f"free space or permissions, then start the same command again."
        ) from error


def run_folders(root: Path | str, scale: str, suite: str) -> list[Path]:
    """The folders of all runs of a suite. Raises UserError when there are none."""
    folders = _folders(root, scale, suite)
    if not folders:
        expected = Path(root) / "results" / scale / suite / "<checkpoint>" / "<recipe>" / "seed-<k>"
        raise UserError(
            f"There are no results of scale '{scale}', suite '{suite}': looked for {expected}. Run from the project's "
            f"folder. `git checkout -- results` brings them back, `{command_for(scale, suite)}` makes new ones."
        )
    return folders


def _folders(root: Path | str, scale: str, suite: str) -> list[Path]:
    return sorted((Path(root) / "results" / scale / suite).glob("[!.]*/[!.]*/seed-*"))


def load_outcomes(root: Path | str, scale: str, suite: str = "main", between: bool = True) -> pd.DataFrame:
    """Outcomes of a suite: columns of schemas.OUTCOMES, one row per run, step, benchmark and question.

    between: with the evaluations between the first and the last step. Names are categories and `valid` is a nullable
    integer. Rows are in the order of pretraining and of RECIPES.
    """
    return load_files(run_folders(root, scale, suite), "outcomes", between=between)


def load_general(root: Path | str, scale: str, suite: str = "main") -> pd.DataFrame:
    """Answers to the general benchmarks: columns of schemas.GENERAL, one row per run, benchmark and item."""
    return load_files(run_folders(root, scale, suite), "general")


def load_training(root: Path | str, scale: str, suite: str = "main") -> pd.DataFrame:
    """Training logs: columns of schemas.TRAINING and what some recipes log besides, one row per run and step."""
    return load_files(run_folders(root, scale, suite), "training")


def load_runs(root: Path | str, scale: str, suite: str = "main") -> pd.DataFrame:
    """run.json of all runs: scale, suite, checkpoint, recipe, seed, then RUN_KEYS (some hold mappings)."""
    rows = []
    for folder in run_folders(root, scale, suite):
        run = read_contract(folder / "run.json", schemas.RUN)
        rows.append(identity(folder) | {key: run[key] for key in RUN_KEYS})
    return in_order(pd.DataFrame(rows))


def load_samples(folder: Path | str) -> list[dict]:
    """The kept completions of one run, from its samples.jsonl.gz: schemas.Sample."""
    file = Path(folder) / "samples.jsonl.gz"
    try:
        lines = gzip.decompress(file.read_bytes()).splitlines()
    except FileNotFoundError:
        raise damaged(file, "the file is missing") from None
    except (OSError, EOFError, zlib.error) as error:
        raise damaged(file, f"not readable as gzip ({error})") from None
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(schemas.parse(schemas.SAMPLE, line))
        except ValueError as error:
            raise damaged(file, f"line {number}: {error}") from None
    return found


def load_suite(root: Path | str, scale: str, suite: str = "main") -> dict:
    """suite.json of the checkpoints: parameters (int), tokens (checkpoint -> int), total_tokens (int)."""
    file = Path(root) / "checkpoints" / scale / suite / "suite.json"
    remedy = (
        f"Bring it back with `git checkout -- {file}`, or delete it and run `excursions pretrain --scale {scale} "
        f"--suite {suite}`, or for a public suite `{command_for(scale, suite)}`, which writes it."
    )
    return read_contract(file, schemas.SUITE, remedy)


def tokens_of(root: Path | str, scale: str, suite: str, checkpoint: str) -> int:
    """Pretraining tokens that a checkpoint has seen. Raises UserError if its suite.json does not say so."""
    tokens = load_suite(root, scale, suite)["tokens"]
    return tokens[params.one_of(checkpoint, list(tokens), f"checkpoint in suite.json of {scale}, suite {suite}")]


def load_tables(root: Path | str, scale: str, between: bool = True) -> Tables:
    """Outcomes, general benchmarks, logs (reward and entropy) and parameters of all suites of a scale with results.

    Only of the suites, checkpoints, recipes and seeds that root/params.yaml names: what is taken out of the study keeps
    its results on disk and leaves the figures. (A folder of results without params.yaml is taken whole.) Suites that
    ask validation questions choose settings and report nothing: they are left out.
    between: as for `load_outcomes`. A table is read when it is first asked for.
    """
    file, suites = Path(root) / "params.yaml", suites_with_results(root, scale)
    # a suite whose first run is still being computed has a folder and no results
    folders = [folder for suite in suites for folder in _folders(root, scale, suite)]
    folders = folders or run_folders(root, scale, suites[0])  # which says what is missing
    if file.is_file():
        study = params.load(file)
        suites = [
            suite for suite in suites
            if suite in ("main", *study.suites) and study.scale(scale, suite).asked == "test"
        ]  # fmt: skip
        cells = {run_folder(root, scale, suite, *cell) for suite in suites for cell in study.cells(scale, suite)}
        folders = [folder for folder in folders if folder in cells]
    if not folders:
        raise UserError(
            f"None of the runs that {file} names for scale '{scale}' has results; `checkpoints`, `recipes`, `seeds` "
            f"and `more_seeds` there name them. `{command_for(scale, 'main')}` computes them."
        )
    return StoredTables(Path(root), scale, folders, between)


def _floors(root: Path, scale: str) -> dict[tuple[str, int], float]:
    """What guessing scores, from results/<scale>/data.json, which may not be there or not say it."""
    file = root / "results" / scale / "data.json"
    if not file.is_file():
        return {}
    remedy = f"Bring it back with `git checkout -- {file}`, or run `excursions data --scale {scale}`."
    found = read_contract(file, schemas.DATA, remedy).get("guess_floor", {})
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
