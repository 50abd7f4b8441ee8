"""The notebooks run by hand: what their lists and curves show, and the live run from end to end at smoke scale."""

import re
import shutil
from pathlib import Path

import pytest
from synthetic import make_study

from excursions.findings import live, notebook
from excursions.params import UserError
from excursions.study import live as study_live

ROOT = Path(__file__).parents[1]


@pytest.fixture
def shown(monkeypatch) -> list:
    """All that is displayed, and what replaces it, in order."""
    found: list = []

    class Handle:
        update = staticmethod(found.append)

    monkeypatch.setattr(live, "display", lambda what, **how: found.append(what) or Handle)
    return found


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    return make_study(tmp_path_factory.mktemp("project"), checkpoints=("p20",), recipes=("base", "rl", "sft"))


@pytest.mark.parametrize(
    "line",
    [b"[1]", b"{", b'{"step": "a", "steps": 2}', b'{"steps": 2}', b'{"step": 1, "steps": 2, "reward": "x"}', b"\xff"],
)
def test_a_damaged_log_is_one_sentence(tmp_path, line):
    file = tmp_path / "log.jsonl"
    file.write_bytes(b'{"step": 1, "steps": 2}\n{"step": 2')  # the last is being written
    told = study_live.follow(file, wait=0)
    assert next(told).startswith("step 1/2")
    file.write_bytes(line + b"\n")
    with pytest.raises(UserError, match="is not a step of a log"):
        next(told)


def test_a_run_that_is_started_again_with_fewer_steps_is_followed_from_its_first(tmp_path):
    file = tmp_path / "log.jsonl"
    file.write_bytes(b'{"step": 1, "steps": 9}\n{"step": 2, "steps": 9}\n')
    told = study_live.follow(file, wait=0)
    assert [next(told)[:8] for _ in range(2)] == ["step 1/9", "step 2/9"]
    file.write_bytes(b'{"step": 1, "steps": 2}\n{"step": 2, "steps": 2}\n')
    assert [line[:8] for line in told] == ["step 1/2", "step 2/2"]


def test_a_choice_is_shown_at_once_and_replaced_by_the_next(shown):
    def say(checkpoint: str, root: str) -> str:
        if checkpoint == "p56":
            raise UserError("no such <run>")
        return f"{root}/{checkpoint}"

    live.choose(say, {"checkpoint": ["p20", "p56", "p88"]}, {"checkpoint": "p20"}, root="here")
    (made,) = shown[0].children
    assert shown[1:] == ["here/p20"]
    made.value = "p88"
    made.value = "p56"
    assert shown[2] == "here/p88" and "no such &lt;run&gt;" in shown[3].data
    with pytest.raises(UserError, match="no checkpoint 'p9'"):
        live.choose(say, {"checkpoint": ["p20"]}, {"checkpoint": "p9"}, root="here")


def test_a_curve_grows_by_each_point(shown):
    curve = live.Curve("reward", 3)
    for step, value in ((1, 0.1), (2, 0.4)):
        curve.add(step, value)
    assert list(curve.line.get_xdata()) == [1, 2] and curve.axes.get_ylim()[1] >= 0.4
    assert len({image.data for image in shown}) == 3


def test_two_recipes_are_set_against_each_other_question_by_question(project):
    page = live.duel(project, "nano", "main", "p20", "rl", "base", 0, "easy").data
    won, lost, tied = map(int, re.findall(r"(\d+) (?:questions won|lost|tied)", page))
    assert won + lost + tied == 12 and won > lost
    turned = live.duel(project, "nano", "main", "p20", "base", "rl", 0, "easy").data
    assert f"{lost} questions won, {won} lost, {tied} tied" in turned
    assert "12 tied" in live.duel(project, "nano", "main", "p20", "rl", "rl", 0, "easy").data
    with pytest.raises(UserError, match="no recipe among these results 'parallel'; accepted: base, rl, sft"):
        live.duel(project, "nano", "main", "p20", "parallel", "rl", 0, "easy")


def test_completions_are_told_whole_and_escaped():
    row = {"prompt": "question : <b>", "gold": "5", "correct": True, "valid": None, "completion": "<i>" + "long " * 40}
    page = live.answers([row, row, row | {"correct": False, "completion": "no"}], "p20").data
    assert "<b>" not in page and "<i>" not in page and "long " * 39 in page
    assert page.count("<tr") == 3 and ">2<" in page


def test_the_live_run_trains_and_asks_again(suite):
    for name in ("params.yaml", "notebooks"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, suite / name)
    (checkpoint, *_) = sorted(path.name for path in (suite / "checkpoints/smoke/main").iterdir() if path.is_dir())
    given = {"checkpoint": checkpoint, "steps": 2, "rollouts": 2, "number": 0}
    page = notebook.run("00_start_here", "smoke", suite, given).read_text(encoding="utf-8")
    assert f"{checkpoint}, before RL" in page and f"{checkpoint}, after 2 steps of RL" in page
    assert page.count("data:image/png") == 1 and 'alt="reward"' in page
