"""Where questions, pretraining stream, tokenizer and general benchmarks come from: made here (nano), or public data.

`open_source` chooses once, by `questions.source` of params.yaml; everything else asks the source and not the parameter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from transformers import PreTrainedTokenizerFast

from excursions.data.general import GeneralTasks
from excursions.data.questions import Question, QuestionSet
from excursions.params import Scale


class Stream(Protocol):
    """Batches of the pretraining mixture, resumable at any of them."""

    def next_batch(self) -> np.ndarray:
        """The next token ids, int32 (batch, context)."""
        ...

    def state_dict(self) -> dict: ...

    def load_state_dict(self, state: Any) -> None: ...


class Source(Protocol):
    """What a study is made from."""

    made_here: bool  # small, on CPU cores, and free of repeated questions; else public, on GPUs, as it comes

    def questions(self) -> QuestionSet: ...

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """That of our own pretraining; a public suite brings its own."""
        ...

    def stream(self) -> Stream: ...

    def stream_identity(self) -> object:
        """What a fingerprint holds of the stream."""
        ...

    def general(self) -> GeneralTasks:
        """The six benchmarks. Raises UserError for local copies that cannot be scored."""
        ...

    def search_stream(self, asked: dict[str, str]) -> dict:
        """What stands in the beginning of the stream of the questions `asked` (normalized text -> id), and of the rows
        for training, as counts. Raises UserError where the source is made here and a question stands in its stream."""
        ...

    def check_steps(self) -> Callable[[Question, str], bool] | None:
        """Whether a completion derives its answer step by step, if that can be told."""
        ...


def open_source(scale: Scale) -> Source:
    """The source that `questions.source` of a scale names."""
    # Imported here, so that what a run is checked against (study/code.py) holds the source it reads and not the other.
    if scale.questions.source == "nano":
        from excursions.data.nano.source import NanoSource

        return NanoSource(scale)
    from excursions.data.public_source import PublicSource

    return PublicSource(scale)
