"""The figures show the tables' numbers, look the same everywhere, and have the same bytes every time."""

import itertools

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from synthetic import PARAMETERS, make_study

from excursions.findings import figures, plotting, report
from excursions.findings.plotting import LOOKS
from excursions.params import RECIPES, UserError
from excursions.results import tables as results


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return results.load_tables(make_study(tmp_path_factory.mktemp("study"), seeds=(0, 1)), "nano")


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    names = ("p04", "p08", "p12", "p20", "p24", "p28", "p40", "p56", "p88")
    return results.load_tables(make_study(tmp_path_factory.mktemp("study"), names), "nano")


def draw_all(tables, checkpoint="p20"):
    pass_at_k, general = report.pass_at_k(tables), report.general(tables)
    return {
        "checkpoints": figures.checkpoints(pass_at_k, general, PARAMETERS),
        "early_rl": figures.early_rl(pass_at_k, PARAMETERS),
        "scarce_demonstrations": figures.scarce_demonstrations(pass_at_k, PARAMETERS),
        "sharpening_or_expansion": figures.sharpening_or_expansion(report.dynamics(tables, checkpoint)),
        "suite": figures.suite(pass_at_k, PARAMETERS),
        "general_capabilities": figures.general_capabilities(general, PARAMETERS),
        "parallel_averaging": figures.parallel_averaging(pass_at_k, general, PARAMETERS),
    }


def test_every_recipe_has_its_own_colour_and_marker():
    assert set(LOOKS) == set(RECIPES)
    for kind in ("color", "marker", "label"):
        assert len({getattr(look, kind) for look in LOOKS.values()}) == len(RECIPES)


@pytest.mark.parametrize("study", ["tables", "many"])
def test_all_figures_are_labelled_and_no_text_touches_another(study, request):
    for name, figure in draw_all(request.getfixturevalue(study)).items():
        FigureCanvasAgg(figure)
        figure.draw_without_rendering()  # places the texts
        width, height = figure.bbox.size
        texts = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
        for axes in figure.axes:
            assert axes.get_xlabel() and "%" in axes.get_ylabel(), name
            texts += [axes.xaxis.label, axes.yaxis.label, axes._left_title, *axes.texts]
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


def test_the_curves_are_the_table(tables):
    pass_at_k = report.pass_at_k(tables)
    figure = figures.early_rl(pass_at_k, PARAMETERS)
    wanted = pass_at_k[(pass_at_k["recipe"] == "rl") & (pass_at_k["benchmark"] == "easy") & (pass_at_k["k"] == 8)]
    line = next(line for line in figure.axes[1].lines if line.get_color() == LOOKS["rl"].color)
    np.testing.assert_allclose(line.get_xdata(), wanted["tokens"] / (20 * PARAMETERS))
    np.testing.assert_allclose(line.get_ydata(), wanted["estimate"])
    assert line.get_marker() == LOOKS["rl"].marker
    assert {axes.get_xlim() for axes in figure.axes} == {figure.axes[0].get_xlim()}  # ours and the paper's agree


def test_bytes_are_the_same_whatever_was_drawn_before(tables, tmp_path):
    pass_at_k = report.pass_at_k(tables)
    plotting.save(figures.early_rl(pass_at_k, PARAMETERS), tmp_path / "one")
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "none", "axes.facecolor": "red"}):
        plotting.save(figures.early_rl(pass_at_k, PARAMETERS), tmp_path / "other")
    for kind in ("svg", "png"):
        assert (tmp_path / f"one.{kind}").read_bytes() == (tmp_path / f"other.{kind}").read_bytes()
    svg = (tmp_path / "one.svg").read_text()
    assert "<text" not in svg and "<dc:date>" not in svg and "Matplotlib v" not in svg


def test_a_failed_save_leaves_the_old_figure(tables, tmp_path, monkeypatch):
    figure = figures.sharpening_or_expansion(report.dynamics(tables, "p88"))
    (tmp_path / "one.svg").write_text("old")
    monkeypatch.setattr(figure, "savefig", lambda *a, **k: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError):
        plotting.save(figure, tmp_path / "one")
    assert (tmp_path / "one.svg").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_one_checkpoint_and_few_samples_are_enough(tmp_path):
    tables = results.load_tables(make_study(tmp_path, ["p20"], samples=8), "nano")
    for name, figure in draw_all(tables).items():
        if name in ("early_rl", "scarce_demonstrations", "parallel_averaging"):
            assert "not measured" in [text.get_text() for axes in figure.axes for text in axes.texts]


def test_a_gap_in_a_recipe_is_drawn_and_a_missing_recipe_is_named(tables):
    pass_at_k, general = report.pass_at_k(tables), report.general(tables)
    gap = (pass_at_k["recipe"] == "sft_rl") & (pass_at_k["checkpoint"] == "p20")
    figures.scarce_demonstrations(pass_at_k[~gap], PARAMETERS)
    with pytest.raises(UserError, match="scarce_demonstrations.*no recipe sft_gold, sft_gold_rl.*params.yaml"):
        figures.scarce_demonstrations(pass_at_k[~pass_at_k["recipe"].str.startswith("sft_gold")], PARAMETERS)
    with pytest.raises(UserError, match="parallel_averaging.*parallel"):
        figures.parallel_averaging(pass_at_k, general[general["recipe"] != "parallel"], PARAMETERS)


def test_dynamics_compare_the_same_questions_at_every_step(tables):
    dynamics = report.dynamics(tables, "p20")
    assert set(dynamics["n_questions"]) == {6} and set(dynamics["n_seeds"]) == {2}
    rl = dynamics[(dynamics["pipeline"] == "rl") & (dynamics["k"] == 1)]
    assert sorted(zip(rl["stage"], rl["rl_step"], rl["zero_shot"], strict=True)) == [
        ("base", 0, False),
        ("rl", 0, True),
        ("rl", 10, False),
        ("rl", 20, False),
    ]
    rows = tables.outcomes.query("checkpoint == 'p20' and recipe == 'rl' and step == 20 and benchmark == 'easy'")
    rows = rows[rows["question_id"].isin([f"easy-{i}" for i in range(6)])]
    assert rl["estimate"].iloc[-1] == pytest.approx(100 * (rows["correct"] / rows["n"]).mean())
    with pytest.raises(UserError, match="no checkpoint.*'p21'.*p20, p88"):
        report.dynamics(tables, "p21")


def test_gains_are_paired_differences(tables):
    gains = report.gains(tables.outcomes, "rl", "sft")
    estimates = report.pass_at_k(tables).set_index(["recipe", "checkpoint", "benchmark", "k"])["estimate"]
    for row in gains.to_dict("records"):
        at = (row["checkpoint"], row["benchmark"], row["k"])
        assert row["estimate"] == pytest.approx(estimates[("rl", *at)] - estimates[("sft", *at)], abs=1e-6)
        assert row["ci_low"] <= row["estimate"] <= row["ci_high"]


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
    assert "<caption>a &amp; b</caption>" in shown and "12.3 [10.0, 14.0]" in shown and "pass@8" in shown
    assert shown.index(">RL<") < shown.index(">base<")
