"""A claim and the rule of its verdict. Measured on our tables in `measures`, on the paper's numbers in `published`.

A claim weighs recipes against each other ("pass@1 of rl - base") at the checkpoints of a span. Its effect, in
percentage points, has to lie in a region, from `above` to `below`:

    supported      the whole 95% interval lies inside
    not supported  the whole interval lies outside
    inconclusive   neither; or the checkpoints disagree with their mean: the effect lies on the other side of the
                   margin at one of them, and either its own interval does too or Cochran's Q says that they differ;
                   or the mean lies in a region with two ends since effects that differ (Q again) cancel, and at one
                   of the checkpoints alone it would be inconclusive
    not measured   fewer than three training runs of a recipe compared at every checkpoint, or no data

A checkpoint with fewer than three runs of a recipe is left out, and the note says so.

Of several contrasts ("the best of all recipes") each has to hold (intersection-union test; Berger 1982): supported when
each is, not supported when one is refuted. The effect shown is that of the contrast that decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from excursions.findings import statistics
from excursions.findings.statistics import Estimate, Spread
from excursions.params import percent
from excursions.results.tables import Tables

ENOUGH_SEEDS = 3  # fewer cannot show how a result scatters
NEAR_FLOOR = 2.0  # points; recipes that all lie this near to guessing cannot be compared
ALPHA = 0.05

# They go by the share of pretraining in a checkpoint's name, so that they mean the same at every scale.
# The paper's checkpoints are 2, 4, 6, 10, 12, 14, 20, 28 and 44B of 50B tokens; p08 is 4B, p20 is 10B.
SPANS = {
    "early": "at the first checkpoint from 8% of pretraining on",
    "turn": "at the first checkpoint from 20% of pretraining on",
    "sensitive": "over the checkpoints from 8% to the first from 20% of pretraining on",
    "later": "over the checkpoints from 20% of pretraining on",
    "beyond": "over the checkpoints after the first from 20% of pretraining on",
    "under-trained": "over the checkpoints before the Chinchilla-optimal number of tokens",
    "last": "at the last checkpoint",
    "all": "over all checkpoints",
    "shared": "at the most tokens both suites have",
}


class NotMeasurable(Exception):
    """Why there is no number for a check, and how many seeds there were."""

    def __init__(self, why: str, n_seeds: int = 0) -> None:
        super().__init__(why)
        self.n_seeds = n_seeds


@dataclass(frozen=True)
class Point:
    """The effect at one checkpoint, in percentage points."""

    checkpoint: str
    effect: float
    low: float
    high: float


@dataclass(frozen=True)
class Contrast:
    """One measured contrast: its effect with its 95% interval in percentage points (two decimals), and its verdict."""

    formula: str
    effect: float
    low: float
    high: float
    p: float  # of the hypothesis that the effect lies on the nearest bound of the region
    above: float | None
    below: float | None
    verdict: str
    n_seeds: int
    points: tuple[Point, ...]
    heterogeneity: float | None  # p of the hypothesis that the effect is the same at all checkpoints
    note: str

    @property
    def slack(self) -> float:
        """How far inside its region the effect lies; negative outside."""
        low, high = region(self.above, self.below)
        return min(self.effect - low, high - self.effect)


Measure = Callable[["Check", Tables], list[Contrast]]


@dataclass(frozen=True, eq=False)  # each is one of a kind, and so a key
class Check:
    """A claim and how it is tested."""

    id: str
    figure: str  # our notebook and figure
    source: str  # where the paper says so
    claim: str
    # "pass@32 of sft_rl - sft"; "rl@larger" is RL in the suite larger; "accuracy of ..." is of the general benchmarks
    contrasts: list[str]
    benchmark: str  # easy or hard (gsm8k or math at paper scale), or general
    span: str  # of checkpoints, a key of SPANS
    above: float | None = None
    below: float | None = None
    each: bool = False  # has to hold at each checkpoint of the span, not on their mean
    along_training: bool = False  # compares the steps of runs, and not only what they end with
    level: float = 0.0  # percent that the best recipe has to reach at a checkpoint for a comparison to mean something
    # What is not such a contrast brings its own measure, on ours and on theirs, and says what it is.
    effect: str = ""
    measured: Measure | None = None
    published: Callable[[Check], list[Contrast]] | None = None

    @property
    def measure(self) -> str:
        """What the effect is, in words."""
        several = len(self.contrasts) > 1
        how = "each of " * several
        over = SPANS[self.span].replace("over", "at each of" if self.each else "mean over")
        return f"{how}{self.effect or ', '.join(self.contrasts)}; {self.benchmark}; {over}"

    @property
    def rule(self) -> str:
        """Where the claim holds, in words."""
        pairs = (("above", self.above), ("below", self.below))
        bounds = [f"{side} {bound:g}" for side, bound in pairs if bound is not None]
        return " and ".join(bounds) + (f", where a recipe reaches {self.level:g}" if self.level else "")


def parse(formula: str) -> tuple[int | None, dict[tuple[str, str], int]]:
    """k (None for accuracy) and the sign of each (suite, recipe), from "pass@1 of rl@larger - base"."""
    measure, _, terms = formula.partition(" of ")
    words = ["+", *terms.split()]
    signs = {}
    for sign, term in zip(words[::2], words[1::2], strict=True):
        recipe, _, suite = term.partition("@")
        signs[suite or "main", recipe] = 1 if sign == "+" else -1
    return (int(measure.removeprefix("pass@")) if measure.startswith("pass@") else None), signs


def choose(span: str, checkpoints: list[str], multiples: list[float]) -> list[str]:
    """The checkpoints of a span; a list that ends before the span's share of pretraining gives its last.

    checkpoints: in the order of pretraining; multiples: their tokens in multiples of Chinchilla-optimal.
    """
    if span in ("early", "turn", "sensitive", "later", "beyond"):
        early, late = ([name for name in checkpoints if percent(name) >= n] or checkpoints[-1:] for n in (8, 20))
        sensitive = early[: len(early) - len(late) + 1]
        chosen = {"early": early[:1], "turn": late[:1], "sensitive": sensitive, "later": late, "beyond": late[1:]}
        return chosen[span]
    if span == "under-trained":
        return [name for name, multiple in zip(checkpoints, multiples, strict=True) if multiple < 1]
    return checkpoints[-1:] if span in ("last", "shared") else checkpoints


def undetectable(levels: Mapping[tuple[str, str], float], floor: float, least: float) -> str | None:
    """Why recipes at these levels (percent) cannot be compared: they only guess, or none is good enough."""
    if max(levels.values()) <= floor + NEAR_FLOOR:
        return f"all within {NEAR_FLOOR:g} points of the guess floor, {floor:.1f}"
    return f"none reaches {least:g}" if max(levels.values()) < least else None


def kept(names: list[str], left_out: Mapping[str, str], n_seeds: int = 0) -> str:
    """The note on checkpoints. Raises NotMeasurable when all are left out."""
    by_reason: dict[str, list[str]] = {}
    for name, why in left_out.items():
        by_reason.setdefault(why, []).append(name)
    without = "; ".join(f"{', '.join(which)} left out: {why}" for why, which in by_reason.items())
    if not names:
        raise NotMeasurable(without, n_seeds)
    return "; ".join(filter(None, [f"at {', '.join(names)}", without]))


def contrast(
    check: Check,
    formula: str,
    whole: Estimate | Spread,
    points: Mapping[str, Estimate | Spread],
    n_seeds: int,
    note: str,
) -> Contrast:
    """A contrast with its verdict, from estimates in 0 to 1: of the whole, and at each checkpoint.

    Verdicts go by the two decimals a reader sees.
    """
    above, below = bounds = region(check.above, check.below)
    effect, low, high = _in_points(whole)
    at = tuple(Point(name, *_in_points(one)) for name, one in points.items())
    spread = statistics.heterogeneity([one for one in points.values() if isinstance(one, Estimate)])
    verdict = decide(low, high, bounds)
    alone = {decide(one.low, one.high, bounds) for one in at}
    differ = spread is not None and spread < ALPHA
    outside = [one for one in at if not above <= one.effect <= below]
    each = ", ".join(f"{one.effect:+z.1f} at {one.checkpoint}" for one in at)
    if not outside and differ and math.isfinite(below - above) and alone != {"supported"}:
        verdict = "inconclusive"
        note += f"; {formula} differs: {each}"
    if len(at) > 1 and 0 < len(outside) < len(at):
        note += f"; {formula} on both sides of the margin: {each}"
        if verdict != "inconclusive" and (differ or {"supported", "not supported"} <= alone):
            verdict = "inconclusive"
    nearest = min(bounds, key=lambda bound: abs(effect - bound))
    p = float(f"{whole.p_value(nearest / 100):.3g}")
    spread = None if spread is None else float(f"{spread:.3g}")
    return Contrast(formula, effect, low, high, p, check.above, check.below, verdict, int(n_seeds), at, spread, note)


def region(above: float | None, below: float | None) -> tuple[float, float]:
    """Both ends of where a claim holds; one that is open is infinite."""
    return -math.inf if above is None else above, math.inf if below is None else below


def decide(low: float, high: float, bounds: tuple[float, float]) -> str:
    """Whether an interval lies all inside the region, all outside, or neither."""
    if bounds[0] < low and high < bounds[1]:
        return "supported"
    return "not supported" if high < bounds[0] or low > bounds[1] else "inconclusive"


def conclude(contrasts: Sequence[Contrast]) -> tuple[str, Contrast, float]:
    """(verdict, the contrast that decides, p) of a claim: each of its contrasts has to hold."""
    verdicts = [one.verdict for one in contrasts]
    verdict = next((found for found in ("not supported", "inconclusive") if found in verdicts), "supported")
    deciding = min((one for one in contrasts if one.verdict == verdict), key=lambda one: one.slack)
    return verdict, deciding, deciding.p if verdict == "not supported" else max(one.p for one in contrasts)


def _in_points(found: Estimate | Spread) -> tuple[float, float, float]:
    interval = found.interval()
    effect, low, high = (round(100 * value, 2) + 0.0 for value in (interval.estimate, interval.low, interval.high))
    return effect, low, high
