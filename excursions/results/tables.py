"""The results contract: what one run leaves behind, and the tables that figures and claims are made of.

A run is one recipe from one checkpoint with one seed. Its folder is complete or absent:
results/<scale>/<suite>/<checkpoint>/<recipe>/seed-<k>/. `root` is everywhere the project's folder, which
holds results/ and checkpoints/. Estimates and intervals in tables are in percent (0 to 100).
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from excursions import params
from excursions.files import whole_folder
from excursions.params import RECIPES, UserError

IDENTITY = {
    "scale": pa.string(),
    "suite": pa.string(),
    "checkpoint": pa.string(),
    "tokens": pa.int64(),  # pretraining tokens the checkpoint has seen
    "recipe": pa.string(),
    "seed": pa.int64(),
}
OUTCOME_COLUMNS = IDENTITY | {
    "step": pa.int64(),  # 0 = before training; the last step is the recipe's result
    "benchmark": pa.string(),
    "question_id": pa.string(),
    "n": pa.int64(),  # samples
    "correct": pa.int64(),  # of them correct
}
GENERAL_COLUMNS = IDENTITY | {"benchmark": pa.string(), "n": pa.int64(), "correct": pa.int64()}
# What every log has, named as in TRL; a log may have more (for example sft_loss).
MEASUREMENTS = (
    "reward reward_std frac_reward_zero_std completions/mean_length completions/clipped_ratio entropy loss "
    "grad_norm num_tokens step_time share_rollout share_grading share_training"
).split()
TRAINING_COLUMNS = IDENTITY | {"step": pa.int64()} | dict.fromkeys(MEASUREMENTS, pa.float64())
RUN_KEYS = "parameters versions git_commit machine wall_seconds peak_memory_mb fingerprint".split()
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


def run_folder(root: Path | str, scale: str, suite: str, checkpoint: str, recipe: str, seed: int) -> Path:
    """Where the results of a run are."""
    return Path(root) / "results" / scale / suite / checkpoint / recipe / f"seed-{seed}"


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
    Raises ValueError when a table or `run` lacks something, UserError when the disk refuses.
    """
    missing = [key for key in RUN_KEYS if key not in run]
    if missing:
        raise ValueError(f"run.json lacks {', '.join(missing)}.")
    lacking = [name for name in TRAINING_COLUMNS if name not in training.columns]
    if len(training) and {*lacking} & {*IDENTITY, "step"}:
        raise ValueError(f"training.parquet: missing {', '.join(lacking)}.")
    training = training.reindex(columns=[*training.columns, *lacking])
    further = {name: pa.float64() for name in sorted(set(training.columns) - set(TRAINING_COLUMNS))}
    lines = "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
    files = {
        "outcomes.parquet": _parquet(outcomes, OUTCOME_COLUMNS, ["step", "benchmark", "question_id"]),
        "general.parquet": _parquet(general, GENERAL_COLUMNS, ["benchmark"]),
        "training.parquet": _parquet(training, TRAINING_COLUMNS | further, ["step"]),
        # mtime 0: the header would otherwise hold the time of writing
        "samples.jsonl.gz": gzip.compress(lines.encode(), mtime=0),
        "run.json": (json.dumps(run, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode(),
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


def load_outcomes(root: Path | str, scale: str, suite: str = "main") -> pd.DataFrame:
    """All outcomes of a suite: columns OUTCOME_COLUMNS, one row per run, step, benchmark and question."""
    return _load(root, scale, suite, "outcomes.parquet", OUTCOME_COLUMNS)


def load_general(root: Path | str, scale: str, suite: str = "main") -> pd.DataFrame:
    """All general-benchmark counts of a suite: columns GENERAL_COLUMNS, one row per run and benchmark."""
    return _load(root, scale, suite, "general.parquet", GENERAL_COLUMNS)


def load_training(root: Path | str, scale: str, suite: str = "main") -> pd.DataFrame:
    """All training logs: TRAINING_COLUMNS and what some recipes log besides, one row per run and step."""
    return _load(root, scale, suite, "training.parquet", TRAINING_COLUMNS)


def load_runs(root: Path | str, scale: str, suite: str = "main") -> pd.DataFrame:
    """run.json of all runs: scale, suite, checkpoint, recipe, seed, then RUN_KEYS (some hold mappings)."""
    rows = []
    for folder in _run_folders(root, scale, suite):
        file = folder / "run.json"
        try:
            run = json.loads(file.read_text(encoding="utf-8"))
            rows.append(_identity(folder) | {key: run[key] for key in RUN_KEYS})
        except FileNotFoundError:
            raise _damaged(file, "the file is missing") from None
        except KeyError as error:
            raise _damaged(file, f"key {error} is missing; found: {', '.join(run)}") from None
        except ValueError as error:
            raise _damaged(file, f"not valid JSON ({error})") from None
    return in_order(pd.DataFrame(rows))


def load_samples(folder: Path | str) -> list[dict]:
    """The kept completions of one run, from its samples.jsonl.gz."""
    file = Path(folder) / "samples.jsonl.gz"
    try:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]
    except FileNotFoundError:
        raise _damaged(file, "the file is missing") from None
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise _damaged(file, f"not readable ({error})") from None


def load_suite(root: Path | str, scale: str, suite: str = "main") -> dict:
    """suite.json of the checkpoints: parameters (int), tokens (checkpoint -> int), total_tokens (int)."""
    file = Path(root) / "checkpoints" / scale / suite / "suite.json"
    remedy = f"Bring it back with `git checkout -- {file}`, or run `dvc repro` to pretrain."
    if not file.is_file():
        raise UserError(f"{file} does not exist. {remedy}")
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is not valid JSON ({error}). {remedy}") from None
    for key in ("parameters", "tokens", "total_tokens"):
        if key not in about:
            raise UserError(f"{file}: key '{key}' is missing; found: {', '.join(about)}. {remedy}")
    return about


def load_tables(root: Path | str, scale: str) -> Tables:
    """Outcomes, general benchmarks and parameter counts of all suites of a scale that have results.

    Only of the checkpoints, recipes and seeds that root/params.yaml names: a cell taken out of the study keeps its
    results on disk and leaves the figures. (A folder of results without params.yaml is taken whole.)
    """
    folder = Path(root) / "results" / scale
    suites = sorted({"main", *(path.name for path in folder.glob("[!.]*") if path.is_dir())})
    outcomes = pd.concat([load_outcomes(root, scale, suite) for suite in suites], ignore_index=True)
    general = pd.concat([load_general(root, scale, suite) for suite in suites], ignore_index=True)
    if (file := Path(root) / "params.yaml").is_file():
        study, keys = params.load(file), ["suite", "checkpoint", "recipe", "seed"]
        cells = [(suite, *cell) for suite in suites for cell in study.cells(suite)]
        outcomes, general = (
            table[pd.MultiIndex.from_frame(table[keys]).isin(cells)].reset_index(drop=True)
            for table in (outcomes, general)
        )
    return Tables(scale, outcomes, general, {suite: load_suite(root, scale, suite)["parameters"] for suite in suites})


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Rows sorted as a reader expects: along pretraining, recipes in the order of RECIPES."""
    keys = ["suite", "tokens", "checkpoint", "recipe", "seed", "step", "benchmark", "question_id", "k"]
    rank = {recipe: number for number, recipe in enumerate(RECIPES)}
    return table.sort_values(
        [key for key in keys if key in table.columns],
        key=lambda column: column.map(rank) if column.name == "recipe" else column,
        kind="stable",
        ignore_index=True,
    )


def _parquet(frame: pd.DataFrame, columns: dict[str, pa.DataType], order: list[str]) -> bytes:
    """The bytes of a table with exactly these columns and types, and nothing of the program's state in
    them.
    """
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise ValueError(f"missing {', '.join(missing)}; found: {', '.join(map(str, frame.columns))}.")
    frame = frame[list(columns)].sort_values(order, kind="stable")
    if "correct" in columns and not frame["correct"].between(0, frame["n"]).all():
        raise ValueError("correct must lie between 0 and n.")
    if frame.duplicated(order).any():
        raise ValueError(f"two rows have the same {', '.join(order)}.")
    table = pa.Table.from_pandas(frame, schema=pa.schema(list(columns.items())), preserve_index=False)
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(None), buffer, compression="zstd")
    return buffer.getvalue()


def _run_folders(root: Path | str, scale: str, suite: str) -> list[Path]:
    folders = sorted((Path(root) / "results" / scale / suite).glob("[!.]*/[!.]*/seed-*"))
    if not folders:
        expected = Path(root) / "results" / scale / suite / "<checkpoint>" / "<recipe>" / "seed-<k>"
        command = "dvc repro" if suite == "main" else f"excursions train --scale {scale} --suite {suite}"
        raise UserError(
            f"There are no results of scale '{scale}', suite '{suite}': looked for {expected}. Run from the "
            f"project's folder. `git checkout -- results` brings them back, `{command}` makes new ones."
        )
    return folders


def _identity(folder: Path) -> dict[str, str | int]:
    """What the path of a run says it is."""
    scale, suite, checkpoint, recipe, seed = folder.parts[-5:]
    number = seed.removeprefix("seed-")
    if not number.isdigit():
        raise UserError(f"{folder}: the folder of a run is named seed-<number>. Rename or delete it.")
    return {"scale": scale, "suite": suite, "checkpoint": checkpoint, "recipe": recipe, "seed": int(number)}


def _load(root: Path | str, scale: str, suite: str, name: str, columns: dict[str, pa.DataType]) -> pd.DataFrame:
    tables = [_read(folder / name, columns) for folder in _run_folders(root, scale, suite)]
    table = pa.concat_tables(tables, promote_options="default").to_pandas()
    tokens = table.groupby("checkpoint")["tokens"].unique()
    for checkpoint, found in tokens[tokens.map(len) > 1].items():
        raise UserError(
            f"results/{scale}/{suite}/{checkpoint}: its runs disagree on the checkpoint's tokens "
            f"({', '.join(map(str, found))}), some are of an older pretraining. Delete them, run `dvc repro`."
        )
    return in_order(table)


def _read(file: Path, columns: dict[str, pa.DataType]) -> pa.Table:
    """One table of one run, checked against the contract."""
    try:
        table = pq.ParquetFile(file).read()
    except FileNotFoundError:
        raise _damaged(file, "the file is missing") from None
    except (pa.ArrowException, OSError) as error:
        raise _damaged(file, f"not readable as parquet ({str(error).splitlines()[0]})") from None
    for column, kind in columns.items():
        if column not in table.column_names:
            raise _damaged(file, f"column '{column}' is missing; found: {', '.join(table.column_names)}")
        try:
            table = table.set_column(table.column_names.index(column), column, table[column].cast(kind))
        except pa.ArrowException:
            raise _damaged(file, f"column '{column}' is {table[column].type}, expected {kind}") from None
    for column, expected in _identity(file.parent).items():
        found = table[column].unique().to_pylist()
        if found not in ([], [expected]):
            raise _damaged(file, f"column '{column}' holds {found}, but the folder is of {expected!r}")
    return table


def _damaged(file: Path, what: str) -> UserError:
    return UserError(
        f"{file}: {what}. Bring it back with `git checkout -- {file}`, "
        f"or delete the folder {file.parent} and run `dvc repro`."
    )
