"""Claims get the verdict that the truth of a made-up study calls for, and say why where there is no data."""

import dataclasses
import itertools
import json
import math
import re

import numpy as np
import pandas as pd
import pytest

from excursions.findings import checks, claims, estimates, reference, statistics
from excursions.params import RECIPES, UserError
from excursions.results import tables as results

TOKENS = {"p08": 8, "p20": 20, "p56": 56, "p88": 88}
# Of each recipe: the share of easy questions it can solve, and how often a sample then does (so pass@1 is
# their product and pass@32 about the first); the same for hard ones; general accuracy in percent.
PAPER_LIKE = {
    "base": (0.35, 0.15, 0.10, 0.10, 50),
    "rl": (0.62, 0.70, 0.25, 0.40, 50),
    "sft": (0.62, 0.35, 0.40, 0.30, 40),
    "sft_gold": (0.80, 0.50, 0.50, 0.40, 40),
    "sft_rl": (0.50, 0.76, 0.45, 0.60, 40),
    "sft_gold_rl": (0.75, 0.80, 0.60, 0.60, 40),
    "parallel": (0.80, 0.40, 0.40, 0.40, 50),
}


def study(world, tokens=TOKENS, seeds=(0,), questions=100, samples=32, names=("easy", "hard"), suite="main"):
    """Tables of a study made up from such shares; all recipes find the same questions easy.

    A recipe's values may be a function of (checkpoint, seed).
    """
    outcomes, general = [], []
    for (checkpoint, count), (recipe, values), seed in itertools.product(tokens.items(), world.items(), seeds):
        rng = statistics.generator(suite, checkpoint, recipe, seed)
        *shares, accuracy = values(checkpoint, seed) if callable(values) else values
        who = {"scale": "nano", "suite": suite, "checkpoint": checkpoint, "tokens": count}
        who |= {"recipe": recipe, "seed": seed}
        for benchmark, solvable, chance in zip(names, shares[::2], shares[1::2], strict=True):
            solves_q = np.arange(questions) < solvable * questions
            rows = pd.DataFrame(who | {"step": 5, "benchmark": benchmark, "n": samples}, index=range(questions))
            rows["question_id"] = [f"{benchmark}-{q:03d}" for q in range(questions)]
            outcomes.append(rows.assign(correct=rng.binomial(samples, chance * solves_q)))
        counts = [{"benchmark": b, "n": 2000, "correct": 20 * accuracy} for b in "abcdef"]
        general.append(pd.DataFrame(counts).assign(**who))
    return results.Tables("nano", pd.concat(outcomes), pd.concat(general), {suite: 2})


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
    assert len(set(ids)) == len(ids) >= 12
    for check in claims.CHECKS:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", check.id)
        assert check.recipes <= set(RECIPES) and check.role in checks.ROLES
        assert check.above < check.below and (check.above, check.below) != (-math.inf, math.inf)
        assert check.benchmark in ("easy", "hard", "general")
        assert check.rule and check.measure and check.source and "|" not in check.claim
    assert len(claims.FIGURES) == 5


@pytest.mark.parametrize(
    ("low", "high", "above", "below", "expected"),
    [
        (0.1, 2, 0, math.inf, "supported"),
        (-0.1, 2, 0, math.inf, "inconclusive"),
        (-2, -0.1, 0, math.inf, "not supported"),
        (0, 0, 0, math.inf, "inconclusive"),
        (-4.9, 1, -5, math.inf, "supported"),
        (-9, -5.1, -5, math.inf, "not supported"),
        (-1.9, 1.9, -2, 2, "supported"),
        (-2.1, 1.9, -2, 2, "inconclusive"),
        (2.1, 3, -2, 2, "not supported"),
        (-3, 3, -2, 2, "inconclusive"),
    ],
)
def test_a_verdict_says_where_the_whole_interval_lies(low, high, above, below, expected):
    check = dataclasses.replace(claims.CHECKS[0], above=above, below=below)
    assert check.verdict(checks.Measurement((low + high) / 2, low, high, 1, "")) == expected


def test_roles_of_checkpoints():
    names, multiples = ["p04", "p08", "p20", "p88"], [0.1, 0.2, 0.5, 2.2]
    chosen = {role: checks.choose(role, names, multiples) for role in checks.ROLES if role != "shared"}
    assert chosen == {
        "early": ["p08"],
        "turn": ["p20"],
        "later": ["p20", "p88"],
        "under-trained": ["p04", "p08", "p20"],
        "last": ["p88"],
        "all": names,
    }
    assert checks.choose("later", ["p02", "p04"], [0, 0]) == checks.choose("early", ["p02", "p04"], [0, 0]) == ["p04"]


def test_a_study_like_the_paper_supports_its_claims(evaluated):
    verdicts = {claim.id: claim.verdict for claim in evaluated}
    unmeasured = {"seeds-matter-early", "seeds-agree-later", "data-over-size"}
    assert {id for id, found in verdicts.items() if found == "inconclusive"} == unmeasured
    assert {id for id, found in verdicts.items() if found == "not supported"} == set()
    for claim in evaluated:
        assert (claim.effect is None) == (claim.ci_low is None) == (claim.id in unmeasured)
        if claim.effect is not None:
            assert claim.ci_low <= claim.effect <= claim.ci_high and claim.n_seeds == 1
        else:
            assert claim.note.startswith("not measured: needs")


def test_a_study_of_the_opposite_kind_refutes_them():
    opposite = {
        "base": (0.60, 0.60, 0.50, 0.50, 50),
        "rl": (0.30, 0.30, 0.20, 0.20, 40),
        "sft": (0.55, 0.50, 0.30, 0.30, 50),
        "sft_gold": (0.20, 0.50, 0.30, 0.30, 50),
        "sft_rl": (0.80, 0.80, 0.10, 0.10, 40),
        "sft_gold_rl": (0.40, 0.40, 0.30, 0.30, 40),
        "parallel": (0.40, 0.60, 0.30, 0.30, 30),
    }
    found = by_id(study(opposite))
    holds = {"sft-rl-raises-pass1"}
    unmeasured = {"seeds-matter-early", "seeds-agree-later", "data-over-size"}
    refuted = {id for id, claim in found.items() if claim.verdict == "not supported"}
    assert refuted == set(found) - holds - unmeasured


def test_nothing_is_supported_where_recipes_do_not_differ():
    """Claims of a difference, on recipes that are all the same; claims of no difference hold."""
    found = by_id(study(dict.fromkeys(RECIPES, (0.5, 0.5, 0.3, 0.3, 50))))
    same = {"rl-matches-sft-rl", "rl-matches-sft-rl-early", "rl-competitive-pass32"}
    assert {id for id, claim in found.items() if claim.verdict == "supported"} - same == {
        "rl-keeps-general",
        "parallel-keeps-general",
    }


def test_an_effect_is_the_mean_over_checkpoints_of_the_paired_difference(paper_like, evaluated):
    claim = next(claim for claim in evaluated if claim.id == "rl-beats-sft-pass1")
    rows = paper_like.outcomes.query("benchmark == 'easy' and checkpoint != 'p08'")
    accuracy = 100 * (rows["correct"] / rows["n"]).groupby(rows["recipe"]).mean()
    assert claim.effect == pytest.approx(accuracy["rl"] - accuracy["sft"], abs=0.006)
    assert claim.note == "at p20, p56, p88"
    values = [
        estimates.per_question(rows[rows["recipe"] == recipe], 1, ["checkpoint", "seed"]).mean().to_numpy()[None]
        for recipe in ("rl", "sft")
    ]
    paired = statistics.difference_interval(*values, "nano", "easy")
    assert (claim.ci_low, claim.ci_high) == (round(100 * paired.low, 2), round(100 * paired.high, 2))
    shuffled = np.random.default_rng(0).permutation(values[1], axis=1)
    unpaired = statistics.difference_interval(values[0], shuffled, "nano", "easy")
    assert unpaired.high - unpaired.low > 1.2 * (paired.high - paired.low)


def test_all_of_several_contrasts_have_to_hold(paper_like):
    """Parallel averaging above rl and sft but below sft_rl is not the best."""
    world = PAPER_LIKE | {"sft_rl": (0.95, 0.8, 0.5, 0.5, 40)}
    claim = by_id(study(world), "parallel_averaging")["parallel-best-pass32"]
    assert claim.verdict == "not supported" and claim.effect < 0


def test_the_other_scale_has_other_benchmark_names_and_two_checkpoints_are_enough(evaluated):
    tables = study(PAPER_LIKE, tokens={"p40": 36, "p88": 88}, names=("gsm8k", "math"))
    found = by_id(tables)
    assert found["rl-effective-early"].verdict == "supported" and found["rl-effective-early"].note == "at p40"
    assert found["rl-gains-on-hard"].verdict == "supported"
    assert {claim.id for claim in evaluated if claim.effect is None} == {
        id for id, claim in found.items() if claim.effect is None
    }


def test_too_few_samples_missing_recipes_and_late_checkpoints_are_told():
    few = by_id(study(PAPER_LIKE, samples=8))
    assert few["rl-competitive-pass32"].note == "not measured: pass@32 needs 32 samples per question, there are 8"
    assert few["rl-beats-sft-pass1"].verdict == "supported"
    world = {recipe: found for recipe, found in PAPER_LIKE.items() if recipe != "parallel"}
    without = by_id(study(world), "parallel_averaging")
    for claim in without.values():
        assert (claim.verdict, claim.effect, claim.n_seeds) == ("inconclusive", None, 0)
        assert "parallel" in claim.note
    late = by_id(dataclasses.replace(study(PAPER_LIKE), parameters={"main": 0.1}), "early_rl")
    assert late["rl-before-chinchilla"].effect is None


def test_seeds_that_differ_early_and_agree_later_are_found():
    def brittle(checkpoint, seed):
        return PAPER_LIKE["rl" if seed == 2 or checkpoint != "p08" else "base"]

    lucky = PAPER_LIKE | {"rl": brittle}
    found = by_id(study(lucky, seeds=(0, 1, 2)), "early_rl")
    early, later = found["seeds-matter-early"], found["seeds-agree-later"]
    assert early.verdict == later.verdict == "supported" and early.n_seeds == 3
    assert early.effect > 20 and abs(later.effect) < 3 and later.note == "at p20"
    assert found["rl-effective-early"].n_seeds == 3
    # an interval over seeds that differ so much is wider than one over questions
    one = by_id(study(lucky, seeds=(2,)), "early_rl")["rl-effective-early"]
    many = found["rl-effective-early"]
    assert many.ci_high - many.ci_low > 2 * (one.ci_high - one.ci_low)


def test_data_against_size_is_measured_where_the_suites_have_the_same_tokens():
    main = study(PAPER_LIKE)
    heavy = study(PAPER_LIKE | {"rl": (0.8, 0.8, 0.6, 0.8, 50)}, tokens={"p20": 24, "p80": 96}, suite="math_heavy")
    larger = study(PAPER_LIKE | {"base": (0.4, 0.4, 0.2, 0.3, 50)}, tokens={"p50": 25, "p90": 45}, suite="larger")
    tables = results.Tables(
        "nano",
        pd.concat([main.outcomes, heavy.outcomes, larger.outcomes]),
        pd.concat([main.general, heavy.general, larger.general]),
        main.parameters | heavy.parameters | larger.parameters,
    )
    claim = by_id(tables, "early_rl")["data-over-size"]
    assert claim.verdict == "supported" and claim.note == "math_heavy at p20, larger at p50"
    hard = tables.outcomes[tables.outcomes["benchmark"] == "hard"]
    accuracy = 100 * (hard["correct"] / hard["n"]).groupby([hard["suite"], hard["checkpoint"], hard["recipe"]]).mean()
    gains = accuracy.xs("rl", level="recipe") - accuracy.xs("base", level="recipe")
    assert claim.effect == pytest.approx(gains["math_heavy", "p20"] - gains["larger", "p50"], abs=0.006)
    only_main = {claim.id: claim for claim in claims.evaluate_claims(main)}
    assert by_id(tables) == only_main | {"data-over-size": claim}  # other suites change nothing else


def test_published_numbers_get_the_same_checks(evaluated):
    found = {claim.id: claim for claim in evaluated}
    # figure values: 15.44 - 2.4261 at 4B; gold -> RL 60.33 against RL 55.85 at 44B; seeds at 10B: 28.32 and
    # 5.32
    assert found["rl-effective-early"].published_effect == pytest.approx(13.01, abs=0.01)
    assert found["sft-gold-rl-best-pass1"].published_effect == pytest.approx(4.48, abs=0.01)
    assert found["seeds-agree-later"].published_effect == pytest.approx(23.0, abs=0.01)
    assert found["seeds-agree-later"].published_verdict == "not supported"
    assert found["parallel-keeps-general"].published_note == "at p12, p20, p40, p56, p88"
    assert "several solutions" in found["rl-below-sft-rl-on-hard"].published_note
    binomial = 196 * math.sqrt(0.1544 * 0.8456 / 1319 + 0.024261 * 0.975739 / 1319)
    assert found["rl-effective-early"].published_ci_high - 13.0139 == pytest.approx(binomial, abs=0.02)
    assert all(claim.published_effect is not None for claim in evaluated)


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
    keys = ["id", "claim", "source", "figure", "n_seeds", "effect", "ci_low", "ci_high", "verdict"]
    rows = json.loads(json.dumps([claim.row() for claim in evaluated], allow_nan=False))
    assert all(list(row) == keys for row in rows)
    assert {row["verdict"] for row in rows} <= {"supported", "not supported", "inconclusive"}


def test_claims_are_written_merged_and_the_same_every_time(tmp_path, evaluated, capsys):
    for root in (tmp_path / "a", tmp_path / "b"):
        for figure in claims.FIGURES:
            of_figure = [claim for claim in evaluated if claim.figure == figure]
            claims.write_claims(root, "nano", figure, of_figure)
        assert claims.load_claims(root, "nano") == evaluated
        claims.write_claims_markdown(root, ("nano",))
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == len(claims.FIGURES) + 1
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)
    text = (tmp_path / "a" / "CLAIMS.md").read_text(encoding="utf-8")
    for claim in evaluated:
        assert claim.claim in text and f"reports/nano/{claim.figure}.html" in text
    for table in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1, table
    claims.print_claims(evaluated)
    assert capsys.readouterr().out.count("\n") == len(evaluated)
    assert list(claims.claims_table(evaluated).index) == [claim.id for claim in evaluated]


def test_missing_and_damaged_claims_are_errors(tmp_path, paper_like, evaluated):
    with pytest.raises(UserError, match="early_rl.json does not exist.*dvc repro"):
        claims.load_claims(tmp_path, "nano")
    file = claims.claims_file(tmp_path, "nano", "early_rl")
    file.parent.mkdir(parents=True)
    file.write_text('[{"id": "x"}]')
    with pytest.raises(UserError, match="early_rl.json is not a list of claims"):
        claims.load_claims(tmp_path, "nano")
    with pytest.raises(UserError, match="no claims of a figure 'early'.*early_rl"):
        claims.evaluate_claims(paper_like, "early")


def test_claims_are_made_from_a_results_folder(tmp_path, paper_like, evaluated):
    """What write_run stores is what the claims read; the order of rows and files does not matter."""
    run = dict.fromkeys(results.RUN_KEYS, 0)
    shuffled = paper_like.outcomes.sample(frac=1, random_state=0)
    for (checkpoint, recipe), outcomes in shuffled.groupby(["checkpoint", "recipe"]):
        general = paper_like.general
        general = general[(general["checkpoint"] == checkpoint) & (general["recipe"] == recipe)]
        folder = results.run_folder(tmp_path, "nano", "main", checkpoint, recipe, 0)
        results.write_run(folder, outcomes, general, pd.DataFrame(), [], run)
    suite = tmp_path / "checkpoints" / "nano" / "main" / "suite.json"
    suite.parent.mkdir(parents=True)
    suite.write_text(json.dumps({"parameters": 2, "tokens": TOKENS, "total_tokens": 100}))
    assert claims.evaluate_claims(results.load_tables(tmp_path, "nano")) == evaluated
