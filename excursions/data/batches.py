"""Which items make up the batch of a step, and other draws: by seed and step alone, so a resumed run repeats them."""

from __future__ import annotations

import hashlib
import random
from functools import lru_cache


def batch_indices(size: int, batch_size: int, seed: int, step: int) -> list[int]:
    """Which of `size` items make up the batch of a step (from 1): passes in random order, each item once in a pass.

    A batch may begin in one pass and end in the next.
    """
    start = (step - 1) * batch_size
    return [_order(size, seed, i // size)[i % size] for i in range(start, start + batch_size)]


@lru_cache(maxsize=4)  # the steps of a pass ask for the same one, which takes a fifth of a second for 300,000 items
def _order(size: int, seed: int, number: int) -> list[int]:
    order = list(range(size))
    seeded("order", seed, str(number)).shuffle(order)
    return order


def seeded(what: str, seed: int, name: str) -> random.Random:
    """Random numbers that depend on these three alone."""
    return random.Random(hashlib.sha256(f"{what}/{seed}/{name}".encode()).digest())
