"""Public data as a `Source`, by the names that the block `hub` of a scale gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from excursions.data import general, public, public_files, public_stream
from excursions.data.general import GeneralTasks
from excursions.data.public_files import hub_of
from excursions.data.questions import Question, QuestionSet, normalize
from excursions.data.source import Stream
from excursions.params import Scale

STREAM_DOCUMENTS = 2000  # of the pretraining stream, searched for questions
SPOKEN = 8  # words: a shorter question may stand in a text by chance


@dataclass(frozen=True)
class PublicSource:
    """Public data, by the names that the block `hub` of a scale gives."""

    scale: Scale
    made_here = False

    def questions(self) -> QuestionSet:
        return public.load_question_set(self.scale)

    def tokenizer(self) -> PreTrainedTokenizerFast:
        return public_files.load_tokenizer(hub_of(self.scale).tokenizer)

    def stream(self) -> Stream:
        return public_stream.PackedStream(self.scale, self.tokenizer())

    def stream_identity(self) -> object:
        return [hub_of(self.scale).tokenizer, hub_of(self.scale).stream, hub_of(self.scale).stream_config]

    def general(self) -> GeneralTasks:
        folder = hub_of(self.scale).general
        return general.hub_tasks(self.scale.evaluate.general, Path(folder) if folder else None)

    def search_stream(self, asked: dict[str, str]) -> dict:
        counts, found = public.train_counts(self.scale), None
        if hub_of(self.scale).stream is not None:
            stream = public_stream.TextStream(hub_of(self.scale).stream, hub_of(self.scale).stream_config)
            found = search_texts(stream, asked)
        return {"training_rows": counts, "stream": found}

    def check_steps(self) -> Callable[[Question, str], bool] | None:
        return None


def search_texts(stream: public_stream.TextStream, asked: dict[str, str]) -> dict[str, int | list[str]]:
    """Searches the first documents of a stream for whole questions of at least SPOKEN words.

    asked: normalized text -> id. Returns how many documents were searched, and the ids of the questions found.
    """
    by_start: dict[tuple[str, ...], list[tuple[list[str], str]]] = {}
    for text, name in asked.items():
        words = text.split()
        if len(words) >= SPOKEN:
            by_start.setdefault(tuple(words[:SPOKEN]), []).append((words, name))
    documents, found = 0, set()
    while documents < STREAM_DOCUMENTS:
        document = stream.next_text()
        if stream.passes > 1:
            break
        documents += 1
        words = normalize(document).split()
        for at in range(len(words)):
            for question, name in by_start.get(tuple(words[at : at + SPOKEN]), ()):
                if words[at : at + len(question)] == question:
                    found.add(name)
    return {"documents_searched": documents, "test_questions_found": sorted(found)}
