"""The pretraining mixture as an endless token stream: 20% math, 30% reasoning, 50% general, by tokens.

The paper pretrains on DOLMino: web text with 20% math and 30% reasoning-rich text. Documents are drawn in blocks,
each from its own seed, so that the stream can be entered at any block and is the same on every machine.
"""

from __future__ import annotations

import math
import random
import zlib
from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate

import numpy as np
from transformers import PreTrainedTokenizerFast

from excursions.data.nano import problems, world
from excursions.data.nano.tokenizer import build_tokenizer
from excursions.data.questions import Question, QuestionSet, normalize
from excursions.params import Questions, UserError, one_of

SHARES = {"math": 0.2, "reasoning": 0.3, "general": 0.5}
BLOCK = 2000  # documents
ASKED = 0.5  # of the word problems, those in the question-answer form; the others are told
# Web text has many easy problems and few long ones: shares of the difficulties in the stream.
EVENT_SHARES = (0.16, 0.30, 0.24, 0.15, 0.09, 0.06)
SIZE_SHARES = (0.35, 0.3, 0.2, 0.15)
TOLD_ENDINGS = ("in the end {0} has {2} and {1} has {3} .", "that makes {2} for {0} and {3} for {1} .")
LONGEST_SOLUTION = 79  # tokens, of the gold ones; with the end token what `max_new_tokens` has to allow
EXAMPLE_CELLS = ("e1n20", "e2n20", "e1n9", "e2n9", "e0n20", "e3n9", "e1n50", "e2n20")


def question_set(params: Questions) -> QuestionSet:
    """The questions of both benchmarks: disjoint splits of disjoint problems, each with gold solutions.

    A benchmark is a mixture of cells (`easy_mixture`, `hard_mixture`); each split draws from it by itself.
    """
    return _question_set(params, repr(params))


@lru_cache(maxsize=4)  # by the text too: mixtures in another order are equal, and draw other questions
def _question_set(params: Questions, written: str) -> QuestionSet:
    rng = random.Random(params.seed)
    taken: set[str] = set()
    splits: dict[str, list[Question]] = {"train": [], "validation": [], "test": [], "examples": []}

    def add(split: str, benchmark: str, cells: Sequence[str]) -> None:
        for number, cell in enumerate(cells):
            solutions: tuple[str, ...] = ()
            while not solutions:
                text = reserved_problem(rng, cell, taken)
                solutions = problems.gold_solutions(text, rng, params.solutions, LONGEST_SOLUTION)
            name, answer = f"{benchmark}-{split}-{number:04d}", problems.read_story(text).answer
            splits[split].append(Question(name, benchmark, split, text, answer, solutions))

    add("examples", params.easy, EXAMPLE_CELLS)
    for split in ("train", "validation", "test"):
        for benchmark, mixture, count in (
            (params.easy, params.easy_mixture, params.train_easy),
            (params.hard, params.hard_mixture, params.train_hard),
        ):
            count = count if split == "train" else getattr(params, split)
            picks = accumulate(mixture.values())  # type: ignore[union-attr]  # params.py refuses nano without mixtures and a second benchmark
            edges = [edge / sum(mixture.values()) for edge in picks][:-1]  # type: ignore[union-attr]  # params.py refuses nano without mixtures and a second benchmark
            add(split, benchmark, [list(mixture)[bisect(edges, rng.random())] for _ in range(count)])  # type: ignore[arg-type]  # params.py refuses nano without mixtures and a second benchmark
    return QuestionSet(**{split: tuple(found) for split, found in splits.items()})


def reserved_problem(rng: random.Random, cell: str, taken: set[str]) -> str:
    """A question of a cell that no other split asks (`taken`, to which it is added) and the stream never tells.

    Raises UserError for an unknown cell and one that has too few questions.
    """
    one_of(cell, problems.CELLS, "cell of word problems (easy_mixture and hard_mixture of params.yaml)")
    for _ in range(5000):
        text = problems.make_problem(rng, cell)
        key = normalize(text)
        if key not in taken and is_reserved(text):
            taken.add(key)
            return text
    raise UserError(f"the cell {cell} of the word problems has too few questions for what params.yaml asks of it.")


@lru_cache(maxsize=2)
def tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """The tokenizer over everything the language can say."""
    own = {word for ending in TOLD_ENDINGS for word in ending.split() if "{" not in word}
    return build_tokenizer(world.words(world.World(seed)) | problems.words() | own | {"question", "answer"})


def is_reserved(text: str) -> bool:
    """Whether a problem may be asked in a benchmark; then it never stands in the stream. One in eight, by its text:
    so the stream does not depend on which questions a study asks, and no list of questions has to be kept."""
    return zlib.crc32(normalize(text).encode()) % 8 == 0


_CELL_EDGES = [*accumulate(e * s for e in EVENT_SHARES for s in SIZE_SHARES)][:-1]


def math_document(rng: random.Random) -> str:
    """A word problem with a solution: in the question-answer form with the answer that the reward reads, or told."""
    while True:
        text = problems.make_problem(rng, problems.CELLS[bisect(_CELL_EDGES, rng.random())])
        if not is_reserved(text):
            break
    story = problems.read_story(text)
    if rng.random() < ASKED:
        return f"question : {text} answer : {problems.write_solution(story, rng)}"
    told, steps = text[: text.rindex(" . ") + 2], problems.write_steps(story, rng)
    ending = TOLD_ENDINGS[int(rng.random() * len(TOLD_ENDINGS))].format(*story.names, *story.end)
    return f"{told} {steps} {ending}"


def reasoning_document(rng: random.Random) -> str:
    """What solving is made of, in small pieces: sums, reading who has how many, and what one event does."""
    kind = rng.random()
    if kind < 0.35:
        return " ".join(_sum(rng.random) for _ in range(5))
    if kind < 0.65:
        return _reading(rng.random)
    return _one_change(rng)


def _size(draw: Callable[[], float]) -> int:
    return list(problems.SIZES)[bisect([*accumulate(SIZE_SHARES)][:-1], draw())]


def _sum(draw: Callable[[], float]) -> str:
    """An equation with numbers as the stories have them."""
    kind, size = draw(), _size(draw)
    a, k = 1 + int(draw() * size), 1 + int(draw() * problems.SIZES[size])
    if kind < 0.45:
        return f"{a} + {k} = {a + k} ."
    if kind < 0.85:
        return f"{a + k} - {k} = {a} ."
    a = 1 + int(draw() * min(size, 49))
    return f"{a} * 2 = {2 * a} ." if kind < 0.93 else f"{2 * a} / 2 = {a} ."


def _reading(draw: Callable[[], float]) -> str:
    """Some people have some things; then the same again, in other orders."""
    n, size, first = 2 + int(draw() * 3), _size(draw), int(draw() * len(problems.NAMES))
    stride = (1, 5, 7)[int(draw() * 3)]
    thing = problems.THINGS[int(draw() * len(problems.THINGS))]
    people = [problems.NAMES[(first + i * stride) % len(problems.NAMES)] for i in range(n)]
    counts = [1 + int(draw() * size) for _ in people]
    told = [f"{name} has {count} {thing} ." for name, count in zip(people, counts, strict=True)]
    for _ in range(2):
        style = problems.STYLES[bisect(problems.STYLE_SHARES, draw())]
        order = sorted(range(n), key=lambda _: draw())
        told += [style.format(name=people[i], rest=counts[i]) for i in order]
    return " ".join(told)


def _one_change(rng: random.Random) -> str:
    """A story of one event and its steps, again and again, without a question."""
    texts = []
    for _ in range(2):
        text = problems.make_problem(rng, f"e1n{_size(rng.random)}")
        while is_reserved(text):
            text = problems.make_problem(rng, f"e1n{_size(rng.random)}")
        story = problems.read_story(text)
        told = text[: text.rindex(" . ") + 2]
        texts.append(f"{told} {problems.write_steps(story, rng)}")
    return " ".join(texts)


def token_blocks(
    params: Questions, start_block: int = 0, mixture: dict[str, float] | None = None
) -> Iterator[np.ndarray]:
    """Endless blocks of the stream as arrays of token ids (block_tokens,), documents separated by the end token.

    mixture: shares of math, reasoning and general by tokens, if not the paper's (SHARES). Whichever part is furthest
    behind its share of the block's tokens gives the next document.
    """
    shares = {name: share for name, share in (mixture or SHARES).items() if share}
    land, encoder = world.World(params.seed), tokenizer(params.seed)
    end = f" {encoder.eos_token}"
    block = start_block
    while True:
        rng = random.Random((params.seed + 1) * 1_000_003 + block)
        counts = dict.fromkeys(shares, 0)
        documents = []
        for _ in range(BLOCK):
            part = min(shares, key=lambda name: counts[name] / shares[name])
            if part == "math":
                document = math_document(rng)
            else:
                document = reasoning_document(rng) if part == "reasoning" else world.general_document(land, rng)
            counts[part] += problems.count_tokens(document) + 1
            documents.append(document + end)
        encoded = encoder(documents, add_special_tokens=False, return_attention_mask=False).input_ids
        yield np.concatenate([np.asarray(ids, dtype=np.int32) for ids in encoded])
        block += 1


class Stream:
    """The stream cut into batches, resumable at any of them (`hub.PackedStream` is its like for public data)."""

    def __init__(
        self, params: Questions, batch_size: int, context: int, mixture: dict[str, float] | None = None
    ) -> None:
        self.params, self.shape, self.mixture = params, (batch_size, context), mixture
        self.load_state_dict({"block": 0, "used": 0})

    def next_batch(self) -> np.ndarray:
        """The next token ids (batch_size, context)."""
        size = math.prod(self.shape)
        while len(self.left) < size:
            self.block += 1
            self.length = self._read()
        batch, self.left = self.left[:size], self.left[size:]  # type: np.ndarray, np.ndarray
        return batch.reshape(self.shape)

    def state_dict(self) -> dict[str, int]:
        """The position: the last block that was read, and how many of its tokens are used."""
        return {"block": self.block, "used": self.length - len(self.left)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes to a position."""
        self.block = state["block"]
        self.blocks = token_blocks(self.params, self.block, self.mixture)
        self.left = np.empty(0, dtype=np.int32)
        self.length = self._read()
        self.left = self.left[state["used"] :]

    def _read(self) -> int:
        tokens = next(self.blocks)
        self.left = np.concatenate([self.left, tokens])
        return len(tokens)
