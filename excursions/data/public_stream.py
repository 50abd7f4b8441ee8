"""The pretraining stream of public data: documents of many files in turn, in batches, resumable at any of them."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from datasets import IterableDataset, load_dataset, load_dataset_builder
from transformers import PreTrainedTokenizerFast

from excursions.data.public_files import file_kind, hub_of, is_file, reading
from excursions.params import Scale, UserError

PARTS = 32  # places of the data that are read in turn
DOCUMENTS = 64  # tokenized at once


def open_texts(source: str, config: str | None, parts: int) -> tuple[str, list[IterableDataset]]:
    """A data set's documents as up to `parts` streams of neighbouring files, and which column holds them.

    JSON files are read line by line as plain text ("json": each row is a line yet to be parsed), because in mixtures
    such as DOLMino their further columns differ from file to file, which `datasets` refuses to put into one table.
    Nothing is downloaded but what is read. Raises UserError if it cannot be had or is of another kind.
    """
    with reading(source, "stream"):
        if is_file(source):
            kind, names = file_kind(source), [glob.escape(source)]
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


class TextStream:
    """The documents of hub.stream, without end: after the last one it starts again.

    The files are read in up to PARTS places at once, a document of each in turn, so that a mixture stored source by
    source is mixed in every batch. No random numbers and no buffer are involved: a position can be resumed exactly.
    """

    def __init__(self, source: str | None, config: str | None = None) -> None:
        if source is None:
            raise UserError("hub.stream is null: for pretraining say there where the documents are.")
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
            with reading(self.source, "stream"):
                rows = self._iterators[part]
                if rows is None:
                    rows = self._iterators[part] = iter(self.parts[part])
                row = next(rows, None)
            if row is None:
                self.ended[part] = True
            elif row["text"] or self.kind == "parquet":
                return self._text(row["text"])

    def _text(self, found: Any) -> str:
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
        hub = hub_of(scale)
        self.texts = TextStream(hub.stream, hub.stream_config)
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
        """The position after the last batch, as JSON can hold it."""
        return {"texts": self.texts.state_dict(), "left": self.left.tolist()}

    def load_state_dict(self, state: dict) -> None:
        """Goes on behind the batch after which `state_dict` was called. Raises UserError if the data are others."""
        self.texts.load_state_dict(state["texts"])
        self.left = np.asarray(state["left"], dtype=np.int32)


def _no_text(source: str, found: list[str]) -> UserError:
    return UserError(
        f"{source} (hub.stream) has no column 'text' of type string; found: {', '.join(found)}; "
        f"accepted: documents with their text in the column 'text'."
    )
