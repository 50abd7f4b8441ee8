"""Which items make up the batch of a step, and other draws: by seed and step alone, so a resumed run repeats them."""

from __future__ import annotations

import hashlib
import random


def batch_indices(size: int, batch_size: int, seed: int, step: int) -> list[int]:
    """Which of `size` items make up the batch of a step (from 1): passes in random order, each item once in a pass.

    A batch may begin in one pass and end in the next.
    """
    start = (step - 1) * batch_size
    orders: dict[int, list[int]] = {}
    for number in range(start // size, (start + batch_size - 1) // size + 1):
        orders[number] = list(range(size))
        seeded("order", seed, str(number)).shuffle(orders[number])
    return [orders[i // size][i % size] for i in range(start, start + batch_size)]


def seeded(what: str, seed: int, name: str) -> random.Random:
    """Random numbers that depend on these three alone."""
    return random.Random(hashlib.sha256(f"{what}/{seed}/{name}".encode()).digest())
