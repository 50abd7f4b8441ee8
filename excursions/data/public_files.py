"""Opening public data: a name on the Hugging Face hub, a local folder, or a file, with its columns checked.

Whatever goes wrong becomes one sentence that names the key of `hub`, what was found and what is accepted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datasets import Dataset, concatenate_datasets, disable_progress_bars, load_dataset
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from excursions.params import UserError

FILES = tuple(f"{kind}{packed}" for kind in (".jsonl", ".json") for packed in ("", ".gz", ".zst")) + (".parquet",)


def open_rows(
    source: str, key: str, split: str, columns: dict[str, str], configs: tuple[str | None, ...], schema: str
) -> Dataset:
    """A whole data set in rows, its columns checked.

    key: which key of `hub` names the source. split: of a folder or a hub data set; a file is taken as it is.
    configs: the configurations to read one after another, where the data set has them. schema: what to call it.
    Raises UserError if it cannot be had, or lacks a column, or has one of another type.
    """
    with reading(source, key):
        if is_file(source):
            rows = load_dataset(file_kind(source), data_files={split: source}, split=split)
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


def read_rows(
    source: str, key: str, split: str, columns: dict[str, str], configs: tuple[str | None, ...], schema: str
) -> Iterator[dict]:
    for number, row in enumerate(open_rows(source, key, split, columns, configs, schema)):
        for name in columns:
            if row[name] is None:
                raise bad_row(source, key, number, name, None, f"a {columns[name]} in every row")
        yield row


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


def bad_row(source: str, key: str, number: int, column: str, found: str | None, accepted: str) -> UserError:
    shown = "nothing" if found is None else repr(found[-80:])
    return UserError(f"{source} (hub.{key}), row {number}, column '{column}': found {shown}; accepted: {accepted}.")


def load_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a hub model or a local folder. One without a padding token pads with its end token, which no
    loss and no attention ever sees there. Raises UserError if it cannot be had or has no end token."""
    with reading(name, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(name)
    if tokenizer.eos_token_id is None:
        raise UserError(f"{name} (hub.tokenizer) has no end token; accepted: a tokenizer that names its eos_token.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
