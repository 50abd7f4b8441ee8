"""Opening public data: a name on the Hugging Face hub, a local folder, or a file, with its columns checked.

Whatever goes wrong becomes one sentence that names the key of `hub`, what was found and what is accepted.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import zstandard
from datasets import concatenate_datasets, disable_progress_bars, load_dataset
from transformers import PreTrainedTokenizerFast

from excursions.params import Hub, Scale, UserError
from excursions.tokens import read_tokenizer

FILES = tuple(f"{kind}{packed}" for kind in (".jsonl", ".json") for packed in ("", ".gz", ".zst")) + (".parquet",)


def hub_of(scale: Scale) -> Hub:
    """Where the public data of a scale are, which each scale of such data says (params.py)."""
    assert scale.hub is not None
    return scale.hub


def read_rows(
    source: str, key: str, split: str, columns: dict[str, str], configs: tuple[str | None, ...], schema: str
) -> Iterator[tuple[str, dict]]:
    """The rows of a data set, each with the place where it stands ("line 3") and the columns asked for, checked.

    key: which key of `hub` names the source. split: of a folder or a hub data set; a file is taken as it is. columns:
    their kinds, "text", "bool", "text or number" (which becomes text), with "?" behind it where a row may lack it (but
    not hold nothing in it: a NaN that pandas wrote);
    a data set may have more, of any kind. configs: the configurations to read one after another, where the data set has
    them. schema: what to call it. Raises UserError if it cannot be read, or at a row that lacks a column or has another
    kind of value in it.
    """
    place = None
    with reading(source, key):
        for place, row in _places(source, split, columns, configs):
            found = {}
            for name, kind in columns.items():
                if name not in row:
                    if kind.endswith("?"):
                        continue
                    accepted = ", ".join(f"{name} ({kind})" for name, kind in columns.items() if kind[-1] != "?")
                    raise UserError(
                        f"{source} (hub.{key}), {place}, has no column '{name}'; found: {', '.join(row)}; "
                        f"accepted: the columns of {schema}: {accepted}."
                    )
                value = row[name]
                if kind.startswith("text or number") and type(value) in (int, float) and math.isfinite(value):
                    value = str(value)
                if type(value) is not (bool if kind == "bool" else str):
                    shown = "nothing" if value is None else f"{str(value)[:80]} ({type(value).__name__})"
                    raise bad_row(source, key, place, name, shown, kind.rstrip("?"))
                found[name] = value
            yield place, found
    if place is None:
        raise UserError(f"{source} (hub.{key}) holds no rows; accepted: at least one.")


def _places(
    source: str, split: str, columns: dict[str, str], configs: tuple[str | None, ...]
) -> Iterator[tuple[str, dict]]:
    """All rows with their places; of tables in columns no more columns than needed are read."""
    if is_file(source) and file_kind(source) == "json":
        yield from _json_rows(source)
        return
    if is_file(source):
        file = pq.ParquetFile(source)
        batches = file.iter_batches(10_000, columns=[name for name in file.schema_arrow.names if name in columns])
    else:
        try:
            rows = concatenate_datasets([load_dataset(source, config, split=split) for config in configs])
        except ValueError:  # a copy, or a part, without these configurations
            rows = load_dataset(source, split=split)
        wanted = rows.select_columns([name for name in rows.column_names if name in columns])
        batches = wanted.with_format("arrow").iter(batch_size=10_000)
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            number += 1
            yield f"row {number}", row


def _json_rows(source: str) -> Iterator[tuple[str, dict]]:
    """The objects of a file of JSON lines, or of one JSON list, packed or not."""
    opened: Any = {".gz": gzip.open, ".zst": zstandard.open}.get(Path(source).suffix, open)
    with opened(source, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{source}, line {number}, byte {error.start + 1}: found {line[error.start : error.start + 1]!r}; "
                    "accepted: UTF-8. Convert it, for example with `iconv -f latin1 -t utf-8`."
                ) from None
            if number == 1 and text.startswith("["):
                for item, row in enumerate(json.loads(text + b"".join(lines).decode("utf-8")), start=1):
                    if not isinstance(row, dict):
                        raise UserError(f"{source}, item {item}: found {row!r:.80}; accepted: a JSON object each.")
                    yield f"item {item}", row
                return
            if not text:
                continue
            try:
                row = json.loads(text)
            except json.JSONDecodeError as error:
                raise UserError(
                    f"{source}, line {number}, character {error.colno}: {error.msg}; accepted: one JSON object a line."
                ) from None
            if not isinstance(row, dict):
                raise UserError(f"{source}, line {number}: found {text[:80]!r}; accepted: one JSON object a line.")
            yield f"line {number}", row


def is_file(source: str) -> bool:
    return source.endswith(FILES)


def _is_hub_name(source: str) -> bool:
    return source.count("/") == 1 and not source.startswith((".", "/", "~")) and not Path(source).exists()


def file_kind(source: str) -> str:
    if not Path(source).is_file():
        raise FileNotFoundError("there is no such file")
    return "parquet" if source.endswith(".parquet") else "json"


@contextmanager
def reading(source: str, key: str) -> Iterator[None]:
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
        if _is_hub_name(source):
            what = "" if key == "tokenizer" else "--repo-type dataset "
            remedy = (
                f"Where there is no network, or HF_HUB_OFFLINE is set, fetch it elsewhere with `hf download {what}"
                f"{source} --local-dir FOLDER` and set hub.{key} in params.yaml to that folder."
            )
        raise UserError(
            f"{source} (hub.{key}) could not be read: {reason}. Accepted: a name on the Hugging Face hub, a local "
            f"folder{kinds}. {remedy}"
        ) from None


def bad_row(source: str, key: str, place: str, column: str, found: str, accepted: str) -> UserError:
    """The error of a value that cannot be used."""
    return UserError(f"{source} (hub.{key}), {place}, column '{column}': found {found}; accepted: {accepted}.")


def load_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a hub model or a local folder. Raises UserError if it cannot be had as it was written."""
    with reading(name, "tokenizer"):
        return read_tokenizer(name)
