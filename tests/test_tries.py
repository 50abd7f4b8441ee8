"""A variant beside the study: what it costs and changes, that the study stays as it was, and how the two compare."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from study_file import read_study
from synthetic import make_study

from excursions import params
from excursions.cli import main
from excursions.files import write_json
from excursions.findings.compare import compare
from excursions.params import UserError
from excursions.results import tables
from excursions.study import live
from excursions.study.tries import plan_try, settings


@pytest.fixture
def project(tmp_path) -> Path:
    """The smallest study at smoke scale, without weights and results."""
    raw = read_study(scales=["smoke"], checkpoints=["p88"], seeds=[0], suites=None)
    raw["smoke"]["evaluate"] |= {"samples": 8, "max_new_tokens": 12, "general": 4}
    raw["smoke"]["questions"] |= {"test": 4}
    raw["smoke"]["overrides"] = {"rl": {"rl": {"learning_rate": 3e-4, "clip": 0.3}}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    about = {"parameters": 1, "tokens": {"p20": 1, "p88": 4}, "total_tokens": 5}
    write_json(tmp_path / "checkpoints/smoke/main/suite.json", about)
    return tmp_path


def files(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def arguments(project, *pairs, recipe="rl", name="lr2"):
    given = ["--root", str(project), "--scale", "smoke", "--checkpoint", "p88", "--recipe", recipe, "--name", name]
    return ["try", *given, *(part for pair in pairs for part in ("--set", pair))]


def test_a_try_runs_beside_the_study_and_is_compared_with_it(project, suite, capsys):
    shutil.copytree(suite / "checkpoints", project / "checkpoints", dirs_exist_ok=True)
    where = ["--root", str(project)]
    before = files(project)
    assert main(arguments(project, "rl.learning_rate=2e-4")) == 0
    printed = capsys.readouterr().out
    assert printed.index("FLOPs") < printed.index("1 to compute") and "core-hours" in printed
    assert {file: held for file, held in files(project).items() if file in before} == before
    assert {file.relative_to(project).parts[0] for file in {*files(project)} - {*before}} == {"tries"}
    assert main(["compare", *where, "lr2"]) == 2
    command = f"`excursions train --root {project} --scale smoke --checkpoint p88 --recipe rl --seed 0` computes them"
    assert command in capsys.readouterr().err
    assert main(["train", *where, "--scale", "smoke", "--recipe", "rl"]) == 0
    capsys.readouterr()
    assert main(["compare", *where, "lr2"]) == 0
    printed = capsys.readouterr().out
    assert "lr2: rl.learning_rate 0.0002 (study: 0.0003)\n" in printed
    assert (project / "tries/lr2/compare.svg").stat().st_size > 1000
    assert main(arguments(project, "rl.learning_rate=2e-4")) == 0
    assert "1 of 1 runs are there already" in capsys.readouterr().out
    assert main(arguments(project, "rl.learning_rate=4e-4")) == 2
    assert "- learning_rate: 0.0002, + learning_rate: 0.0004" in capsys.readouterr().err
    assert main(["watch", *where, "lr2"]) == 0
    shown = capsys.readouterr().out.splitlines()
    for name, pair in (("drawn", "questions.seed=1"), ("renamed", "questions.easy=leicht")):
        assert main(arguments(project, pair, name=name)) == 0
        assert main(["compare", *where, name]) == 2
        said = f"the try {name} ({pair.replace('=', ' ')} (study:"
        assert said in (told := capsys.readouterr().err) and "was asked other questions than the study" in told
    assert len(shown) == 3 and shown[2].startswith("step 2/2  reward") and "no signal" in shown[2]


def test_what_a_try_changes_wins_over_the_overrides_of_the_study_and_reaches_its_parents(project):
    study = params.load(project / "params.yaml")
    made = plan_try(study, project, "x", "smoke", "p88", "sft_rl", [0, 1], ["sft.epochs=2", "rl.learning_rate=2e-4"])
    scale = made.write().scale("smoke")
    assert scale.of("sft").sft.epochs == scale.of("sft_rl").sft.epochs == 2
    assert scale.of("sft_rl").rl.learning_rate == 2e-4
    same = plan_try(study, project, "y", "smoke", "p88", "rl", [0], ["rl.learning_rate=2e-4"]).write().scale("smoke")
    assert same.of("rl").rl == replace(study.scale("smoke").of("rl").rl, learning_rate=2e-4)


@pytest.mark.parametrize(
    "pair, said",
    [
        ("rl.learning_rat=1", "There is no key that rl reads 'rl.learning_rat'; accepted: rl.steps"),
        ("rl.learning_rat=1", "Did you mean 'rl.learning_rate'?"),
        ("sft.epochs=1", "There is no key that rl reads 'sft.epochs'"),
        ("rl.learning_rate", "--set rl.learning_rate: accepted: block.key=value"),
        ("rl.learning_rate=fast", "--set: 'rl.learning_rate' is 'fast'; accepted: a number, 0 to 1, not 0 itself"),
        ("rl.warmup_steps=9", "smoke.rl.warmup_steps is 9 with '--set'; accepted: at most rl.steps, which is 2"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(project, capsys, pair, said):
    assert main(arguments(project, pair)) == 2
    assert said in capsys.readouterr().err and not (project / "tries").exists()


def test_settings_are_read_as_in_params_yaml():
    found = settings(["rl.betas=[0.8, 0.9]", "rl.steps=7", "evaluate.seed=1"], "rl")
    assert found == {"rl": {"betas": [0.8, 0.9], "steps": 7}, "evaluate": {"seed": 1}}


def test_a_comparison_is_paired(tmp_path):
    """Of one and the same run the difference is 0 and so is its interval; of a better one it is that of the means."""
    make_study(tmp_path, checkpoints=["p88"], recipes=["rl"])
    raw = read_study(checkpoints=["p88"], recipes=["rl"], seeds=[0])
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    for name, shift in (("same", 0.0), ("better", 1.0)):
        home = make_study(tmp_path / "tries" / name, checkpoints=["p88"], recipes=["rl"], shift=shift)
        (home / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    table, differ = compare(tmp_path, "same")
    assert differ == "no setting differs" and set(table["k"]) == set(tables.KS)
    assert (table[["estimate", "ci_low", "ci_high"]] == 0).all(axis=None)
    table, _ = compare(tmp_path, "better")
    assert table["estimate"].to_numpy() == pytest.approx((table["try"] - table["study"]).to_numpy(), abs=1e-6)
    first = table[table["k"] == 1]
    assert (first["ci_low"] < first["estimate"]).all() and (first["estimate"] < first["ci_high"]).all()
    with pytest.raises(UserError, match="no try 'bettr'; accepted: better, same. Did you mean 'better'"):
        compare(tmp_path, "bettr")


def test_a_log_that_is_resumed_has_no_step_twice_and_neither_has_who_follows_it(tmp_path, monkeypatch):
    folder = tmp_path / "scratch/smoke/main/p88/rl/seed-0"
    log = live.Log(folder, 4, [])
    for step in (1, 2, 3):
        log.add({"step": step, "reward": step / 4})
    monkeypatch.setattr(live.time, "sleep", lambda seconds: resume())
    told = live.follow(live.find_log(tmp_path, "p88/rl"))

    def resume():
        again = live.Log(folder, 4, [{"step": 1, "reward": 0.25}])
        for step in (2, 3, 4):
            again.add({"step": step, "reward": step / 4})

    assert [line.split()[1] for line in told] == ["1/4", "2/4", "3/4", "4/4"]
    written = [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()]
    assert written == [1, 2, 3, 4]
    with pytest.raises(UserError, match="no run with a log 'p88/rll'"):
        live.find_log(tmp_path, "p88/rll")
    with pytest.raises(UserError, match="No run has trained"):
        live.find_log(folder, None)
