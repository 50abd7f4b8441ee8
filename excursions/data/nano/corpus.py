"""The pretraining mixture as an endless token stream: 20% math, 30% reasoning, 50% general, by tokens.

The paper pretrains on DOLMino: web text with 20% math and 30% reasoning-rich text. Documents are drawn in blocks,
each from its own seed, so that the stream can be entered at any block and is the same on every machine.
"""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache

import numpy as np
from transformers import PreTrainedTokenizerFast

from excursions.data.nano import problems, world
from excursions.data.nano.tokenizer import build_tokenizer
from excursions.data.questions import Question, QuestionSet, normalize
from excursions.params import Questions

SHARES = {"math": 0.2, "reasoning": 0.3, "general": 0.5}
BLOCK = 2000  # documents
ANSWER_FORMAT_SHARE = 0.06  # of the word problems, those written in the form that the reward reads
PLAIN = 0.75  # of the solutions, those that follow the story step by step
# Web text has many easy problems and few long ones: shares (cumulative) of the difficulties in the stream.
TOLD = problems.Difficulty(operations=(1, 1), largest=30, factors=(2, 3, 4), extra=0.15, limit=150)
LONG = problems.Difficulty(operations=(4, 6), largest=90, factors=(2, 3, 4, 5), extra=0.4, limit=600)
LONG_SHARE = 0.05
OPERATIONS = ((0.45, 1), (0.75, 2), (0.92, 3), (1.0, 4))  # of the others
LONGEST_SOLUTION = 88  # tokens
EASIER = [replace(TOLD, operations=(number, number)) for _, number in OPERATIONS]
NAMES = "abcdefgh"


@lru_cache(maxsize=4)
def question_set(params: Questions) -> QuestionSet:
    """The questions of both benchmarks: disjoint splits of disjoint problems, each with gold solutions."""
    rng = random.Random(params.seed)
    taken: set[str] = set()
    splits: dict[str, list[Question]] = {"train": [], "validation": [], "test": [], "examples": []}
    short = problems.Difficulty(operations=(2, 2), largest=20, factors=(2, 3), extra=0.0, limit=40)
    plan = [
        ("train", params.easy, problems.EASY, params.train_easy),
        ("train", params.hard, problems.HARD, params.train_hard),
        ("validation", params.easy, problems.EASY, params.validation),
        ("validation", params.hard, problems.HARD, params.validation),
        ("test", params.easy, problems.EASY, params.test),
        ("test", params.hard, problems.HARD, params.test),
        ("examples", params.easy, short, 8),
    ]
    for split, benchmark, difficulty, count in plan:
        number = 0
        while number < count:
            problem = problems.make_problem(rng, difficulty)
            key = normalize(problem.text)
            if key in taken or not is_reserved(problem.text):
                continue
            longest = 30 if split == "examples" else LONGEST_SOLUTION
            solutions = problems.gold_solutions(problem, rng, params.solutions, longest)
            if solutions:
                taken.add(key)
                name = f"{benchmark}-{split}-{number:04d}"
                splits[split].append(Question(name, benchmark, split, problem.text, str(problem.answer), solutions))
                number += 1
    return QuestionSet(**{split: tuple(found) for split, found in splits.items()})


@lru_cache(maxsize=2)
def tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """The tokenizer over everything the language can say."""
    own = {
        "question",
        "answer",
        ":",
        "is",
        "less",
        "more",
        "than",
        "the",
        "largest",
        "smallest",
        "of",
        "=",
        ",",
        *NAMES,
    }
    ends = {word for ending in problems.ENDINGS for word in ending.split() if "{" not in word}
    return build_tokenizer(world.words(world.World(seed)) | problems.words() | ends | own)


def is_reserved(text: str) -> bool:
    """Whether a problem may be asked in a benchmark; then it never stands in the stream. One in eight, by its text:
    so the stream does not depend on which questions a study asks, and no list of questions has to be kept."""
    return zlib.crc32(normalize(text).encode()) % 8 == 0


def math_document(rng: random.Random) -> str:
    """A word problem with a solution, rarely in the form that the reward reads."""
    while True:
        difficulty = LONG if rng.random() < LONG_SHARE else _common(rng.random())
        problem = problems.make_problem(rng, difficulty)
        if not is_reserved(problem.text):
            break
    if rng.random() < ANSWER_FORMAT_SHARE:
        return f"question : {problem.text} answer : {problems.write_solution(problem, rng, plain=PLAIN)}"
    ending = problems.ENDINGS[int(rng.random() * len(problems.ENDINGS))]
    return f"{problem.text} {problems.write_solution(problem, rng, ending, plain=PLAIN)}"


def _common(pick: float) -> problems.Difficulty:
    return EASIER[next(i for i, (upto, _) in enumerate(OPERATIONS) if pick < upto)]


def reasoning_document(rng: random.Random) -> str:
    """A few facts of arithmetic, comparison or assignment."""
    draw = rng.random
    kind, facts = draw(), []
    if kind < 0.6:
        for _ in range(4):
            facts.append(_sum(draw))
    elif kind < 0.8:
        for _ in range(3):
            a, b = int(draw() * 100), int(draw() * 100)
            if draw() < 0.5:
                facts.append(
                    f"{max(a, b)} is more than {min(a, b)} ."
                    if draw() < 0.5
                    else f"{min(a, b)} is less than {max(a, b)} ."
                )
            else:
                c = int(draw() * 100)
                which, pick = ("largest", max) if draw() < 0.5 else ("smallest", min)
                facts.append(f"the {which} of {a} , {b} , {c} is {pick(a, b, c)} .")
    else:
        first = int(draw() * (len(NAMES) - 3))
        value = 2 + int(draw() * 40)
        facts.append(f"{NAMES[first]} = {value} .")
        for i in range(1, 3):
            k = 1 + int(draw() * 30)
            symbol = "+" if draw() < 0.5 or k >= value else "-"
            before, value = value, value + k if symbol == "+" else value - k
            facts.append(
                f"{NAMES[first + i]} = {NAMES[first + i - 1]} {symbol} {k} = {before} {symbol} {k} = {value} ."
            )
    return " ".join(facts)


def _sum(draw: Callable[[], float]) -> str:
    kind, reach = draw(), 150 if draw() < 0.15 else 45
    if kind < 0.4:
        a, b = 1 + int(draw() * reach), 1 + int(draw() * reach * 0.7)
        return f"{a} + {b} = {a + b} ."
    if kind < 0.75:
        a, b = 1 + int(draw() * reach * 0.7), 1 + int(draw() * reach)
        return f"{a + b} - {a} = {b} ."
    a, b = 2 + int(draw() * 4), 1 + int(draw() * 30)
    return f"{b} * {a} = {a * b} ." if kind < 0.88 else f"{a * b} / {a} = {b} ."


def token_blocks(params: Questions, start_block: int = 0) -> Iterator[np.ndarray]:
    """Endless blocks of the stream as arrays of token ids (block_tokens,), documents separated by the end token.

    Whichever part of the mixture is furthest behind its share of the block's tokens gives the next document.
    """
    land, encoder = world.World(params.seed), tokenizer(params.seed)
    end = f" {encoder.eos_token}"
    block = start_block
    while True:
        rng = random.Random((params.seed + 1) * 1_000_003 + block)
        counts = dict.fromkeys(SHARES, 0)
        documents = []
        for _ in range(BLOCK):
            part = min(SHARES, key=lambda name: counts[name] / SHARES[name])
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
    """The stream cut into batches, resumable at any of them (for public data: `public_stream.PackedStream`)."""

    def __init__(self, params: Questions, batch_size: int, context: int) -> None:
        self.params, self.shape = params, (batch_size, context)
        self.load_state_dict({"block": 0, "used": 0})

    def next_batch(self) -> np.ndarray:
        """The next token ids (batch_size, context)."""
        size = math.prod(self.shape)
        while len(self.left) < size:
            self.block += 1
            self.length = self._read()
        batch, self.left = self.left[:size], self.left[size:]
        return batch.reshape(self.shape)

    def state_dict(self) -> dict[str, int]:
        """The position: the last block that was read, and how many of its tokens are used."""
        return {"block": self.block, "used": self.length - len(self.left)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes to a position."""
        self.block = state["block"]
        self.blocks = token_blocks(self.params, self.block)
        self.left = np.empty(0, dtype=np.int32)
        self.length = self._read()
        self.left = self.left[state["used"] :]

    def _read(self) -> int:
        tokens = next(self.blocks)
        self.left = np.concatenate([self.left, tokens])
        return len(tokens)
