"""The figures show what the tables have and no more, look the same everywhere, and have the same bytes every time."""

import dataclasses
import itertools

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from synthetic import make_study

from excursions.findings import curves, figures, headlines, plotting, report
from excursions.findings.plotting import LOOKS
from excursions.params import RECIPES, UserError
from excursions.results import tables as results

WEIGHTS = [("main", "sft", 0.0), ("weight-25", "parallel", 0.25), ("main", "parallel", 0.5), ("main", "rl", 1.0)]
WEIGHTS += [("weight-linear", "parallel", curves.FROM_0_TO_1)]
ROLLOUTS = {"rollouts-5-easy": 5, "rollouts-5-hard": 5, "rollouts-64-easy": 64, "rollouts-64-hard": 64}
SHOTS = [("main", "base", 2.0), ("shots-0", "base", 0.0)]


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    root = make_study(tmp_path_factory.mktemp("study"), seeds=(0, 1))
    make_study(root, ("p20",), ("parallel",), (0, 1), suite="weight-25")
    make_study(root, ("p20",), ("parallel",), (0, 1), suite="weight-linear")
    make_study(root, ("p20",), ("base",), suite="shots-0")
    for suite, rollouts in ROLLOUTS.items():
        make_study(root, ("p20",), ("rl",), (0, 1), suite=suite, rollouts=rollouts)
    return dataclasses.replace(plain(results.load_tables(root, "nano")), floors={("easy", 1): 0.1, ("easy", 32): 3.0})


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    names = ("p04", "p08", "p12", "p20", "p24", "p28", "p40", "p56", "p88")
    return plain(results.load_tables(make_study(tmp_path_factory.mktemp("study"), names), "nano"))


def plain(tables):
    """Tables in memory, to be changed."""
    return results.Tables(tables.scale, tables.outcomes, tables.general, tables.parameters, tables.training)


def root_of(tables, tmp_path):
    """A folder with the run.json of suites with other numbers of rollouts."""
    for suite, rollouts in ROLLOUTS.items():
        if suite in tables.parameters:
            make_study(tmp_path, ("p20",), ("rl",), suite=suite, rollouts=rollouts)
    return tmp_path


def draw_all(tables, root):
    pairs = [*curves.pairs_with_base(), ("rl", "sft"), ("rl", "sft_gold"), ("sft_rl", "sft")]
    pairs += [("parallel", other) for other in ("rl", "sft", "sft_rl")]
    points, changes, floors = curves.pass_at_k(tables), curves.gains(tables, pairs), tables.floors
    general, lost = curves.general(tables), curves.general_gains(tables)
    varied = {"shots": curves.varied(tables, SHOTS), "epochs": curves.varied(tables, [("main", "sft", 5.0)])}
    varied["KL"] = curves.varied(tables, [("main", "rl", 0.0)])
    return {
        "checkpoints": figures.checkpoints(points, general, floors),
        "early_rl": figures.early_rl(points, changes, floors),
        "scarce_demonstrations": figures.scarce_demonstrations(points, changes, floors),
        "suite": figures.suite(points, changes, floors),
        "general_capabilities": figures.general_capabilities(general, lost),
        "parallel_averaging": figures.parallel_averaging(points, lost, changes, floors),
        "sharpening": figures.sharpening_or_expansion(curves.dynamics(tables), curves.logs(tables), changes),
        "phase_map": figures.phase_map(curves.phases(tables)),
        "reward_gaming": figures.reward_gaming(curves.gaming(tables)),
        "combination": figures.combination(curves.varied(tables, WEIGHTS)),
        "ablations": figures.ablations(curves.rollouts(tables, root), varied),
    }


def said(figure):
    """All that is written outside the panels."""
    return " ".join(text.get_text().replace("\n", " ") for text in figure.texts)


def test_every_recipe_has_its_own_colour_and_marker():
    assert set(LOOKS) == {*RECIPES, curves.ZERO_SHOT}
    for kind in ("color", "label"):
        assert len({getattr(look, kind) for look in LOOKS.values()}) == len(LOOKS)
    for one, other in (("sft", "sft_gold"), ("rl", "sft_gold_rl")):  # told apart by colour, marker and dash
        for kind in ("color", "marker", "dashes"):
            assert getattr(LOOKS[one], kind) != getattr(LOOKS[other], kind)


@pytest.mark.parametrize("study", ["tables", "many"])
def test_all_figures_are_labelled_and_no_text_touches_another(study, request, tmp_path):
    study = request.getfixturevalue(study)
    for name, figure in draw_all(study, root_of(study, tmp_path)).items():
        FigureCanvasAgg(figure)
        figure.draw_without_rendering()  # places the texts
        width, height = figure.bbox.size
        texts = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
        for axes in figure.axes:
            assert axes.get_xlabel(), name
            texts += [axes.xaxis.label, axes.yaxis.label, axes._left_title]
            texts += [] if name == "phase_map" else axes.texts  # of its cells they are as wide as the cell
            texts += [label for label in (*axes.get_xticklabels(), *axes.get_yticklabels()) if in_view(axes, label)]
        boxes = [(text.get_text(), text.get_window_extent()) for text in texts if text.get_text().strip()]
        for text, box in boxes:
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, (name, text)
        for (one, a), (other, b) in itertools.combinations(boxes, 2):
            apart = a.x1 <= b.x0 + 1 or b.x1 <= a.x0 + 1 or a.y1 <= b.y0 + 1 or b.y1 <= a.y0 + 1
            assert apart, (name, one, other)


def in_view(axes, label):
    """Tick labels outside the limits exist as texts but are not drawn."""
    box, frame = label.get_window_extent(), axes.get_window_extent()
    x, y = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
    return frame.x0 - 1 <= x <= frame.x1 + 1 if y < frame.y0 else frame.y0 - 1 <= y <= frame.y1 + 1


def early_rl(tables):
    points = curves.pass_at_k(tables, ["base", curves.ZERO_SHOT, "rl"])
    return points, figures.early_rl(points, curves.gains(tables, [("rl", "base")]), tables.floors)


def test_the_curves_are_the_table_and_share_an_axis_with_the_papers(tables):
    points, figure = early_rl(tables)
    shown = points[(points["recipe"] == "rl") & (points["role"] == "easy") & (points["k"] == 8)]
    drawn = [line.get_ydata() for line in figure.axes[1].lines]
    for _, run in shown.assign(seed=shown["seed"].fillna(-1)).groupby("seed"):  # the mean and each seed
        assert any(len(line) == 2 and np.allclose(line, run.sort_values("tokens")["estimate"]) for line in drawn)
    for column in range(5):
        ours, theirs = figure.axes[column], figure.axes[5 + column]
        assert ours.get_ylim() == theirs.get_ylim() and ours.get_xlim() == theirs.get_xlim()
    assert figure.axes[0].get_ylim()[0] < 0  # a marker at 0% is not cut in half
    floors = [[line for line in axes.lines if list(line.get_ydata()) == [0.1, 0.1]] for axes in figure.axes[0:6:5]]
    assert [len(lines) for lines in floors] == [1, 0]  # what guessing scores is not known of GSM8K


def test_the_line_of_a_seed_ends_where_it_has_no_run():
    runs = [(1, 0, 10.0), (2, 1, 20.0), (4, 0, 40.0)] + [(x, np.nan, 10.0 * x) for x in (1, 2, 4)]
    points = pd.DataFrame(runs, columns=["x", "seed", "estimate"]).assign(ci_low=0.0, ci_high=50.0)
    axes = matplotlib.figure.Figure().add_subplot()
    plotting.curve(axes, points, LOOKS["rl"])
    first, second, mean = (line.get_ydata() for line in axes.lines)
    np.testing.assert_equal(first, [10, np.nan, 40])
    np.testing.assert_equal(second, [np.nan, 20, np.nan])
    np.testing.assert_equal(mean, [10, 20, 40])
    assert axes.lines[1].get_marker() == "."  # a single point is no line


def test_the_title_is_what_the_numbers_say(tables):
    changes = curves.gains(tables, [("rl", "base")])
    gained = changes[(changes["role"] == "easy") & (changes["k"] == 1)]
    assert f"pass@1 {headlines.moved(gained)}" in said(early_rl(tables)[1])
    up = pd.DataFrame({"estimate": [5, 3, 0], "ci_low": [4, 2, -1], "ci_high": [6, 4, 1], "chinchilla": [0.2, 0.5, 1]})
    assert headlines.moved(up) == "rises at 2 of 3 checkpoints"
    assert (
        headlines.moved(-up.rename(columns={"ci_low": "ci_high", "ci_high": "ci_low"})) == "falls at 2 of 3 checkpoints"
    )
    assert headlines.moved(up[2:]) == "changes measurably at none of 1 checkpoint"
    assert headlines.moved(up[:0]) == "is not measured"
    assert "no checkpoint" in headlines.onset(up) and "0.2×" in headlines.onset(up[:2])


@pytest.mark.parametrize("multiples", [[0.06, 743.0], [0.1, 2.2], [0.5], [1e-4, 2e4]])
def test_ticks_of_any_suite_can_be_read(multiples):
    axes = matplotlib.figure.Figure().add_subplot()
    plotting.tokens_axis([axes], [pd.Series(multiples)])
    assert 1 <= len(axes.get_xticks()) <= 6


def test_bytes_are_the_same_whatever_was_drawn_before(tables, tmp_path):
    plotting.save(early_rl(tables)[1], tmp_path / "one")
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "none", "axes.facecolor": "red"}):
        plotting.save(early_rl(tables)[1], tmp_path / "other")
    for kind in ("svg", "png"):
        assert (tmp_path / f"one.{kind}").read_bytes() == (tmp_path / f"other.{kind}").read_bytes()
    svg = (tmp_path / "one.svg").read_text()
    assert "<text" not in svg and "<dc:date>" not in svg and "Matplotlib v" not in svg


def test_a_failed_save_leaves_the_old_figure(tables, tmp_path, monkeypatch):
    figure = figures.combination(curves.varied(tables, WEIGHTS))
    (tmp_path / "one.svg").write_text("old")
    monkeypatch.setattr(figure, "savefig", lambda *a, **k: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError):
        plotting.save(figure, tmp_path / "one")
    assert (tmp_path / "one.svg").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def without(tables, **gone):
    """Tables that lack the rows with these values, some of each column."""
    kept = {}
    for name in ("outcomes", "general", "training"):
        table = getattr(tables, name)
        lost = np.logical_and.reduce([table[column].isin(values) for column, values in gone.items()])
        kept[name] = table[~lost]
    return dataclasses.replace(tables, **kept)


@pytest.mark.parametrize(
    ("recipes", "checkpoints", "figure", "words"),
    [
        (["base"], None, "checkpoints", "base"),
        (["rl", "sft_gold"], None, "early_rl", "RL"),
        (["sft", "sft_gold_rl"], None, "parallel_averaging", "SFT"),
        (["sft_rl", "parallel"], None, "scarce_demonstrations", "SFT → RL"),
        (["sft"], ["p20"], "parallel_averaging", "SFT (one solution) at 0.44×"),
    ],
)
def test_what_is_missing_leaves_a_gap_and_a_note(tables, tmp_path, recipes, checkpoints, figure, words):
    gone = {"recipe": recipes, "suite": ["main"]} | ({"checkpoint": checkpoints} if checkpoints else {})
    made = draw_all(without(tables, **gone), root_of(tables, tmp_path))
    assert f"Not measured yet: {words}" in said(made[figure])


def test_a_suite_of_one_recipe_can_be_drawn(tables, tmp_path):
    alone = without(tables, recipe=["base", "rl", "sft", "sft_gold", "sft_rl", "sft_gold_rl"])
    made = draw_all(alone, root_of(tables, tmp_path))
    shown = made["sharpening"]
    assert "nothing measured yet" in said(shown)
    assert sum("not measured" in [text.get_text() for text in axes.texts] for axes in shown.axes) == 5


def test_few_samples_and_no_checked_steps_are_enough(tables, tmp_path):
    few = results.load_tables(make_study(tmp_path, ["p20"], samples=8), "nano")
    few = dataclasses.replace(plain(few), outcomes=few.outcomes.assign(valid=pd.NA))
    for name, figure in draw_all(few, tmp_path).items():
        if name in ("early_rl", "parallel_averaging", "reward_gaming", "combination"):
            assert "not measured" in [text.get_text() for axes in figure.axes for text in axes.texts], name


def test_dynamics_compare_the_same_questions_at_every_step(tables):
    dynamics = curves.dynamics(tables)
    mean = dynamics[dynamics["seed"].isna()]
    assert set(mean["n_questions"]) == {6}
    rl = mean[(mean["checkpoint"] == "p20") & (mean["pipeline"] == "rl") & (mean["k"] == 1)]
    assert list(zip(rl["stage"], rl["rl_step"], rl["n_seeds"], strict=True)) == [
        ("base", 0, 2),
        (curves.ZERO_SHOT, 0, 2),
        ("rl", 10, 2),
        ("rl", 20, 2),
    ]
    rows = tables.outcomes.query("suite == 'main' and checkpoint == 'p20' and recipe == 'rl' and step == 20")
    rows = rows[rows["question_id"].isin([f"easy-{i:04d}" for i in range(6)])]
    assert rl["estimate"].iloc[-1] == pytest.approx(100 * (rows["correct"] / rows["n"]).mean())
    after = mean[(mean["checkpoint"] == "p20") & (mean["pipeline"] == "sft_rl") & (mean["k"] == 1)]
    assert after["stage"].tolist() == ["base", "sft", "rl", "rl"]


def test_base_0shot_is_where_every_recipe_starts(tables):
    points = curves.pass_at_k(tables)
    for recipe in curves.DIRECT:
        start = tables.outcomes[(tables.outcomes["recipe"] == recipe) & (tables.outcomes["suite"] == "main")]
        start = start[(start["step"] == 0) & (start["checkpoint"] == "p88") & (start["benchmark"] == "hard")]
        zero = points[
            (points["recipe"] == curves.ZERO_SHOT) & (points["checkpoint"] == "p88") & (points["role"] == "hard")
        ]
        assert zero["estimate"].iloc[0] == pytest.approx(100 * (start["correct"] / start["n"]).mean())


def test_gains_and_phases_are_paired_differences(tables):
    gains = curves.gains(tables, [("rl", "sft"), ("rl", "base")])
    points = curves.pass_at_k(tables)
    level = points[points["seed"].isna()].set_index(["recipe", "checkpoint", "benchmark", "k"])["estimate"]
    assert len(gains) == 2 * 2 * 2 * 3  # pairs, checkpoints, benchmarks, k
    for row in gains.to_dict("records"):
        at = (row["checkpoint"], row["benchmark"], row["k"])
        assert row["estimate"] == pytest.approx(level[("rl", *at)] - level[(row["other"], *at)], abs=1e-6)
        assert row["ci_low"] <= row["estimate"] <= row["ci_high"]
    phases = curves.phases(tables).set_index(["start", "checkpoint", "rl_step", "measure"])["estimate"]
    last = gains[(gains["other"] == "base") & (gains["role"] == "easy")].set_index(["checkpoint", "k"])["estimate"]
    assert phases["few-shot", "p88", 20, "pass@32"] == pytest.approx(last["p88", 32])
    assert phases["0-shot", "p88", 20, "entropy"] < 0


def test_general_gains_are_paired_on_the_items(tables):
    changes = curves.general_gains(tables, ["sft"]).set_index(["checkpoint", "benchmark"])
    level = curves.general(tables, ["base", "sft"]).set_index(["recipe", "checkpoint", "benchmark"])["estimate"]
    for at, row in changes.iterrows():
        assert row["estimate"] == pytest.approx(level[("sft", *at)] - level[("base", *at)])
    unpaired = np.hypot(*(0.5 * np.sqrt(0.25 / 50) for _ in range(2))) * 100
    width = changes.loc["p88", "ci_high"] - changes.loc["p88", "ci_low"]
    assert (width > 0).all() and width["average"] < 2 * 12.7 * unpaired  # two seeds: a t of one degree of freedom


def test_right_is_derived_or_not(tables):
    points = curves.gaming(tables)
    shares = points[points["measure"] != "change"]
    wide = shares.assign(seed=shares["seed"].fillna(-1)).pivot(
        index=["checkpoint", "recipe", "rl_step", "seed", "is_end"], columns="measure", values="estimate"
    )
    np.testing.assert_allclose(wide["correct"] - wide["valid"], wide["gap"], atol=1e-6)
    rows = tables.outcomes.query("suite == 'main' and benchmark == 'easy' and checkpoint == 'p20' and recipe == 'rl'")
    rows = rows[(rows["step"] == 20) & (rows["seed"] == 1)]
    share = 100 * (rows["valid"].astype(float) / rows["n"]).mean()
    assert wide.loc[("p20", "rl", 20, 1, True), "valid"] == pytest.approx(share)
    along = rows[rows["question_id"].isin(tables.outcomes.query("step == 10")["question_id"])]  # asked at every step
    assert len(along) == len(rows) / 2
    share = 100 * (along["valid"].astype(float) / along["n"]).mean()
    assert wide.loc[("p20", "rl", 20, 1, False), "valid"] == pytest.approx(share)
    every = tables.outcomes.query("suite == 'main' and benchmark == 'easy' and checkpoint == 'p20' and recipe == 'rl'")
    gap = 100 * ((every["correct"] - every["valid"]).astype(float) / every["n"]).groupby(every["step"]).mean()
    (change,) = points.query("checkpoint == 'p20' and recipe == 'rl' and measure == 'change'")["estimate"]
    assert change == pytest.approx(gap[20] - gap[0])


def test_what_the_last_quarter_adds_is_of_the_same_questions(tables):
    gains = curves.late_gains(tables, ["rl", "parallel"]).set_index(["checkpoint", "recipe"])
    rows = tables.outcomes.query("suite == 'main' and benchmark == 'easy' and checkpoint == 'p20' and recipe == 'rl'")
    common = rows[rows["question_id"].isin(rows.query("step == 10")["question_id"])]
    mean = 100 * (common["correct"] / common["n"]).groupby(common["step"]).mean()
    assert gains.loc[("p20", "rl"), "estimate"] == pytest.approx(mean[20] - mean[10]) and len(gains) == 4
    said = headlines.still_rising(gains.reset_index())
    assert "under RL it " in said and "under parallel averaging it " in said and "2 checkpoints" in said


def test_settings_are_compared_between_suites(tables, tmp_path):
    points = curves.varied(tables, WEIGHTS)
    solved = points[(points["role"] == "easy") & (points["k"] == 1) & points["seed"].isna()]
    assert sorted(solved.loc[solved["checkpoint"] == "p20", "value"]) == [0, 0.25, 0.5, 1, curves.FROM_0_TO_1]
    parallel = curves.pass_at_k(tables, ["parallel"], "weight-25").query("role == 'easy' and k == 1 and seed.isna()")
    assert solved.loc[solved["value"] == 0.25, "estimate"].tolist() == parallel["estimate"].tolist()
    assert set(points.loc[points["k"] == 0, "role"]) == {"general"}
    own = dataclasses.replace(tables, parameters=tables.parameters | {"rollouts-8": tables.parameters["main"]})
    runs = curves.rollouts(own, root_of(tables, tmp_path))  # a suite of one's own beside those of the ablation
    assert (runs["answers"] == runs["questions"] * runs["rollouts"]).all()
    assert set(runs["questions"]) == {320, 640} and set(runs["rollouts"]) == {5, 64}
    assert (runs["suite"].astype(str).str.split("-").str[2] == runs["role"]).all() and runs["role"].nunique() == 2
    with pytest.raises(UserError, match="no suite with results 'weight-26'.*Did you mean 'weight-25'"):
        curves.pass_at_k(tables, suite="weight-26")


def test_a_change_is_called_what_its_intervals_say():
    def cell(step, low1, high1, low32, high32):
        about = {
            "start": "0-shot",
            "recipe": "rl",
            "checkpoint": "p20",
            "tokens": 1,
            "chinchilla": 0.1,
            "rl_step": step,
        }
        return [
            about | {"measure": f"pass@{k}", "ci_low": low, "ci_high": high}
            for k, low, high in ((1, low1, high1), (32, low32, high32))
        ]

    rows = cell(1, 1, 2, 1, 2) + cell(2, 1, 2, -2, -1) + cell(3, 1, 2, -1, 1) + cell(4, -1, 1, 1, 2)
    assert headlines.phase_kinds(pd.DataFrame(rows))["kind"].tolist() == list(headlines.KINDS)


def test_a_suite_is_shown_under_its_own_name(tables, tmp_path):
    figure = figures.combination(curves.varied(tables, WEIGHTS))
    page = report.show(figure, tmp_path, "nano", "suite", 'a"b').data
    assert (tmp_path / "figures" / "nano" / 'suite_a"b.svg').is_file()
    assert 'aria-label="By the weight of RL, easy problems' in page  # what is seen, for those who do not see it


def test_a_table_shows_estimates_with_intervals_in_the_order_of_the_rows():
    rows = pd.DataFrame(
        {
            "recipe": ["rl", "base"],
            "k": [8, 8],
            "estimate": [12.34, 5],
            "ci_low": [10, 4.0],
            "ci_high": [14.0, 6],
        }
    )
    shown = report.table(rows, ["recipe"], ["k"], "a & b").data
    assert "<caption>a &amp; b</caption>" in shown and "12.3\xa0[10.0,\xa014.0]" in shown and "pass@8" in shown
    assert shown.index(">RL<") < shown.index(">base (few-shot)<")
