"""docs/calibration.md says what its runs solved, and which of them were still rising."""

import pandas as pd
import pytest
from study_file import write_study
from synthetic import make_study

from excursions.params import UserError
from excursions.study import calibration


def counts(checkpoint, changed, solved_by_step):
    """Four samples of one question a benchmark; solved_by_step: {step: (easy, hard)}."""
    return pd.DataFrame(
        [
            ("rl", checkpoint, changed, step, benchmark, f"{benchmark}-0", 4, correct, correct // 2)
            for step, solved in solved_by_step.items()
            for benchmark, correct in zip(("easy", "hard"), solved, strict=True)
        ],
        columns="recipe checkpoint changed step benchmark question_id n correct valid".split(),
    )


def test_tables_hold_both_ends_and_the_last_quarter(monkeypatch):
    monkeypatch.setattr(calibration, "KS", (1, 2, 4))
    runs = [counts("p40", "as in the study", {0: (0, 0), 2: (2, 1), 3: (4, 1), 4: (4, 2)})]
    runs += [counts("p40", "rl.learning_rate 0.0008", {0: (0, 0), 2: (4, 4), 4: (2, 2)})]
    outcomes = pd.concat(runs)
    found = calibration.grid(outcomes)
    assert list(found["step"]) == [0, 4, 0, 4] and list(found["mean"]) == ["0.0", "75.0", "0.0", "50.0"]
    assert found["hard"].iloc[1] == "50.0 / 83.3 / 100.0"  # 1 - C(2, 2) / C(4, 2) of two in four right
    assert found["derived"].iloc[1] == "0.50"
    along = calibration.curves(outcomes).set_index("changed")
    assert along.loc["as in the study", "mean pass@1"] == "0.0 37.5 62.5 75.0"
    assert along["last quarter"].tolist() == ["+12.5", "-50.0"]


def test_the_runs_are_those_of_the_calibration_suites(tmp_path):
    rl = {"checkpoints_of": "main", "checkpoints": ["p20"], "recipes": ["rl"], "seeds": [100]}
    suites = {
        "cal-rl-1e-3": rl | {"overrides": {"rl.learning_rate": 1e-3, "evaluate.split": "validation"}},
        "cal-rl-mean": rl | {"overrides": {"rl.advantage": "mean", "evaluate.split": "validation"}},
        "other": rl,
    }
    study = write_study(tmp_path, suites=suites)
    with pytest.raises(UserError, match="No suite cal-. of params.yaml has results at scale nano"):
        calibration.write_report(study, "nano", tmp_path)
    assert not (tmp_path / "docs").exists(), "it is told before the criteria are measured and kept"
    for name in suites:
        make_study(tmp_path, ("p20",), ("rl",), (100,), suite=name)
    runs = calibration.calibration_runs(study, "nano", tmp_path)
    changed = {"cal-rl-1e-3": "rl.learning_rate 0.001", "cal-rl-mean": "rl.advantage mean"}
    assert dict(zip(runs["suite"], runs["changed"], strict=True)) == changed
