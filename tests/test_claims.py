"""Claims get the verdict that the truth of a made-up study calls for, and say why where there is no data."""

import dataclasses
import itertools
import json
import math
import re

import numpy as np
import pandas as pd
import pytest

from excursions.findings import checks, claims, claims_page, estimates, forest, plotting, reference, statistics
from excursions.findings.checks import Check
from excursions.findings.statistics import Estimate
from excursions.params import RECIPES, UserError
from excursions.results.tables import Tables

ITEMS = 60  # of each of six general benchmarks
TOKENS = {"p08": 8, "p20": 20, "p56": 56, "p88": 88}
# Of each recipe: the share of easy questions it can solve, and how often a sample then does (so pass@1 is
# their product and pass@32 about the first); the same for hard ones; general accuracy in percent.
PAPER_LIKE = {
    "base": (0.35, 0.15, 0.10, 0.10, 50),
    "rl": (0.62, 0.70, 0.25, 0.40, 50),
    "sft": (0.62, 0.35, 0.40, 0.30, 40),
    "sft_gold": (0.80, 0.60, 0.50, 0.40, 40),
    "sft_rl": (0.50, 0.76, 0.45, 0.60, 40),
    "sft_gold_rl": (0.75, 0.80, 0.60, 0.60, 40),
    "parallel": (0.80, 0.40, 0.40, 0.40, 50),
}
ABLATIONS = {"seeds-alike-in-reward", "rl-games-reward", "more-rollouts-by-samples", "fewer-rollouts-by-flops"}
ABLATIONS |= {"rollouts-matter-on-hard", "sft-converged", "data-over-size"}
SHOTS = {"shots-help-base"}  # holds in each of these studies: nothing is solved at step 0, without examples


def study(world, tokens=TOKENS, seeds=(0, 1, 2), questions=100, samples=32, names=("easy", "hard"), suite="main"):
    """Tables of a study made up from such shares; all recipes find the same questions easy.

    A recipe's values may be a function of (checkpoint, seed). Names are categories, as `results.load_tables` has them.
    """
    words = ["scale", "suite", "checkpoint", "recipe"]
    cells = list(itertools.product(tokens.items(), world.items(), seeds))
    who = [("nano", suite, checkpoint, count, recipe, seed) for (checkpoint, count), (recipe, _), seed in cells]
    who = pd.DataFrame(who, columns=["scale", "suite", "checkpoint", "tokens", "recipe", "seed"])
    who = who.astype(dict.fromkeys(words, "category"))
    steps, ids = [0, 5], [f"{benchmark}-{q:03d}" for benchmark in names for q in range(questions)]
    correct, right = [], []
    for (checkpoint, _), (recipe, values), seed in cells:
        rng = np.random.default_rng(list(f"{suite}{checkpoint}{recipe}{seed}".encode()))
        *shares, accuracy = values(checkpoint, seed) if callable(values) else values
        chance = [
            (np.arange(questions) < share * questions) * often
            for share, often in zip(shares[::2], shares[1::2], strict=True)
        ]
        correct += [np.zeros(2 * questions, int), rng.binomial(samples, np.concatenate(chance))]
        solved = np.tile(np.arange(ITEMS) < accuracy / 100 * ITEMS, 6)
        right.append(solved ^ (rng.random(6 * ITEMS) < 0.01))
    outcomes = who.loc[who.index.repeat(len(steps) * len(ids))].reset_index(drop=True)
    outcomes["step"] = np.tile(np.repeat(steps, len(ids)), len(cells))
    outcomes["benchmark"] = pd.Categorical(np.tile(np.repeat(names, questions), 2 * len(cells)))
    outcomes["question_id"] = pd.Categorical(np.tile(ids, 2 * len(cells)))
    outcomes = outcomes.assign(n=samples, correct=np.concatenate(correct))
    outcomes["valid"] = outcomes["correct"].astype("Int64")
    general = who.loc[who.index.repeat(6 * ITEMS)].reset_index(drop=True)
    general["benchmark"] = pd.Categorical(np.tile(np.repeat(list("abcdef"), ITEMS), len(cells)))
    general["item_id"] = np.tile(np.arange(ITEMS), 6 * len(cells)).astype(str)
    general["correct"] = np.concatenate(right).astype(int)
    training = who.loc[who.index.repeat(8)].reset_index(drop=True)
    training = training.assign(step=np.tile(range(1, 9), len(cells)), reward=0.3)
    return Tables("nano", outcomes, general, {suite: 2}, training)


def together(*parts):
    """The tables of several suites as one, names as plain text."""
    kinds = [pd.concat([getattr(part, kind) for part in parts]) for kind in ("outcomes", "general", "training")]
    parameters = {suite: count for part in parts for suite, count in part.parameters.items()}
    return Tables("nano", kinds[0], kinds[1], parameters, kinds[2])


def by_id(tables, figure=None):
    return {claim.id: claim for claim in claims.evaluate_claims(tables, figure)}


@pytest.fixture(scope="module")
def paper_like():
    return study(PAPER_LIKE)


@pytest.fixture(scope="module")
def evaluated(paper_like):
    return claims.evaluate_claims(paper_like)


def test_every_claim_is_well_formed():
    ids = [check.id for check in claims.CHECKS]
    assert len(set(ids)) == len(ids) >= 30
    for check in claims.CHECKS:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", check.id)
        assert check.span in checks.SPANS and (check.above, check.below) != (None, None)
        assert check.above is None or check.below is None or check.above < check.below
        assert check.benchmark in ("easy", "hard", "general")
        assert check.rule and check.measure and check.source and "|" not in check.claim + check.measure
        for formula in check.contrasts:
            assert {recipe for _, recipe in checks.parse(formula)[1]} <= {*RECIPES, "base_0shot"} or check.measured
    assert set(claims.FIGURES) == set(claims_page.HEADINGS)


def test_a_formula_is_a_sum_of_recipes_in_suites():
    assert checks.parse("pass@8 of rl - base") == (8, {("main", "rl"): 1, ("main", "base"): -1})
    k, signs = checks.parse("accuracy of rl@larger - base@larger - sft + base")
    assert k is None and list(signs.values()) == [1, -1, -1, 1] and ("larger", "base") in signs


@pytest.mark.parametrize(
    ("low", "high", "above", "below", "expected"),
    [
        (0.1, 2, 0, None, "supported"),
        (-0.1, 2, 0, None, "inconclusive"),
        (-2, -0.1, 0, None, "not supported"),
        (0, 0, 0, None, "inconclusive"),
        (-4.9, 1, -5, None, "supported"),
        (-9, -5.1, -5, None, "not supported"),
        (-1.9, 1.9, -2, 2, "supported"),
        (-2.1, 1.9, -2, 2, "inconclusive"),
        (2.1, 3, -2, 2, "not supported"),
        (-3, 3, -2, 2, "inconclusive"),
    ],
)
def test_a_verdict_says_where_the_whole_interval_lies(low, high, above, below, expected):
    assert checks.decide(low, high, checks.region(above, below)) == expected


def points(*effects, error=0.01):
    return {f"p{number:02d}": Estimate(effect / 100, 0, error**2) for number, effect in enumerate(effects, 1)}


def judged(parts, above=0.0, below=None):
    check = Check("x", "early_rl", "", "", [""], "easy", "all", above=above, below=below)
    mean, error = np.mean([one.mean for one in parts.values()]), sum(one.questions for one in parts.values())
    return checks.contrast(check, "it", Estimate(mean, 0, error / len(parts) ** 2), parts, 3, "at them")


def test_a_mean_does_not_hide_opposite_signs():
    agreeing, opposed, noise = judged(points(9, 9, 9)), judged(points(20, 20, -8)), judged(points(9, 9, -0.5), -1)
    assert (agreeing.verdict, opposed.verdict, noise.verdict) == ("supported", "inconclusive", "supported")
    assert opposed.low > 0 and opposed.heterogeneity < 0.001 < 0.5 < agreeing.heterogeneity
    assert "both sides of the margin: +20.0 at p01, +20.0 at p02, -8.0 at p03" in opposed.note
    assert [one.effect for one in opposed.points] == [20, 20, -8] and "sides" not in agreeing.note
    # scatter as large as chance makes it is no disagreement; what is refuted on the mean and holds at one is open, too
    chance = judged(points(6, 6, 6, 6, 6, -0.5, error=0.03))
    assert chance.verdict == "supported" and chance.heterogeneity > 0.1 and "sides" in chance.note
    refuted, mostly = judged(points(-20, -20, 8)), judged(points(-9, -9, 0.5), 1)
    assert refuted.high < 0 and refuted.verdict == "inconclusive" and "+8.0 at p03" in refuted.note
    assert mostly.verdict == "not supported"
    # effects that cancel are no equality; effects that all lie well inside, or that differ by chance, are one
    cancelled, inside = judged(points(1.9, -1.9, error=0.004), -2, 2), judged(points(0.9, -0.9, error=0.004), -2, 2)
    assert (cancelled.low > -2, cancelled.high < 2, cancelled.verdict) == (True, True, "inconclusive")
    assert "differs: +1.9 at p01, -1.9 at p02" in cancelled.note and inside.heterogeneity < 0.01
    assert inside.verdict == judged(points(0.5, -0.5), -2, 2).verdict == "supported"


def test_each_of_several_contrasts_has_to_hold():
    good, weak, bad = judged(points(9)), judged(points(1)), judged(points(-9))
    assert checks.conclude([good, good])[0] == "supported"
    verdict, deciding, p = checks.conclude([good, weak])
    assert (verdict, deciding, p) == ("inconclusive", weak, weak.p) and weak.p > 0.05
    assert checks.conclude([good, bad, weak])[:2] == ("not supported", bad)
    worst = judged(points(-20))
    assert checks.conclude([bad, worst])[1] == worst and checks.conclude([judged(points(5)), good])[1].effect == 5


def test_p_values_are_of_the_nearest_bound_and_agree_with_the_interval():
    for effect in (0.5, 1.9, 2.1, 5, 30):
        one = judged(points(effect))
        assert (one.p < 0.05) == (one.verdict != "inconclusive")
    inside = judged(points(0.5, error=0.001), above=-2, below=2)
    assert inside.verdict == "supported" and inside.p < 0.05
    assert judged(points(1.9, error=0.001), above=-2, below=2).p > 0.05


def test_recipes_that_only_guess_are_not_compared():
    assert checks.undetectable({"rl": 3.0, "base": 1.0}, 1.2, 0) == "all within 2 points of the guess floor, 1.2"
    assert checks.undetectable({"rl": 3.3, "base": 1.0}, 1.2, 0) is None
    assert checks.undetectable({"rl": 9.9, "base": 1.0}, 1.2, 10) == "none reaches 10"


def test_spans_of_checkpoints():
    names, multiples = ["p04", "p08", "p20", "p88"], [0.1, 0.2, 0.5, 2.2]
    chosen = {span: checks.choose(span, names, multiples) for span in checks.SPANS if span != "shared"}
    assert chosen == {
        "early": ["p08"],
        "turn": ["p20"],
        "sensitive": ["p08", "p20"],
        "later": ["p20", "p88"],
        "beyond": ["p88"],
        "under-trained": ["p04", "p08", "p20"],
        "last": ["p88"],
        "all": names,
    }
    assert checks.choose("later", ["p02", "p04"], [0, 0]) == checks.choose("early", ["p02", "p04"], [0, 0]) == ["p04"]


def test_a_study_like_the_paper_supports_its_claims(evaluated):
    verdicts = {claim.id: claim.verdict for claim in evaluated}
    # one seed like another: the early ones do not differ, and three are too few to say that later ones agree
    open_ones = {"seeds-matter-early", "seeds-agree-later", "rl-games-reward", "seeds-alike-in-reward"}
    other = {id: found for id, found in verdicts.items() if found != "supported" and id not in open_ones}
    contradicted = {"parallel-outperforms": "not supported"}  # the abstract says so, Result 5 does not
    assert other == dict.fromkeys(ABLATIONS - open_ones, "not measured") | contradicted
    assert verdicts["seeds-matter-early"] != "supported"
    for claim in evaluated:
        assert (claim.effect is None) == (claim.ci_low is None) == (claim.p is None) == (not claim.contrasts)
        if claim.effect is None:
            assert claim.note.startswith("not measured: needs") and claim.verdict == "not measured"
        else:
            assert claim.ci_low <= claim.effect <= claim.ci_high and claim.n_seeds == 3 and claim.p <= claim.p_holm


def test_a_study_of_the_opposite_kind_refutes_them():
    opposite = {
        "base": (0.60, 0.60, 0.50, 0.50, 50),
        "rl": (0.30, 0.30, 0.20, 0.20, 40),
        "sft": (0.55, 0.50, 0.30, 0.30, 50),
        "sft_gold": (0.20, 0.30, 0.30, 0.30, 50),
        "sft_rl": (0.80, 0.80, 0.10, 0.10, 50),
        "sft_gold_rl": (0.40, 0.40, 0.30, 0.30, 50),
        "parallel": (0.40, 0.60, 0.30, 0.30, 30),
    }
    found = by_id(study(opposite))
    spreads = {"seeds-matter-early", "seeds-agree-later", "seeds-alike-in-reward", "rl-games-reward"}
    refuted = {id for id, claim in found.items() if claim.verdict == "not supported"}
    assert refuted - spreads == set(found) - {"sft-rl-raises-pass1"} - spreads - ABLATIONS - SHOTS


def test_nothing_is_supported_where_recipes_do_not_differ():
    """Claims of a difference, on recipes that are all the same; claims of no difference hold."""
    found = by_id(study(dict.fromkeys(RECIPES, (0.5, 0.5, 0.3, 0.3, 50))))
    same = {id for id in found if "competitive" in id or "matches" in id or "on-par" in id or "keeps" in id} | SHOTS
    assert same < {id for id, claim in found.items() if claim.verdict == "supported"} | {"seeds-agree-later"}
    assert {id for id, claim in found.items() if claim.verdict == "supported"} - same <= {"seeds-agree-later"}


def test_fewer_than_three_seeds_are_no_verdict():
    for seeds in ((0,), (0, 1)):
        found = by_id(study(PAPER_LIKE, seeds=seeds, questions=20))
        assert {claim.verdict for claim in found.values()} == {"not measured"}
        claim = found["rl-beats-sft-pass1"]
        assert claim.note == f"not measured: needs 3 seeds, there are {len(seeds)}" and claim.n_seeds == len(seeds)
    # base is one model: being asked once is enough for it
    tables = study(PAPER_LIKE)
    kept = (tables.outcomes["recipe"] != "base") | (tables.outcomes["seed"] == 0)
    claim = by_id(dataclasses.replace(tables, outcomes=tables.outcomes[kept]), "early_rl")["rl-effective-early"]
    assert (claim.verdict, claim.n_seeds) == ("supported", 3)


def test_a_checkpoint_of_too_few_seeds_is_left_out_and_named():
    tables = study(PAPER_LIKE)
    rows = tables.outcomes
    absent = (rows["recipe"] == "sft") & (rows["checkpoint"] == "p56") & (rows["seed"] > 0)
    found = by_id(dataclasses.replace(tables, outcomes=rows[~absent]), "scarce_demonstrations")
    claim = found["rl-beats-sft-pass1"]
    assert (claim.verdict, claim.n_seeds) == ("supported", 3)
    assert claim.note == "at p20, p88; p56 left out: 1 of 3 seeds"
    assert [point.checkpoint for point in claim.contrasts[0].points] == ["p20", "p88"]
    # nor is another checkpoint put in its place
    absent = (rows["recipe"] == "rl") & (rows["checkpoint"] == "p88") & (rows["seed"] > 0)
    found = by_id(dataclasses.replace(tables, outcomes=rows[~absent]), "early_rl")
    assert found["rl-matches-sft-rl"].note == "not measured: needs 3 seeds, there are 1"
    assert found["rl-matches-sft-rl-early"].verdict == "supported"


def test_an_effect_is_the_mean_over_checkpoints_of_the_paired_difference(paper_like, evaluated):
    claim = next(claim for claim in evaluated if claim.id == "rl-beats-sft-pass1")
    rows = paper_like.outcomes.query("benchmark == 'easy' and checkpoint != 'p08' and step == 5")
    accuracy = 100 * (rows["correct"] / rows["n"]).groupby(rows["recipe"]).mean()
    assert claim.effect == pytest.approx(accuracy["rl"] - accuracy["sft"], abs=0.006)
    assert claim.note == "at p20, p56, p88"
    (one,) = claim.contrasts
    assert [point.checkpoint for point in one.points] == ["p20", "p56", "p88"]
    assert np.mean([point.effect for point in one.points]) == pytest.approx(claim.effect, abs=0.01)
    at = rows[rows["checkpoint"] == "p56"]
    a, b = (estimates.per_question(at[at["recipe"] == recipe], 1, ["seed"]).to_numpy() for recipe in ("rl", "sft"))
    paired = statistics.difference_interval(a, b)
    assert (one.points[1].low, one.points[1].high) == (round(100 * paired.low, 2), round(100 * paired.high, 2))
    shuffled = np.random.default_rng(0).permutation(b, axis=1)
    unpaired = statistics.difference_interval(a, shuffled)
    assert unpaired.high - unpaired.low > 1.2 * (paired.high - paired.low)


def test_at_every_checkpoint_is_more_than_on_their_mean():
    def late(checkpoint, seed):
        return (0.62, 0.70 if checkpoint != "p88" else 0.2, 0.25, 0.40, 50)

    found = by_id(study(PAPER_LIKE | {"rl": late}), "scarce_demonstrations")
    each, mean = found["rl-beats-sft-by-checkpoint"], found["rl-beats-sft-pass1"]
    assert each.verdict == "not supported" and each.effect < 0
    assert [one.formula[-3:] for one in each.contrasts] == ["p20", "p56", "p88"]
    assert mean.verdict == "inconclusive" and mean.ci_low > 0 and "both sides" in mean.note


def test_the_guess_floor_leaves_checkpoints_out_and_says_so():
    def grows(checkpoint, seed):
        return (0.5, 0.03 if checkpoint == "p08" else 0.6, 0.2, 0.2, 50)

    tables = study(PAPER_LIKE | {"rl": grows, "base": (0.2, 0.05, 0.1, 0.1, 50)})
    claim = by_id(tables, "sharpening_or_expansion")["rl-expands"]
    pass1 = next(one for one in claim.contrasts if one.formula.startswith("pass@1 "))
    assert [point.checkpoint for point in pass1.points] == ["p20", "p56", "p88"]
    assert "p08 left out: all within 2 points of the guess floor, 0.0" in pass1.note
    everything = dataclasses.replace(tables, floors={("easy", 1): 90.0})
    found = by_id(everything, "early_rl")["rl-effective-early"]
    assert found.verdict == "not measured" and "guess floor, 90.0" in found.note
    low = by_id(study(dict.fromkeys(RECIPES, (0.5, 0.1, 0.3, 0.3, 50))), "early_rl")["rl-matches-sft-rl"]
    assert low.note == "not measured: p88 left out: none reaches 10"


def test_all_of_several_contrasts_have_to_hold(evaluated):
    """Parallel averaging above rl and sft but below sft_rl is not the best."""
    claim = by_id(study(PAPER_LIKE | {"sft_rl": (0.95, 0.8, 0.5, 0.5, 40)}), "parallel_averaging")[
        "parallel-best-pass32"
    ]
    assert claim.verdict == "not supported" and claim.effect < 0
    assert [one.verdict for one in claim.contrasts] == ["supported", "supported", "not supported"]


def test_the_other_scale_has_other_benchmark_names_and_two_checkpoints_are_enough(evaluated):
    tables = study(PAPER_LIKE, tokens={"p40": 36, "p88": 88}, names=("gsm8k", "math"))
    found = by_id(tables)
    assert found["rl-effective-early"].verdict == "supported" and found["rl-effective-early"].note == "at p40"
    assert found["rl-gains-on-hard"].verdict == "supported"
    assert {claim.id for claim in evaluated if claim.effect is None} == {
        id for id, claim in found.items() if claim.effect is None
    }


def test_too_few_samples_missing_recipes_and_late_checkpoints_are_told(paper_like):
    few = by_id(study(PAPER_LIKE, samples=8), "scarce_demonstrations")
    assert few["rl-competitive-pass32"].note == "not measured: pass@32 needs 32 samples per question, there are 8"
    assert few["rl-beats-sft-pass1"].verdict == "supported"
    world = {recipe: found for recipe, found in PAPER_LIKE.items() if recipe != "parallel"}
    for claim in by_id(study(world, questions=20), "parallel_averaging").values():
        assert (claim.verdict, claim.effect, claim.n_seeds) == ("not measured", None, 0)
        assert claim.note == "not measured: needs results of parallel"
    late = by_id(dataclasses.replace(paper_like, parameters={"main": 0.1}), "early_rl")
    assert late["rl-before-chinchilla"].note.startswith("not measured: needs a checkpoint with all of base, rl")


def test_seeds_that_differ_early_and_agree_later_are_found():
    def brittle(checkpoint, seed):
        return (0.5, (0.1 + 0.2 * seed if checkpoint in ("p08", "p20") else 0.5), 0.2, 0.3, 50)

    tables = study(PAPER_LIKE | {"rl": brittle}, seeds=range(5), questions=400)
    found = by_id(tables)
    early, later, reward = (found[id] for id in ("seeds-matter-early", "seeds-agree-later", "seeds-alike-in-reward"))
    assert early.verdict == later.verdict == reward.verdict == "supported" and early.n_seeds == 5
    assert early.effect > 20 and abs(later.effect) < 3 and later.note == "at p56, p88"
    assert [one.formula.split()[0] for one in reward.contrasts] == ["pass@1", "pass@1", "reward", "reward"]
    weak = study(PAPER_LIKE | {"rl": lambda checkpoint, seed: (0.1, 0.15 * (1 + seed), 0.2, 0.3, 50)}, seeds=range(5))
    floored = by_id(weak, "early_rl")["seeds-matter-early"]  # a spread of recipes that solve nothing says nothing
    assert floored.verdict == "not measured" and "none reaches 10" in floored.note
    log = tables.training.assign(reward=0.1 + 0.2 * tables.training["seed"])
    unlike = by_id(dataclasses.replace(tables, training=log), "reward_gaming")["seeds-alike-in-reward"]
    assert unlike.verdict == "not supported" and unlike.effect > 5
    without = by_id(dataclasses.replace(tables, training=pd.DataFrame()), "reward_gaming")["seeds-alike-in-reward"]
    assert without.note == "not measured: needs the training log of rl at p08"
    # an interval over seeds that differ so much is far wider than one over seeds that agree
    alike = by_id(study(PAPER_LIKE), "early_rl")["rl-effective-early"]
    one = found["rl-effective-early"]
    assert one.ci_high - one.ci_low > 2 * (alike.ci_high - alike.ci_low)


def test_right_answers_without_a_derivation_are_counted_along_training(paper_like):
    rows = paper_like.outcomes
    clean = by_id(paper_like, "reward_gaming")["rl-games-reward"]
    assert (clean.contrasts[0].effect, clean.verdict) == (0, "not supported")  # all that it adds is derived
    gamed = rows.assign(valid=(rows["correct"] * 0.2).astype(int).astype("Int64"))
    claim = by_id(dataclasses.replace(paper_like, outcomes=gamed), "reward_gaming")["rl-games-reward"]
    at = rows.query("recipe == 'rl' and checkpoint == 'p08' and benchmark == 'easy' and step == 5")
    expected = 100 * ((at["correct"] - (at["correct"] * 0.2).astype(int)) / at["n"]).mean()
    assert claim.verdict == "supported" and claim.contrasts[0].effect == pytest.approx(expected, abs=0.006)
    half = rows.assign(valid=(rows["correct"] * 0.6).astype(int).astype("Int64"))  # more is derived than is not
    assert by_id(dataclasses.replace(paper_like, outcomes=half), "reward_gaming")["rl-games-reward"].effect < 0
    unchecked = dataclasses.replace(paper_like, outcomes=rows.assign(valid=pd.NA))
    assert "steps checked" in by_id(unchecked, "reward_gaming")["rl-games-reward"].note


def test_data_against_size_is_measured_where_the_suites_have_the_same_tokens(paper_like, evaluated):
    heavy = study(PAPER_LIKE | {"rl": (0.8, 0.8, 0.6, 0.8, 50)}, tokens={"p20": 24, "p80": 96}, suite="math_heavy")
    larger = study(PAPER_LIKE | {"base": (0.4, 0.4, 0.2, 0.3, 50)}, tokens={"p50": 25, "p90": 45}, suite="larger")
    tables = together(paper_like, heavy, larger)
    claim = by_id(tables, "early_rl")["data-over-size"]
    assert claim.verdict == "supported" and claim.note == "at math_heavy at p20, larger at p50"
    hard = tables.outcomes.query("benchmark == 'hard' and step == 5")
    accuracy = 100 * (hard["correct"] / hard["n"]).groupby([hard["suite"], hard["checkpoint"], hard["recipe"]]).mean()
    gains = accuracy.xs("rl", level="recipe") - accuracy.xs("base", level="recipe")
    assert claim.effect == pytest.approx(gains["math_heavy", "p20"] - gains["larger", "p50"], abs=0.006)
    before = {one.id: dataclasses.replace(one, p_holm=None) for one in evaluated}
    after = {one.id: dataclasses.replace(one, p_holm=None) for one in claims.evaluate_claims(tables)}
    assert after == before | {"data-over-size": claim}  # other suites change nothing else


def test_ablations_are_compared_with_the_main_suite():
    main = study(PAPER_LIKE, questions=900)
    epochs = study({"sft": PAPER_LIKE["sft"]}, tokens={"p56": 56}, suite="epochs-10", questions=900)
    found = by_id(together(main, epochs), "ablations")
    shots_help, converged = found["shots-help-base"], found["sft-converged"]
    assert shots_help.verdict == "supported" and shots_help.note.startswith(
        "at p20, p56, p88; the seeds of base are one"
    )
    base = main.outcomes.query("benchmark == 'easy' and recipe == 'base' and step == 5 and checkpoint != 'p08'")
    assert shots_help.effect == pytest.approx(100 * (base["correct"] / base["n"]).mean(), abs=0.01)  # 0-shot: nothing
    assert converged.verdict == "supported" and converged.note == "at p56; p08, p20, p88 left out: 0 of 3 seeds"
    assert found["sft-converged"].tables == "outcomes, easy: epochs-10/*/sft, main/*/sft"


def test_rollouts_are_compared_at_the_same_questions_and_at_as_many_answers():
    def along(suite, steps, rate):
        once = study({"rl": (0.9, 0.5, 0.9, 0.5, 50)}, tokens={"p56": 56}, suite=suite)
        rows = once.outcomes[once.outcomes["step"] == 5].astype({"suite": str})
        easier = np.where(rows["benchmark"] == "easy", 0.5, 1.0)
        parts = [
            rows.assign(step=step, correct=(rows["n"] * np.minimum(rate * step * easier, 1)).astype(int))
            for step in steps
        ]
        return dataclasses.replace(once, outcomes=pd.concat(parts))

    halves = [along(f"rollouts-5-{half}", (10, 40, 130, 260), 0.003) for half in ("easy", "hard")]
    halves += [along(f"rollouts-64-{half}", (10, 40, 80), 0.008) for half in ("easy", "hard")]
    found = by_id(together(study(PAPER_LIKE), *halves), "ablations")
    samples, flops, hard = (found[id] for id in claims_of_rollouts)
    assert samples.verdict == "supported" and "p56 after 40 steps of rollouts-5-hard" in samples.note
    assert samples.effect == pytest.approx(100 * (int(32 * 0.32) - int(32 * 0.12)) / 32, abs=0.01)
    # 260 x 5 answers are nearest to 10 x 64 = 640 (130 x 5 = 650)
    assert "after 130 steps of rollouts-5-hard" in flops.note
    assert "after 10 steps of rollouts-64-hard" in flops.note
    assert flops.verdict == "supported" and flops.effect > 20
    assert hard.tables.startswith("outcomes, easy and hard: rollouts-5-easy/*/rl, ")
    assert hard.effect == pytest.approx(samples.effect - 100 * (int(32 * 0.16) - int(32 * 0.06)) / 32, abs=0.01)


claims_of_rollouts = ("more-rollouts-by-samples", "fewer-rollouts-by-flops", "rollouts-matter-on-hard")


def test_published_numbers_get_the_same_checks(evaluated):
    found = {claim.id: claim for claim in evaluated}
    # figure values: 15.44 - 2.4261 at 4B; gold -> RL 60.33 against RL 55.85 at 44B
    assert found["rl-effective-early"].published_effect == pytest.approx(13.01, abs=0.01)
    assert found["sft-gold-rl-best-pass1"].published_effect == pytest.approx(4.48, abs=0.01)
    assert found["seeds-agree-later"].published_verdict == "not measured"  # it publishes seeds at 4B and 10B alone
    assert found["parallel-keeps-general"].published_note == "at p12, p20, p40, p56, p88"
    assert "several solutions" in found["rl-below-sft-rl-on-hard"].published_note
    binomial = 196 * math.sqrt(0.1544 * 0.8456 / 1319 + 0.024261 * 0.975739 / 1319)
    assert found["rl-effective-early"].published_ci_high - 13.0139 == pytest.approx(binomial, abs=0.02)
    # 64 rollouts 63.68 after 40,960 questions; the shots figure: 8 shots 14.0258 and none 4.2456 at 44B
    assert "40,960" in found["more-rollouts-by-samples"].published_note
    last = found["shots-help-base"].published_contrasts[0].points[-1]
    assert (last.checkpoint, last.effect) == ("p88", 9.78)
    unpublished = {id for id, claim in found.items() if claim.published_verdict == "not measured"}
    assert unpublished == {
        "seeds-agree-later",
        "sft-rl-loses-general",
        "sft-gold-rl-loses-general",
        "seeds-alike-in-reward",
        "rl-games-reward",
    }


def test_reference_curves_are_one_series_for_each_recipe():
    curves = reference.pass_at_k()
    assert not curves.duplicated(["role", "k", "recipe", "tokens_b"]).any()
    assert set(curves[curves["role"] == "easy"]["recipe"]) == set(RECIPES)
    by_tokens = curves[["tokens_b", "checkpoint", "chinchilla"]].drop_duplicates().set_index("tokens_b")
    assert by_tokens.loc[4].tolist() == ["p08", 0.2] and by_tokens.loc[44].tolist() == ["p88", 2.2]
    one = curves.query("role == 'easy' and k == 32 and recipe == 'sft' and tokens_b == 44").iloc[0]
    assert one["estimate"] == 73.84  # the one-solution SFT of May, not the February series (87.57)
    assert one["half_width"] == pytest.approx(196 * math.sqrt(0.7384 * 0.2616 / 1319), abs=0.01)
    general = reference.general()
    assert not general.duplicated(["benchmark", "recipe", "tokens_b"]).any()
    six = general[general["benchmark"].isin(reference.GENERAL)].groupby(["recipe", "tokens_b"])["estimate"].mean()
    mean = general[general["benchmark"] == "average"].set_index(["recipe", "tokens_b"])["estimate"]
    pd.testing.assert_series_equal(six, mean.sort_index(), atol=0.01, check_names=False)
    assert set(reference.hard_gains()["suite"]) == {"main", "math_heavy", "larger"}
    assert set(reference.dynamics()["pipeline"]) == {"rl", "sft_rl"}


def test_rows_have_the_keys_of_the_contract(evaluated):
    keys = ["id", "claim", "source", "figure", "n_seeds", "effect", "ci_low", "ci_high", "verdict", "p", "p_holm"]
    rows = json.loads(json.dumps([claim.row() for claim in evaluated], allow_nan=False))
    assert all(list(row) == keys for row in rows)
    assert {row["verdict"] for row in rows} <= set(claims.VERDICTS)
    assert all((row["effect"] is None) == (row["verdict"] == "not measured") for row in rows)


def test_claims_are_written_merged_and_the_same_every_time(tmp_path, evaluated, capsys):
    for root in (tmp_path / "a", tmp_path / "b"):
        for figure in claims.FIGURES:
            claims.write_claims(root, "nano", figure, [claim for claim in evaluated if claim.figure == figure])
        assert claims.load_claims(root, "nano") == evaluated
        claims_page.write_claims_markdown(root, ("nano",))
        plotting.save(forest.forest("nano", evaluated), root / "figures" / "nano" / "claims")
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == len(claims.FIGURES) + 3
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)
    text = (tmp_path / "a" / "CLAIMS.md").read_text(encoding="utf-8")
    assert text.index("](figures/nano/claims.svg)") < 200
    counted = sum(claim.verdict == "supported" for claim in evaluated)
    assert f"{len(evaluated)} claims:** {counted} supported, " in text
    for claim in evaluated:
        block = text[text.index(f"### {claim.claim}") :].split("\n### ")[0]
        assert f"`{claim.id}`" in block and claim.verdict in block and f"reports/nano/{claim.figure}.html" in block
        assert all(f"{p.checkpoint} {p.effect:+.1f} [" in block for one in claim.contrasts for p in one.points)
    for table in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1, table
    claims.print_claims(evaluated)
    assert capsys.readouterr().out.count("\n") == len(evaluated)
    assert list(claims.claims_table(evaluated).index) == [claim.id for claim in evaluated]


def test_the_forest_plot_shows_every_claim(evaluated):
    figure = forest.forest("nano", evaluated)
    (axes,) = figure.axes
    shown = [text.get_text() for text in axes.texts]
    assert all(claim.id in shown for claim in evaluated)
    assert shown.count("supported") == sum(
        (claim.verdict == "supported") + (claim.published_verdict == "supported") for claim in evaluated
    )
    supported = sum(claim.verdict == "supported" for claim in evaluated)
    assert figure.texts[0].get_text().startswith(f"{supported} of ")


def test_missing_and_damaged_claims_are_errors(tmp_path, paper_like):
    with pytest.raises(UserError, match="early_rl.json does not exist.*excursions notebook early_rl --scale nano"):
        claims.load_claims(tmp_path, "nano")
    file = claims.claims_file(tmp_path, "nano", "early_rl")
    file.parent.mkdir(parents=True)
    file.write_text('[{"id": "x"}]')
    with pytest.raises(UserError, match="early_rl.json is not a list of claims"):
        claims.load_claims(tmp_path, "nano")
    for figure in claims.FIGURES:
        claims.write_claims(tmp_path, "nano", figure, claims.evaluate_claims(paper_like, figure))
    claims.load_claims(tmp_path, "nano")
    file.write_text(json.dumps(json.loads(file.read_text())[1:]))
    with pytest.raises(UserError, match="do not hold the claims of this code, each once: .*dvc repro"):
        claims.load_claims(tmp_path, "nano")
    with pytest.raises(UserError, match="no claims of a figure 'early'.*early_rl"):
        claims.evaluate_claims(paper_like, "early")


def test_the_order_of_rows_does_not_matter(paper_like, evaluated):
    kinds = ("outcomes", "general", "training")
    shuffled = {kind: getattr(paper_like, kind).sample(frac=1, random_state=0) for kind in kinds}
    assert claims.evaluate_claims(dataclasses.replace(paper_like, **shuffled)) == evaluated
