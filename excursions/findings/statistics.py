"""pass@k, and bootstrap intervals over questions and seeds that come out the same on every machine.

All are percentile intervals (Efron and Tibshirani 1993). Questions are drawn once for all models of a
comparison, so models that answered the same questions are compared in pairs. Where there are several seeds,
they are drawn as well: seeds and questions are crossed, so each is drawn independently of the other (Owen
2007, the pigeonhole bootstrap). An interval from one seed says nothing of how another training run would come
out; from two to four seeds it is still somewhat too narrow.

Shapes: s seeds, q questions, r resamples, b benchmarks.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95
# Values are rounded to multiples of 2**-36 before they are summed. Sums of so few bits are exact in float64
# in any order, so neither threads nor the processor's way of multiplying matrices can change a byte of a
# figure.
GRID = 2.0**36


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95% interval, in the unit of the values it was made from."""

    estimate: float
    low: float
    high: float


def pass_at_k(n: np.ndarray | int, correct: np.ndarray | int, k: int) -> np.ndarray:
    """Unbiased pass@k of each question: 1 - C(n-c, k) / C(n, k) (Chen et al. 2021, equation 1).

    n, correct: samples and correct samples, integers of one shape. Returns float64 of that shape, in 0 to 1.
    The binomials are exact integers and divided once, so a value is the double nearest to the true one.
    Raises ValueError when k is not in 1..n or correct not in 0..n.
    """
    n, correct = np.broadcast_arrays(np.asarray(n), np.asarray(correct))
    if n.size == 0:
        return np.empty(n.shape)
    if k < 1 or n.min() < k:
        raise ValueError(f"pass@{k} needs k from 1 to the number of samples, which is {n.min()}.")
    if correct.min() < 0 or (correct > n).any():
        raise ValueError("the number of correct samples must lie between 0 and n.")
    base = int(n.max()) + 1  # n and correct in one number: few pairs are distinct, each is computed once
    pairs, inverse = np.unique(n * base + correct, return_inverse=True)
    counts = (divmod(pair, base) for pair in pairs.tolist())
    values = [(math.comb(m, k) - math.comb(m - c, k)) / math.comb(m, k) for m, c in counts]
    return np.array(values)[inverse].reshape(n.shape)


def generator(*names: object) -> np.random.Generator:
    """A generator that depends on the names only: what else is drawn, and when, changes nothing."""
    digest = hashlib.sha256("/".join(str(name) for name in names).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def contrast_draws(groups: Sequence[np.ndarray], *names: object) -> tuple[float, np.ndarray]:
    """A mean over questions and seeds, and its bootstrap draws.

    groups: arrays (s, q) with the same q questions in the same order; the estimate is the sum of their means.
    A group is the weighted sum of models trained with the same seeds: a seed is drawn for all of them
    together, and independently of other groups. names: equal names draw the same questions.
    Returns (estimate, draws (r,)).
    """
    questions = groups[0].shape[1]
    count_rq = _question_counts(questions, *names)
    rng = generator(*names, "seeds")
    estimate, draws = 0.0, np.zeros(RESAMPLES)
    for value_sq in groups:
        if value_sq.shape[1] != questions:
            raise ValueError(f"groups with {questions} and {value_sq.shape[1]} questions cannot be paired.")
        value_sq = np.round(np.asarray(value_sq, dtype=float) * GRID) / GRID
        seeds = len(value_sq)
        estimate += value_sq.sum() / (seeds * questions)
        total_rs = count_rq @ value_sq.T
        count_rs = _counts(rng, seeds) if seeds > 1 else np.ones((RESAMPLES, 1))
        draws += np.einsum("rs,rs->r", total_rs, count_rs) / (seeds * questions)
    return estimate, draws


def interval(estimate: float, draws: np.ndarray) -> Interval:
    """The percentile interval of bootstrap draws; its ends are two of the draws."""
    ordered = np.sort(draws)
    skipped = round(len(ordered) * (1 - LEVEL) / 2)
    return Interval(float(estimate), float(ordered[skipped]), float(ordered[-1 - skipped]))


def mean_interval(value_sq: np.ndarray, *names: object) -> Interval:
    """Interval of the mean of values (s, q), over questions and, where there are several, seeds."""
    return interval(*contrast_draws([value_sq], *names))


def difference_interval(a_sq: np.ndarray, b_sq: np.ndarray, *names: object, same_seeds: bool = True) -> Interval:
    """Interval of mean(a) - mean(b), paired on the questions (columns of both in the same order).

    same_seeds: row i of both belongs to the same seed, which is then drawn for both together. With different
    numbers of rows, seeds are drawn independently.
    """
    if same_seeds and len(a_sq) == len(b_sq):
        return interval(*contrast_draws([np.asarray(a_sq) - np.asarray(b_sq)], *names))
    return interval(*contrast_draws([np.asarray(a_sq), -np.asarray(b_sq)], *names))


def accuracy_draws(n_b: np.ndarray, correct_sb: np.ndarray, *names: object) -> tuple[float, np.ndarray]:
    """Mean accuracy over benchmarks from counts, and its parametric bootstrap draws.

    n_b: items of each benchmark; correct_sb: correct ones per seed. A draw takes seeds anew, then
    Binomial(n, accuracy) items of each benchmark. All seeds answered the same items, so that part does not
    shrink with more seeds. All benchmarks weigh the same. Returns (estimate, draws (r,)) in 0 to 1.
    """
    n_b, correct_sb = np.asarray(n_b), np.asarray(correct_sb)
    rng = generator(*names)
    seeds = len(correct_sb)
    count_rs = _counts(rng, seeds) if seeds > 1 else np.ones((RESAMPLES, 1))
    accuracy_rb = (count_rs @ correct_sb) / (seeds * n_b)
    draw_rb = rng.binomial(n_b, np.clip(accuracy_rb, 0, 1)) / n_b
    estimate = (correct_sb / n_b).mean()
    return float(np.round(estimate * GRID) / GRID), np.round(draw_rb.mean(axis=1) * GRID) / GRID


def accuracy_interval(n_b: np.ndarray, correct_sb: np.ndarray, *names: object) -> Interval:
    """Interval of the mean accuracy over benchmarks, see `accuracy_draws`."""
    return interval(*accuracy_draws(n_b, correct_sb, *names))


@functools.lru_cache(maxsize=2)
def _question_counts(questions: int, *names: object) -> np.ndarray:
    """Kept for the next call: a table of pass@k asks for the same draw for every model and k."""
    return _counts(generator(*names, "questions"), questions)


def _counts(rng: np.random.Generator, size: int) -> np.ndarray:
    """How often each of `size` things is drawn in each resample of `size` things: float64 (r, size)."""
    index = rng.integers(size, size=(RESAMPLES, size)) + size * np.arange(RESAMPLES)[:, None]
    return np.bincount(index.ravel(), minlength=RESAMPLES * size).reshape(RESAMPLES, size).astype(float)
