"""pass@k is the share of k-subsets with a right answer; intervals hold the truth as often as they say."""

import itertools
import json
import math

import numpy as np
import pytest

from excursions.findings import statistics
from excursions.findings.statistics import Estimate


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_pass_at_k_is_the_share_of_subsets(n):
    for correct, k in itertools.product(range(n + 1), range(1, n + 1)):
        samples = [True] * correct + [False] * (n - correct)
        share = np.mean([any(subset) for subset in itertools.combinations(samples, k)])
        assert statistics.pass_at_k(n, correct, k) == pytest.approx(share, abs=1e-15)


def test_pass_at_k_is_vectorized_and_exact_for_many_samples():
    n, correct = np.array([[10000, 10000], [32, 64]]), np.array([[1, 10000], [0, 64]])
    found = statistics.pass_at_k(n, correct, 32)
    assert found.shape == (2, 2)
    # one right sample among n is in a subset of k with probability k/n; none and all are certain
    np.testing.assert_array_equal(found, [[32 / 10000, 1.0], [0.0, 1.0]])


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "uint16", "int32", "uint64"])
def test_pass_at_k_of_narrow_integers_does_not_overflow(kind):
    most = min(np.iinfo(kind).max, 200)
    n, correct = np.full(3, most, dtype=kind), np.array([0, most // 2, most], dtype=kind)
    np.testing.assert_array_equal(
        statistics.pass_at_k(n, correct, 8), statistics.pass_at_k(n.astype(int), correct.astype(int), 8)
    )
    with pytest.raises(ValueError, match="counts are whole numbers; found float64"):
        statistics.pass_at_k(n.astype(float), correct, 8)


def test_pass_at_k_of_random_counts_never_leaves_its_range_and_grows_with_k():
    rng = np.random.default_rng(0)
    n = rng.integers(32, 200, size=500)
    correct = rng.integers(0, n + 1)
    by_k = np.stack([statistics.pass_at_k(n, correct, k) for k in (1, 2, 8, 32)])
    assert by_k.min() >= 0 and by_k.max() <= 1
    assert (np.diff(by_k, axis=0) >= 0).all()
    np.testing.assert_allclose(by_k[0], correct / n, rtol=1e-15)


@pytest.mark.parametrize(("n", "correct", "k"), [(4, 1, 5), (4, 5, 1), (4, -1, 1), (4, 1, 0)])
def test_impossible_counts_are_refused(n, correct, k):
    with pytest.raises(ValueError):
        statistics.pass_at_k(n, correct, k)


def test_pass_at_k_agrees_with_the_cases_of_lighteval(shared):
    lines = (shared / "data" / "grading_cases" / "metric_cases.jsonl").read_text(encoding="utf-8").splitlines()
    cases = [case for case in map(json.loads, lines) if case["metric"].startswith("pass_at_k")]
    checked = 0
    for case in cases:
        correct = sum(prediction in case["gold"] for prediction in case["predictions"])
        n, k = case["params"]["n"], case["params"]["k"]
        (expected,) = case["expected"].values()
        if len(case["predictions"]) == n:
            found = statistics.pass_at_k(n, correct, k)
            assert found == pytest.approx(expected, abs=case["tolerance"]), case["name"]
            checked += 1
    assert checked >= 6


# Standard deviations of a world: of seeds, questions, and of a seed on a question.
WORLDS = {
    "seeds alike": (0.0, 0.3, 0.1),
    "seeds alike, noisy": (0.0, 0.05, 0.3),
    "seeds matter as much as questions": (0.03, 0.3, 0.1),
    "seeds matter more": (0.07, 0.3, 0.1),
    "seeds alone matter": (0.3, 0.3, 0.1),
}


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("world", WORLDS)
def test_95_of_100_intervals_hold_the_truth_for_other_seeds_and_questions(world, seeds):
    """Each trial draws new training runs and new questions; the truth is the mean over all that could be drawn."""
    by_seed, by_question, by_both = WORLDS[world]
    rng = np.random.default_rng([seeds, *map(ord, world)])
    trials, questions, held = 800, 100, 0
    for _ in range(trials):
        value_sq = rng.normal(0, by_seed, (seeds, 1)) + rng.normal(0, by_question, questions)
        found = statistics.contrast([value_sq + rng.normal(0, by_both, (seeds, questions))]).interval()
        held += found.low <= 0 <= found.high
    assert 0.93 <= held / trials <= 0.97


@pytest.mark.parametrize("seeds", [3, 5])
def test_they_hold_it_for_a_mean_over_checkpoints_too(seeds):
    """Five checkpoints, each with runs of its own of a spread of its own, and the same questions at all of them."""
    rng = np.random.default_rng(seeds)
    trials, questions, held = 500, 100, 0
    for _ in range(trials):
        question_q, groups = rng.normal(0, 0.2, questions), []
        for spread in (0.08, 0.05, 0.03, 0.02, 0.0):
            value_sq = rng.normal(0, spread, (seeds, 1)) + question_q + rng.normal(0, 0.1, questions)
            groups.append((value_sq + rng.normal(0, 0.1, (seeds, questions))) / 5)
        found = statistics.contrast(groups).interval()
        held += found.low <= 0 <= found.high
    assert 0.93 <= held / trials <= 0.97


def test_ignoring_the_draw_of_seeds_holds_the_truth_far_less_often():
    rng = np.random.default_rng(2)
    value_tsq = rng.normal(0, 0.1, (300, 3, 1)) + rng.normal(0, 0.2, (300, 1, 60)) + rng.normal(0, 0.1, (300, 3, 60))
    naive = [statistics.contrast([value_sq.mean(axis=0)[None]]).interval() for value_sq in value_tsq]
    assert np.mean([one.low <= 0 <= one.high for one in naive]) < 0.7


def test_pass_at_8_of_one_run_holds_the_truth_over_questions():
    rng = np.random.default_rng(1)

    def outcomes(questions):
        difficulty = rng.beta(0.3, 2.0, size=questions)
        return statistics.pass_at_k(32, rng.binomial(32, difficulty), 8)

    truth = outcomes(400_000).mean()
    found = [statistics.mean_interval(outcomes(150)[None]) for _ in range(600)]
    assert 0.93 <= np.mean([one.low <= truth <= one.high for one in found]) <= 0.97


def test_intervals_of_one_model_stay_within_0_and_1_and_are_never_certain():
    """0 of 3 questions is not 0.0 [0.0, 0.0]: Wilson (1927) gives 0 to 56%."""
    none, all_of_them = statistics.mean_interval(np.zeros((1, 3))), statistics.mean_interval(np.ones((3, 3)))
    assert (none.estimate, none.low) == (0, 0) and none.high == pytest.approx(0.5615, abs=1e-4)
    assert (all_of_them.estimate, all_of_them.high) == (1, 1) and all_of_them.low == pytest.approx(1 - 0.5615, abs=1e-4)
    z = 1.959964**2  # 40 of 100 questions, each asked once: the textbook's interval, but for t in place of z
    value = statistics.mean_interval((np.arange(100) < 40).astype(float)[None])
    middle = (0.4 + z / 200) / (1 + z / 100)
    half = math.sqrt(z * (0.24 / 100 + z / 40000)) / (1 + z / 100)
    assert (value.low, value.high) == pytest.approx((middle - half, middle + half), abs=0.002)


@pytest.mark.parametrize("share", [0.01, 0.03, 0.97])
def test_intervals_near_0_and_1_hold_the_truth(share):
    rng = np.random.default_rng(5)
    found = [statistics.mean_interval(rng.binomial(1, share, (1, 200))) for _ in range(600)]
    assert np.mean([one.low <= share <= one.high for one in found]) >= 0.93
    assert all(0 <= one.low <= one.estimate <= one.high <= 1 for one in found)


def test_a_mean_over_benchmarks_weighs_them_alike_and_holds_the_truth():
    rng = np.random.default_rng(3)
    accuracy, sizes = np.array([0.3, 0.7, 0.9]), np.array([200, 500, 100])
    strata, share_q = np.repeat(["a", "b", "c"], sizes), np.repeat(accuracy, sizes)
    found = [statistics.mean_interval(rng.binomial(1, share_q)[None], strata) for _ in range(600)]
    assert 0.93 <= np.mean([one.low <= accuracy.mean() <= one.high for one in found]) <= 0.97
    value = rng.binomial(1, share_q)
    one = statistics.mean_interval(value[None], strata)
    assert one.estimate == pytest.approx(np.mean([value[strata == name].mean() for name in "abc"]), abs=1e-9)
    # that benchmarks differ is no uncertainty: without strata the interval is wider
    apart = statistics.contrast([value[None]], strata)
    assert apart.variance == pytest.approx((accuracy * (1 - accuracy) / sizes).sum() / 9, rel=0.2)


def test_pairing_narrows_the_interval_of_a_difference():
    rng = np.random.default_rng(4)
    before = rng.beta(0.5, 1.0, size=(1, 300))
    after = np.clip(before + 0.04 + rng.normal(0, 0.05, size=before.shape), 0, 1)
    paired = statistics.difference_interval(after, before)
    unpaired = statistics.difference_interval(after, rng.permutation(before, axis=1))
    assert paired.estimate == pytest.approx(unpaired.estimate, abs=1e-8)
    assert paired.high - paired.low < 0.5 * (unpaired.high - unpaired.low)
    assert paired.low > 0 > unpaired.low


def test_seeds_are_paired_only_where_they_are_the_same():
    rng = np.random.default_rng(5)
    start = rng.normal(0.5, 0.2, size=(6, 1)) + np.zeros((6, 40))
    end = start + 0.1
    paired = statistics.difference_interval(end, start)
    apart = statistics.difference_interval(end, start, same_seeds=False)
    assert paired.high - paired.low < 1e-6 < apart.high - apart.low
    assert statistics.difference_interval(end[:3], start).high > paired.high


def test_the_order_of_seeds_questions_and_groups_does_not_matter():
    rng = np.random.default_rng(6)
    a, b = rng.random((3, 50)), rng.random((5, 50))
    order = rng.permutation(50)
    first = statistics.contrast([a, b]).interval()
    assert statistics.contrast([b[::-1][:, order], a[:, order]]).interval() == first
    one = statistics.contrast([a]).interval()
    double = statistics.contrast([2 * a]).interval()
    assert (double.low, double.high) == pytest.approx((2 * one.low, 2 * one.high), abs=1e-8)


def test_a_p_value_says_at_which_level_the_interval_touches_the_margin():
    for found in (Estimate(1.0, 0.2, 0.1, 2, 99), Estimate(-1.0, 0.0, 0.3, math.inf, 499), Estimate(2, 1.0, 0, 2, 9)):
        interval = found.interval()
        for end in (interval.low, interval.high):
            assert found.p_value(end) == pytest.approx(0.05, abs=1e-6)
        assert found.p_value(found.mean) == pytest.approx(1)
        assert found.p_value(interval.high + 1) < 0.05 < found.p_value((interval.high + found.mean) / 2)
    assert Estimate(1.0, 0, 0).p_value(0) == statistics.LEAST_P < Estimate(0.0, 0, 0).p_value(0) == 1


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_spread_of_four_runs_is_held_as_often_as_said(seeds):
    rng = np.random.default_rng(8)
    truth = np.ptp(rng.normal(0, 0.02, (100_000, 4)), axis=1).mean()
    found = [statistics.Spread(tuple(rng.normal(0.3, 0.02, seeds))) for _ in range(800)]
    held = np.mean([one.interval().low <= truth <= one.interval().high for one in found])
    assert 0.93 <= held <= 0.97
    for end in (found[0].interval().low, found[0].interval().high):
        assert found[0].p_value(end) == pytest.approx(0.05, abs=1e-5)


@pytest.mark.parametrize("seeds", [3, 5])
def test_heterogeneity_is_found_where_it_is_and_rarely_where_it_is_not(seeds):
    rng = np.random.default_rng(7)

    def p(shift):
        worlds = [rng.normal(0, 0.04, (seeds, 1)) + rng.normal(by, 0.2, (seeds, 80)) for by in shift]
        return statistics.heterogeneity([statistics.contrast([value_sq]) for value_sq in worlds])

    assert np.mean([p((0.1,) * 5) < 0.05 for _ in range(300)]) <= 0.07
    assert np.mean([p((0.3, 0.3, 0, -0.3, -0.3)) < 0.05 for _ in range(50)]) > 0.9
    assert statistics.heterogeneity([Estimate(0, 1, 1)]) is None
    known, unknown = Estimate(0, 0, 0), Estimate(0.001, 0, 0.014**2)  # no seed of one solves anything
    assert statistics.heterogeneity([known, unknown]) > 0.9 and statistics.heterogeneity([known, known]) == 1


def test_holm_is_the_textbook_and_never_below_the_plain_value():
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.9, 0.8]) == [1, 1] and statistics.holm([]) == []


def test_groups_with_other_questions_cannot_be_compared():
    with pytest.raises(ValueError, match="10 and 9 questions"):
        statistics.contrast([np.zeros((1, 10)), np.zeros((1, 9))])


def test_means_that_agree_by_luck_do_not_narrow_an_interval_below_what_the_questions_know():
    rng = np.random.default_rng(0)
    value_sq = rng.normal(0.5, 0.3, (3, 200))
    value_sq -= value_sq.mean(axis=1, keepdims=True) - 0.5  # all three means alike
    found = statistics.contrast([value_sq])
    assert found.seeds == pytest.approx(0.3**2 / (3 * 200), rel=0.1) and found.seed_df > 100
