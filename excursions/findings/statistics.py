"""pass@k, and intervals that hold for other questions and for other training runs.

A number is a mean over questions and over seeds (training runs), and both are samples: of the questions one could ask
and of the runs one could train. Seeds and questions are crossed, every run answers every question, so the variance of
the mean is that of a two-way random model, as for readers and cases in radiology (Obuchowski and Rockette 1995; Hillis
2007):

    seeds      variance of the seeds' means / s, at least what the      what another draw of runs would change
               scatter of seeds within questions adds to it
    questions  variance of the questions' means / q, less what sampling within questions adds to it

Three seeds say little about their own variance. So the part of the seeds is widened by a t quantile of s - 1 degrees of
freedom, weighted by the square of its share (the weights of Satterthwaite 1946, put on the quantiles and not on the
degrees of freedom, whose estimate is too high for so few seeds). tests/test_statistics.py shows by simulation that 93
to 97% of these intervals hold the truth with 3 and with 5 seeds. Everything is closed form: nothing is drawn at random.

Shapes: s seeds, q questions, b strata (benchmarks).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import chdtrc, chdtri, fdtrc, ndtri, stdtrit

LEVEL = 0.95
FEW = 5  # questions: with fewer solved (or failed) at all, the variance is not to be estimated
LEAST_P = 1e-9  # no p-value is given as smaller than this
RANGE_OF_4 = 2.0588  # standard deviations between the best and the worst of four normal values, on average


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95% interval, in the unit of the values it was made from."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """A mean with the two parts of its variance, each with its degrees of freedom."""

    mean: float
    seeds: float  # variance by the draw of the training runs; 0 from a single seed, where it is unknown
    questions: float  # variance by the draw of the questions
    seed_df: float = math.inf
    question_df: float = math.inf

    @property
    def variance(self) -> float:
        return self.seeds + self.questions

    @property
    def share(self) -> float:
        """The seeds' share of the variance."""
        return self.seeds / self.variance if self.variance > 0 else 0.0

    @property
    def df(self) -> float:
        """Satterthwaite's degrees of freedom."""
        return 1 / max(self.share**2 / self.seed_df + (1 - self.share) ** 2 / self.question_df, 1e-12)

    def half_width(self, level: float = LEVEL) -> float:
        """Half of the interval of this level, in the unit of the mean."""
        upper = (1 + level) / 2
        wide, narrow = _t(self.seed_df, upper), _t(self.question_df, upper)
        return math.sqrt(self.variance) * (narrow + self.share**2 * (wide - narrow))

    def interval(self) -> Interval:
        """The 95% interval. Rounded to 1e-9, so that no processor's way of adding changes a byte of a figure."""
        half = self.half_width()
        return Interval(*(round(float(value), 9) for value in (self.mean, self.mean - half, self.mean + half)))

    def p_value(self, margin: float = 0.0) -> float:
        """Two-sided p of the hypothesis that the true mean is `margin`: where an interval's end would touch it."""
        distance = abs(self.mean - margin)
        if self.variance == 0:
            return 1.0 if distance == 0 else LEAST_P
        if self.half_width(1 - LEAST_P) <= distance:
            return LEAST_P
        return float(brentq(lambda p: self.half_width(1 - p) - distance, LEAST_P, 1, xtol=1e-10))


@dataclass(frozen=True)
class Spread:
    """How far apart the best and the worst of four training runs lie on average, from the values of s runs.

    Runs are taken as normal, so the interval is that of a standard deviation (chi-square): wide from few runs.
    """

    value_s: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Without the bias of a standard deviation of few values (c4 of control charts)."""
        s = len(self.value_s)
        c4 = math.sqrt(2 / (s - 1)) * math.gamma(s / 2) / math.gamma((s - 1) / 2)
        return self._from_deviation / c4

    @property
    def _from_deviation(self) -> float:
        return RANGE_OF_4 * float(np.std(self.value_s, ddof=1))

    def interval(self) -> Interval:
        df, tail = len(self.value_s) - 1, (1 - LEVEL) / 2
        low, high = (self._from_deviation * math.sqrt(df / chdtri(df, share)) for share in (tail, 1 - tail))
        return Interval(*(round(float(value), 9) for value in (self.mean, low, high)))

    def p_value(self, margin: float) -> float:
        """Two-sided p of the hypothesis that the true distance is `margin`, above 0."""
        df = len(self.value_s) - 1
        above = float(chdtrc(df, df * (self._from_deviation / margin) ** 2))
        return max(2 * min(above, 1 - above), LEAST_P)


def pass_at_k(n: np.ndarray | int, correct: np.ndarray | int, k: int) -> np.ndarray:
    """Unbiased pass@k of each question: 1 - C(n-c, k) / C(n, k) (Chen et al. 2021, equation 1).

    n, correct: samples and correct samples, integers of one shape. Returns float64 of that shape, in 0 to 1.
    The binomials are exact integers and divided once, so a value is the double nearest to the true one.
    Raises ValueError when k is not in 1..n or correct not in 0..n.
    """
    n, correct = (np.asarray(counts) for counts in (n, correct))
    if n.size and not {n.dtype.kind, correct.dtype.kind} <= {"i", "u"}:
        raise ValueError(f"counts are whole numbers; found {n.dtype} and {correct.dtype}.")
    n, correct = np.broadcast_arrays(n.astype(np.int64), correct.astype(np.int64))  # so that their product fits
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


def contrast(groups: Sequence[np.ndarray], strata: np.ndarray | None = None) -> Estimate:
    """The sum of the groups' means, with its variance over questions and seeds.

    groups: arrays (s, q) with the same q questions in the same order, so that models are compared in pairs. A group
    is the weighted sum of models trained with the same seeds, row by row; the runs of different groups are
    independent. strata: (q,) the benchmark of each item; then a mean is that of the benchmarks' means, and items are
    a sample of their own benchmark.
    """
    questions = groups[0].shape[1]
    stratum_q = np.zeros(questions, int) if strata is None else np.unique(strata, return_inverse=True)[1]
    member_qb = np.eye(stratum_q.max() + 1)[stratum_q]
    size_b = member_qb.sum(axis=0)
    weight_q = 1 / (size_b[stratum_q] * len(size_b))  # a mean is the sum of values times these
    unbiased_q = weight_q**2 * (size_b / np.maximum(size_b - 1, 1))[stratum_q]
    mean = seeds = seed_df = sampling = 0.0
    total_q = np.zeros(questions)
    for value_sq in groups:
        if value_sq.shape[1] != questions:
            raise ValueError(f"groups with {questions} and {value_sq.shape[1]} questions cannot be paired.")
        value_sq = np.asarray(value_sq, dtype=float)
        count = len(value_sq)
        mean_s = value_sq @ weight_q
        centred_sq = value_sq - ((value_sq @ member_qb) / size_b)[:, stratum_q]
        mean += mean_s.mean()
        total_q += centred_sq.mean(axis=0)
        if count > 1:
            residual_sq = centred_sq - centred_sq.mean(axis=0)
            within = (residual_sq**2).sum(axis=0) @ unbiased_q / (count * (count - 1))
            sampling += within
            part, df = mean_s.var(ddof=1) / count, count - 1
            if part < within:  # means that lie together by luck; the questions know better how far off each may be
                part, df = within, (count - 1) * max(questions - len(size_b), 1)
            seeds += part
            seed_df += part**2 / df
    seed_df = seeds**2 / seed_df if seed_df > 0 else math.inf
    by_questions = max(total_q**2 @ unbiased_q - sampling, 0.0)
    return Estimate(mean, seeds, by_questions, seed_df, max(questions - len(size_b), 1))


def mean_interval(value_sq: np.ndarray, strata: np.ndarray | None = None) -> Interval:
    """Interval of the mean of one model's values (s, q) in 0 to 1, over questions and, where there are several, seeds.

    Wilson's (1927) interval, which does not leave 0 to 1 and is right near them. Its number of trials is the one
    that has the variance of `contrast`; where fewer than five questions were solved (or failed) by any sample, each
    question is one trial.
    """
    value_sq = np.asarray(value_sq, dtype=float)
    found = contrast([value_sq], strata)
    share, questions = min(max(found.mean, 0.0), 1.0), value_sq.shape[1]
    few = min((value_sq > 0).any(axis=0).sum(), (value_sq < 1).any(axis=0).sum()) < FEW
    if few or found.variance == 0:
        trials, squared = questions, _t(math.inf, (1 + LEVEL) / 2) ** 2
    else:
        trials, squared = share * (1 - share) / found.variance, found.half_width() ** 2 / found.variance
    middle = (share + squared / (2 * trials)) / (1 + squared / trials)
    half = math.sqrt(squared * (share * (1 - share) / trials + squared / (4 * trials**2))) / (1 + squared / trials)
    low, high = max(middle - half, 0.0), min(middle + half, 1.0)
    return Interval(*(round(float(value), 9) for value in (share, min(low, share), max(high, share))))


def difference_interval(
    a_sq: np.ndarray, b_sq: np.ndarray, strata: np.ndarray | None = None, same_seeds: bool = True
) -> Interval:
    """Interval of mean(a) - mean(b), paired on the questions (columns of both in the same order).

    same_seeds: row i of both belongs to the same seed, so seeds are paired too, where both have as many.
    """
    if same_seeds and len(a_sq) == len(b_sq):
        return contrast([np.asarray(a_sq) - np.asarray(b_sq)], strata).interval()
    return contrast([np.asarray(a_sq), -np.asarray(b_sq)], strata).interval()


def heterogeneity(found: Sequence[Estimate]) -> float | None:
    """p of the hypothesis that all estimates have the same true mean; None for a single one.

    Cochran's Q in Welch's (1951) form, which allows for weights estimated from few seeds. That the same questions
    were asked everywhere is not used, which makes the test careful.
    """
    if len(found) < 2:
        return None
    mean, variance = (np.array([getattr(one, name) for one in found]) for name in ("mean", "variance"))
    if variance.max() == 0:
        return 1.0 if np.ptp(mean) == 0 else LEAST_P
    variance = np.maximum(variance, 1e-6 * variance.max())  # one that seems to be known exactly, of which no p is 0
    weight = 1 / variance
    share = weight / weight.sum()
    q = weight @ (mean - share @ mean) ** 2
    uncertain = ((1 - share) ** 2 / [one.df for one in found]).sum()
    between = len(found) - 1
    f = q / between / (1 + 2 * (len(found) - 2) / (len(found) ** 2 - 1) * uncertain)
    within = (len(found) ** 2 - 1) / max(3 * uncertain, 1e-9)
    return max(float(fdtrc(between, within, f)), LEAST_P)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for being several (Holm 1979), in the order given."""
    order = np.argsort(p_values, kind="stable")
    stepped = np.asarray(p_values, dtype=float)[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1)
    return adjusted.tolist()


def _t(df: float, upper: float) -> float:
    return float(ndtri(upper) if math.isinf(df) else stdtrit(df, upper))
