"""The nano scale as a `Source`: everything is made here, from seeds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from transformers import PreTrainedTokenizerFast

from excursions.data import general
from excursions.data.general import GeneralTasks
from excursions.data.nano import corpus, problems
from excursions.data.questions import Question, QuestionSet, normalize
from excursions.data.source import Stream
from excursions.params import Scale, UserError

STREAM_BLOCKS = 10  # of the pretraining stream, searched for questions


@dataclass(frozen=True)
class NanoSource:
    """The synthetic language of `data.nano`."""

    scale: Scale
    made_here = True

    def questions(self) -> QuestionSet:
        return corpus.question_set(self.scale.questions)

    def tokenizer(self) -> PreTrainedTokenizerFast:
        return corpus.tokenizer(self.scale.questions.seed)

    def stream(self) -> Stream:
        pretrain = self.scale.pretrain
        return corpus.Stream(self.scale.questions, pretrain.batch_size, self.scale.model.context, pretrain.mixture)

    def stream_identity(self) -> object:
        return hashlib.sha256(next(self._blocks()).tobytes()).hexdigest()

    def general(self) -> GeneralTasks:
        evaluate = self.scale.evaluate
        return general.nano_tasks(self.scale.questions.seed, evaluate.general, evaluate.seed)

    def search_stream(self, asked: dict[str, str]) -> dict:
        tokenizer = self.tokenizer()
        tokens, documents = 0, 0
        for ids in islice(self._blocks(), STREAM_BLOCKS):
            if (ids == tokenizer.unk_token_id).any():
                raise UserError("the pretraining stream holds words that the tokenizer does not know.")
            tokens += len(ids)
            for document in tokenizer.decode(ids).split(tokenizer.eos_token):
                documents += 1
                story = document[: document.find(" ? ") + 2].strip().removeprefix("question : ")
                if normalize(story) in asked:
                    raise UserError(f"{asked[normalize(story)]} occurs in the pretraining stream: {document}")
        return {"stream": {"tokens_searched": tokens, "documents_searched": documents}}

    def check_steps(self) -> Callable[[Question, str], bool] | None:
        return lambda question, completion: problems.check_solution(question.text, completion)

    def _blocks(self) -> Iterator[np.ndarray]:
        return corpus.token_blocks(self.scale.questions, mixture=self.scale.pretrain.mixture)
