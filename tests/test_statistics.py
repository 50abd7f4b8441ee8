"""pass@k is the share of k-subsets with a right answer; intervals hold the truth as often as they say."""

import itertools
import json

import numpy as np
import pytest

from excursions.findings import statistics


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


def test_about_95_of_100_intervals_hold_the_truth():
    """Questions of random difficulty, 32 samples each, pass@8 of a model; the truth is the mean over all
    questions.
    """
    rng = np.random.default_rng(1)

    def outcomes(questions):
        difficulty = rng.beta(0.3, 2.0, size=questions)
        return statistics.pass_at_k(32, rng.binomial(32, difficulty), 8)

    truth = outcomes(400_000).mean()
    trials = 400
    found = [statistics.mean_interval(outcomes(150)[None], trial) for trial in range(trials)]
    held = np.mean([interval.low <= truth <= interval.high for interval in found])
    assert 0.92 <= held <= 0.98  # 0.95 give or take 2.5 standard deviations


def test_intervals_over_seeds_hold_the_truth_where_questions_alone_do_not():
    """Training moves all questions of a seed together; intervals over questions alone do not see that."""
    rng = np.random.default_rng(2)
    seeds, questions, trials = 12, 60, 200
    both, questions_only = [], []
    for trial in range(trials):
        value_sq = 0.5 + rng.normal(0, 0.1, (seeds, 1)) + rng.normal(0, 0.2, (1, questions))
        value_sq = value_sq + rng.normal(0, 0.1, (seeds, questions))
        for held, values in ((both, value_sq), (questions_only, value_sq[:1])):
            found = statistics.mean_interval(values, trial)
            held.append(found.low <= 0.5 <= found.high)
    assert np.mean(both) >= 0.9
    assert np.mean(questions_only) < 0.6


def test_accuracy_intervals_hold_the_truth():
    rng = np.random.default_rng(3)
    n_b, accuracy_b = np.array([200, 500, 100]), np.array([0.3, 0.7, 0.5])
    held = []
    for trial in range(300):
        found = statistics.accuracy_interval(n_b, rng.binomial(n_b, accuracy_b)[None], trial)
        held.append(found.low <= accuracy_b.mean() <= found.high)
    assert 0.91 <= np.mean(held) <= 0.99


def test_pairing_narrows_the_interval_of_a_difference():
    rng = np.random.default_rng(4)
    before = rng.beta(0.5, 1.0, size=(1, 300))
    after = np.clip(before + 0.05 + rng.normal(0, 0.05, size=before.shape), 0, 1)
    paired = statistics.difference_interval(after, before, "x")
    unpaired = statistics.difference_interval(after, rng.permutation(before, axis=1), "x")
    assert paired.estimate == pytest.approx(unpaired.estimate, abs=1e-9)
    assert paired.high - paired.low < 0.5 * (unpaired.high - unpaired.low)
    assert paired.low > 0 > unpaired.low


def test_seeds_are_paired_only_where_they_are_the_same():
    rng = np.random.default_rng(5)
    start = rng.normal(0.5, 0.2, size=(6, 1)) + np.zeros((6, 40))
    end = start + 0.1
    paired = statistics.difference_interval(end, start, "x")
    apart = statistics.difference_interval(end, start, "x", same_seeds=False)
    assert paired.high - paired.low < 1e-9 < apart.high - apart.low


def test_draws_depend_on_names_alone():
    value = np.random.default_rng(6).random((3, 50))
    first = statistics.mean_interval(value, "nano", "easy")
    for other in range(5):
        statistics.mean_interval(value, "nano", other)
    assert statistics.mean_interval(value, "nano", "easy") == first
    assert statistics.mean_interval(value, "nano", "hard") != first


def test_no_order_of_summing_changes_a_bit():
    """Reversing questions and draws together changes the order of every sum, as another processor might."""
    rng = np.random.default_rng(7)
    value = statistics.pass_at_k(32, rng.binomial(32, 0.3, size=(4, 300)), 8)
    rounded = np.round(value * statistics.GRID) / statistics.GRID
    counts = statistics._counts(np.random.default_rng(8), 300)
    forward, backward = counts @ rounded.T, counts[:, ::-1] @ rounded[:, ::-1].T
    np.testing.assert_array_equal(forward, backward)
    np.testing.assert_array_equal(forward, [[sum(c * v) for v in rounded] for c in counts])


def test_groups_with_other_questions_cannot_be_compared():
    with pytest.raises(ValueError, match="10 and 9 questions"):
        statistics.contrast_draws([np.zeros((1, 10)), np.zeros((1, 9))], "x")
