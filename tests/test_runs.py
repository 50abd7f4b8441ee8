"""Runs: the same seed gives the same bytes, killed or not; only what is new is computed; mistakes are named."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import make_dataclass, replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from excursions.files import locked
from excursions.models.model import load_model, save_model
from excursions.models.processes import Processes
from excursions.models.state import saved_states
from excursions.params import RECIPES, Style, UserError, load
from excursions.results import tables as results
from excursions.rollout.torch_engine import TorchEngine
from excursions.study import code, equality, one_run, pool
from excursions.study.one_run import train_run, use_cores
from excursions.study.plan import describe_plan
from excursions.study.pool import train_runs
from excursions.study.run import FILES, Run, about, fingerprint, kept_models, status
from excursions.training import recipes

TIMES = ["step_time", "share_rollout", "share_grading", "share_training", "sft_time"]


@pytest.fixture
def project(suite, tmp_path):
    shutil.copytree(suite / "checkpoints", tmp_path / "checkpoints")
    return tmp_path


def contents(folder):
    """Everything of a run but its clock."""
    training = pd.read_parquet(folder / "training.parquet").drop(columns=TIMES, errors="ignore")
    files = {f.name: f.read_bytes() for f in folder.iterdir() if f.name not in ("run.json", "training.parquet")}
    about = json.loads((folder / "run.json").read_text())
    return files, training.to_csv(), about["model_sha256"], about["fingerprint"]


def killed_at(monkeypatch, recipe, step):
    """The next training of the recipe stops before this step."""
    make = one_run.training

    def made(*args):
        work = make(*args)
        if args[0] != recipe:
            return work

        def update(n):
            if n == step:
                raise KeyboardInterrupt
            return work.update(n)

        monkeypatch.setattr(one_run, "training", make)
        return replace(work, update=update)

    monkeypatch.setattr(one_run, "training", made)


@pytest.mark.parametrize("content", ["{}", "[1]", '"ab"', '[["a"],["b"]]', "[[],[]]", "[" * 100_000])
def test_damaged_measurements_are_made_again(project, smoke, content, capsys):
    run = Run("smoke", "main", "p88", "base", 0)
    train_run(run, smoke, project, Processes())
    before = contents(run.folder(project))
    (kept,) = (project / "scratch").glob("**/measured/*.json")
    kept.write_text(content)
    train_run(run, smoke, project, Processes())
    assert contents(run.folder(project)) == before and json.loads(kept.read_text())
    assert content == "[[],[]]" or "is taken as absent" in capsys.readouterr().out


def test_a_run_that_diverges_stops_with_its_last_state(project, smoke, monkeypatch):
    monkeypatch.setattr(one_run, "SAVE_EVERY", 1)
    run = Run("smoke", "main", "p88", "sft", 0)
    wild = replace(smoke, sft=replace(smoke.sft, learning_rate=1e30, batch_size=4))
    with pytest.raises(UserError, match=r"diverged: step \d+ has \w+ (nan|inf).*lower the learning rate of sft"):
        train_run(run, wild, project, Processes())
    assert not run.folder(project).exists()


def test_weights_that_do_not_fit_their_precision_are_not_saved(project):
    folder = project / "checkpoints/smoke/main/p88"
    model, tokenizer = load_model(folder)
    with torch.no_grad():
        model.model.norm.weight[0] = 1e6
    with pytest.raises(UserError, match="was not written: model.norm.weight has values that are not finite in float16"):
        save_model(model, tokenizer, project / "other", "float16")
    assert not (project / "other").exists()


@pytest.mark.parametrize("content", ["[1]", '{"code": null}', "null", "[" * 100_000])
def test_a_damaged_run_json_is_as_if_absent(project, smoke, content, capsys):
    run = Run("smoke", "main", "p88", "base", 0)
    run.folder(project).mkdir(parents=True)
    (run.folder(project) / "run.json").write_text(content)
    assert status(run, smoke, project) == "to compute" and "to compute" in describe_plan([run], smoke, project)[0]
    assert "is taken as absent" in capsys.readouterr().out


def test_a_place_that_cannot_be_written_is_told_before_the_run(project, smoke):
    (project / "results").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written: .*results is no folder"):
        train_runs([Run("smoke", "main", "p88", "base", 0)], smoke, project)


def test_a_run_without_one_of_its_files_is_to_compute(project, smoke, capsys):
    run = Run("smoke", "main", "p88", "base", 0)
    train_runs([run], smoke, project)
    for name in FILES:
        assert status(run, smoke, project) == "there"
        content = (run.folder(project) / name).read_bytes()
        (run.folder(project) / name).write_bytes(b"")
        assert status(run, smoke, project) == "to compute" and f"{name} is missing or empty" in capsys.readouterr().out
        (run.folder(project) / name).unlink()
        assert status(run, smoke, project) == "to compute"
        (run.folder(project) / name).write_bytes(content)


def test_a_file_that_was_changed_afterwards_is_told_from_what_the_run_wrote(project, smoke, capsys):
    run = Run("smoke", "main", "p88", "base", 0)
    train_runs([run], smoke, project)
    file = run.folder(project) / "outcomes.parquet"
    outcomes = pd.read_parquet(file)
    outcomes.assign(correct=outcomes["n"]).to_parquet(file)
    assert status(run, smoke, project) == "to compute"
    assert "outcomes.parquet was changed after the run had written it" in capsys.readouterr().out


def test_sources_edited_after_the_start_stop_what_would_mix_old_and_new(project, smoke):
    run = Run("smoke", "main", "p88", "base", 0)
    with pytest.raises(UserError, match="its code was edited after this command had started"):
        pool._alone(run, smoke, project, False, "the digest of before")
    assert not run.folder(project).exists()


def test_what_starts_from_a_failed_run_is_not_started(project, smoke):
    wild = replace(smoke, sft=replace(smoke.sft, learning_rate=1e30, batch_size=4), workers=1)
    runs = [Run("smoke", "main", "p88", recipe, 0) for recipe in ("sft", "sft_rl", "base")]
    with pytest.raises(UserError, match="sft_rl seed-0: not started, as it starts from p88 sft seed-0") as told:
        train_runs(runs, wild, project)
    assert str(told.value).startswith("2 of 3 runs failed")
    assert [run.folder(project).exists() for run in runs] == [False, False, True]


@pytest.mark.parametrize("recipe", ["parallel", "sft_rl"])
def test_a_killed_run_resumes_to_the_same_bytes(project, smoke, monkeypatch, recipe):
    monkeypatch.setattr(one_run, "SAVE_EVERY", 1)
    scale = replace(smoke, rl=replace(smoke.rl, steps=3), parallel=replace(smoke.parallel, steps=3))
    run = Run("smoke", "main", "p88", recipe, 0)
    train_run(run, scale, project, Processes())
    straight = contents(run.folder(project))
    shutil.rmtree(project / "results")
    shutil.rmtree(project / "scratch")
    killed_at(monkeypatch, recipe, 3)
    with pytest.raises(KeyboardInterrupt):
        train_run(run, scale, project, Processes())
    assert not run.folder(project).exists()
    assert [state.name for state in saved_states(run.scratch(project) / "state")] == ["step-1", "step-2"]
    train_run(run, scale, project, Processes())
    assert contents(run.folder(project)) == straight


def test_all_recipes_side_by_side_keep_the_contract_and_are_not_computed_twice(project, smoke, capsys):
    wanted = [Run("smoke", "main", "p88", recipe, 0) for recipe in RECIPES]
    assert set(train_runs(wanted, smoke, project)) == set(wanted)
    outcomes = results.load_outcomes(project, "smoke")
    general = results.load_general(project, "smoke")
    training = results.load_training(project, "smoke")
    assert set(outcomes.recipe) == set(general.recipe) == set(RECIPES)
    for recipe, of_it in outcomes.groupby("recipe"):
        first, last = of_it[of_it.step == 0], of_it[of_it.step == of_it.step.max()]
        assert len(first) == len(last) == 2 * smoke.questions.test
        steps = training[training.recipe == recipe].step.max() if recipe != "base" else 0
        assert of_it.step.max() == steps
    counts = outcomes.set_index(["recipe", "step", "benchmark", "question_id"]).correct.sort_index()
    for recipe in ("rl", "sft", "sft_gold", "parallel"):  # one checkpoint, one question, the same random numbers
        assert counts.loc[recipe, 0].equals(counts.loc["rl", 0])
    last = outcomes[outcomes.recipe == "sft"].step.max()
    assert counts.loc["sft_rl", 0].equals(counts.loc["sft", last])
    assert train_runs(wanted, smoke, project) == []
    more = [*wanted, Run("smoke", "main", "p88", "base", 1)]
    assert train_runs(more, smoke, project) == more[-1:]
    assert "7 of 8 runs are there already, 1 to compute" in capsys.readouterr().out
    assert train_runs(more, smoke, project, more[1:2]) == []
    assert f"{more[1].name} is there, but its trained model was not kept" in capsys.readouterr().out
    plan = describe_plan([*wanted, Run("smoke", "main", "p20", "rl", 0)], smoke, project)
    assert plan[0].endswith("there") and "to compute, about" in plan[-2] and plan[-1].startswith("to compute: about")


def test_models_are_kept_of_the_study_itself():
    study = load(Path(__file__).parents[1] / "params.yaml")
    kept, *others = [
        Run("nano", "main", "p20", "rl", 0),
        Run("nano", "weight-25", "p20", "parallel", 0),
        Run("paper", "main", "p20", "rl", 0),
        Run("nano", "main", "p20", "base", 0),
        Run("nano", "main", "p20", "rl", 1),
    ]
    assert kept_models([*others, kept], study) == {kept}


def test_cores_are_shared_by_the_workers_but_at_nano_scale(smoke, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    public = replace(smoke, workers=1, questions=replace(smoke.questions, source="hub"))
    try:
        use_cores(public)
        assert torch.get_num_threads() == 3
        use_cores(replace(public, workers=2))
        assert torch.get_num_threads() == 1
        torch.set_num_threads(2)
        use_cores(smoke)
        assert torch.get_num_threads() == 1 and os.environ["OMP_NUM_THREADS"] == "1"
    finally:
        torch.set_num_threads(1)


def test_parameters_and_checkpoint_decide_what_is_current(project, smoke):
    rl, sft = (Run("smoke", "main", "p88", recipe, 0) for recipe in ("rl", "sft"))
    other = replace(smoke, rl=replace(smoke.rl, learning_rate=2e-4))
    assert fingerprint(rl, smoke, project) != fingerprint(rl, other, project)
    assert fingerprint(sft, smoke, project) == fingerprint(sft, other, project)
    assert fingerprint(rl, smoke, project) != fingerprint(rl._replace(seed=1), smoke, project)
    chat = replace(smoke, questions=replace(smoke.questions, style=Style(chat=True)))
    before = fingerprint(rl, smoke, project), fingerprint(rl, chat, project)
    (project / "checkpoints/smoke/main/p88/chat_template.jinja").write_text("{{ messages }}")
    assert fingerprint(rl, smoke, project) == before[0]
    assert fingerprint(rl, chat, project) != before[1]
    before = fingerprint(rl, smoke, project)
    weights = project / "checkpoints/smoke/main/p88/model.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    assert fingerprint(rl, smoke, project) != before
    assert status(rl, smoke, project) == "to compute"


def test_a_failed_run_is_told_and_the_others_are_complete(project, smoke):
    weights = project / "checkpoints/smoke/main/p20/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    broken, fine = (Run("smoke", "main", name, "base", 0) for name in ("p20", "p88"))
    with pytest.raises(UserError, match="1 of 2 runs failed") as error:
        train_runs([broken, fine], smoke, project)
    assert (
        "p20 base seed-0" in str(error.value) and "damaged" in str(error.value) and "git checkout" in str(error.value)
    )
    assert status(fine, smoke, project) == "there" and not broken.folder(project).exists()


def _killed(*run):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_takes_no_other_run_with_it(project, smoke, monkeypatch):
    runs = [Run("smoke", "main", name, "base", 0) for name in ("p20", "p88")]
    alone = pool._alone
    monkeypatch.setattr(pool, "_alone", _killed)
    with pytest.raises(UserError, match="2 of 2 runs failed.*(\n.*seed-0: its process was killed.*){2}"):
        train_runs(runs, replace(smoke, workers=1), project)
    monkeypatch.setattr(pool, "_alone", alone)
    assert train_runs(runs[:1], smoke, project) == runs[:1]


def test_what_a_recipe_sees_instead_is_what_it_is_measured_by(project, smoke):
    fewer = replace(smoke, overrides={"rl": {"evaluate": {"samples": 8}}})
    rl, base = (Run("smoke", "main", "p88", recipe, 0) for recipe in ("rl", "base"))
    train_runs([rl, base], fewer, project)
    asked = {run.recipe: results.load_files([run.folder(project)], "outcomes") for run in (rl, base)}
    assert {recipe: set(table["n"]) for recipe, table in asked.items()} == {"rl": {8}, "base": {4}}
    assert about(rl, project)["parameters"]["evaluate"]["samples"] == 8
    assert fingerprint(rl, fewer, project) != fingerprint(rl, smoke, project)
    assert fingerprint(base, fewer, project) == fingerprint(base, smoke, project)


def test_two_processes_cannot_compute_one_run(project, smoke):
    run = Run("smoke", "main", "p88", "base", 0)
    with locked(run.scratch(project) / "lock", run.name):
        with pytest.raises(UserError, match="another process"):
            train_run(run, smoke, project, Processes())


def test_parallel_with_weight_one_is_rl(suite, smoke):
    scale = replace(smoke, rl=replace(smoke.rl, steps=2), parallel=replace(smoke.parallel, steps=2, rl_weight=1.0))
    models = []
    for recipe in ("rl", "parallel"):
        model, tokenizer = load_model(suite / "checkpoints/smoke/main/p88")
        engine = TorchEngine(model, tokenizer.eos_token_id, len(tokenizer), tokenizer=tokenizer)
        processes = Processes()
        work = recipes.training(recipe, processes.place(model), tokenizer, engine, scale, 0, processes)
        for step in (1, 2):
            work.update(step)
        models.append(model)
    for a, b in zip(*(m.parameters() for m in models), strict=True):
        assert torch.equal(a, b)


def test_missing_checkpoint_is_named(project, smoke):
    with pytest.raises(UserError, match="no file model.safetensors"):
        fingerprint(Run("smoke", "main", "p56", "rl", 0), smoke, project)


def test_workers_end_when_the_process_that_wants_them_is_killed():
    starter = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    program = f"""
import time
from excursions.models import launch
launch.end_with({starter.pid})
print("at work", flush=True)
time.sleep(100)
"""
    worker = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert worker.stdout.readline() == "at work\n"
    starter.kill()
    starter.wait()
    assert worker.wait(timeout=20) == 1


# ---- results cannot go stale


def test_the_code_of_a_run_is_what_its_recipe_reaches(smoke):
    rl, sft, base = (code.run_modules(recipe, smoke) for recipe in ("rl", "sft", "base"))
    assert {"excursions.training.grpo", "excursions.grading.grade", "excursions.data.nano.corpus"} <= set(rl)
    assert "excursions.training.grpo" not in sft and "excursions.training.sft" not in rl
    assert not any(name.startswith("excursions.training") for name in base)
    assert {*code.run_modules("sft_rl", smoke)} == {*rl, *sft}
    # the harness imports the one by its name in the others
    assert {"excursions.data.nano.benchmarks", "data/nano/tasks"} <= set(base)
    assert not {"excursions.data.public", "excursions.rollout.vllm_engine", "excursions.params"} & set(rl)


@pytest.mark.parametrize(
    "after, same",
    [
        ("# why\ndef f(a):\n    'Doubles.'\n    return (a *\n            2)\n", True),
        ("def f(a):\n    return a * 3\n", False),
        ("def f(a):\n    return a * 2.0\n", False),
        ("def f(b):\n    return b * 2\n", False),
    ],
)
def test_comments_docstrings_and_layout_are_no_code(tmp_path, after, same):
    digests = []
    for name, text in (("before", "def f(a):\n    return a * 2\n"), ("after", after)):
        package = tmp_path / name / "toy"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
        (package / "module.py").write_text(text)
        digests.append(code.reached(("toy.module",), package))
    assert (digests[0] == digests[1]) is same


@pytest.fixture
def changed(project, smoke, monkeypatch):
    """Three runs whose code is not what it was when they were computed."""
    runs = [Run("smoke", "main", "p88", recipe, 0) for recipe in ("base", "rl", "sft_rl")]
    train_runs(runs, smoke, project)
    modules = code.run_modules
    monkeypatch.setattr(code, "run_modules", lambda *args: modules(*args) | {"excursions.training.grpo": "edited"})
    return runs


def test_a_refactoring_is_shown_equal_and_stamped(project, smoke, changed, capsys):
    assert {status(run, smoke, project) for run in changed} == {"code changed"}
    assert describe_plan(changed, smoke, project)[-1].startswith("to show equal: 3 runs")
    before = [contents(run.folder(project)) for run in changed]
    assert train_runs(changed, smoke, project) == []
    assert "0 to compute, 3 to show equal" in capsys.readouterr().out
    assert {status(run, smoke, project) for run in changed} == {"there"}
    assert [contents(run.folder(project)) for run in changed] == before
    for run in changed:
        found = about(run, project)["code"]
        assert found["shown"].endswith("equal exactly") and found["computed_by"] != found["digest"]


def test_a_parent_that_is_shown_equal_is_not_trained_again_for_its_children(project, smoke, monkeypatch):
    runs = [Run("smoke", "main", "p88", recipe, 0) for recipe in ("sft", "sft_rl")]
    train_runs(runs, smoke, project)
    modules, trained = code.run_modules, []
    monkeypatch.setattr(code, "run_modules", lambda *args: modules(*args) | {"excursions.training.sft": "edited"})
    monkeypatch.setattr(one_run, "_save_trained", trained.append)
    assert equality.show_runs(runs, smoke, project) == [] and not trained
    # what is not known to be the parent's result is
    shutil.rmtree(runs[0].scratch(project))
    one_run.start_model(runs[1], smoke, project, Processes())
    assert len(trained) == 1


def test_a_run_whose_algorithm_was_edited_is_computed_again(project, smoke, changed, monkeypatch, capsys):
    from excursions.training import rl

    gradients = rl.rl_gradients

    def tripled(*args, **named):
        metrics = gradients(*args, **named)
        return metrics | {"loss": metrics["loss"] * 3 + 1}

    monkeypatch.setattr(rl, "rl_gradients", tripled)
    assert equality.show_runs(changed, smoke, project) == changed[1:]
    assert "not equal to its results (loss: " in capsys.readouterr().out
    assert [status(run, smoke, project) for run in changed] == ["there", "code changed", "code changed"]


def test_an_edited_general_benchmark_is_measured_again(project, smoke, changed, monkeypatch, capsys):
    measured = equality.measure_general
    monkeypatch.setattr(equality, "measure_general", lambda *args: measured(*args).assign(correct=2))
    assert equality.show_runs(changed[:1], smoke, project) == changed[:1]
    assert "answers to general items: 100.0% off" in capsys.readouterr().out


def test_the_digest_of_the_questions_is_kept_by_what_makes_them(project, smoke, monkeypatch):
    run = Run("smoke", "main", "p88", "rl", 0)
    first = fingerprint(run, smoke, project)
    (kept,) = (project / "scratch" / "questions").glob("*.json")
    mixture = dict(reversed(smoke.questions.easy_mixture.items()))
    fingerprint(run, replace(smoke, questions=replace(smoke.questions, easy_mixture=mixture)), project)
    assert len([*kept.parent.glob("*.json")]) == 2  # in another order other questions are drawn
    kept.write_text("{damaged")
    assert fingerprint(run, smoke, project) == first
    kept.write_text(json.dumps("of other questions"))
    assert fingerprint(run, smoke, project) != first
    modules = code.reached
    monkeypatch.setattr(code, "reached", lambda starts: modules(starts) | {"excursions.data.loading": "edited"})
    assert fingerprint(run, smoke, project) == first and len([*kept.parent.glob("*.json")]) == 3


def test_a_null_parameter_changes_no_fingerprint(project, smoke):
    run = Run("smoke", "main", "p88", "rl", 0)
    before = fingerprint(run, smoke, project)
    wider = make_dataclass("Rl", [("more", object, None)], bases=(type(smoke.rl),), frozen=True)
    assert fingerprint(run, replace(smoke, rl=wider(**vars(smoke.rl))), project) == before
    assert fingerprint(run, replace(smoke, rl=wider(**vars(smoke.rl), more=1)), project) != before


def test_a_run_without_git_is_kept(project, smoke, monkeypatch):
    monkeypatch.setenv("PATH", "")
    run = Run("smoke", "main", "p88", "base", 0)
    train_run(run, smoke, project, Processes())
    assert about(run, project)["git_commit"] is None and about(run, project)["dirty"] is None


def test_a_missing_suite_json_is_told_before_the_first_step(project, smoke):
    (project / "checkpoints/smoke/main/suite.json").unlink()
    with pytest.raises(UserError, match="suite.json: the file is missing"):
        train_runs([Run("smoke", "main", "p88", "rl", 0)], smoke, project)
    assert not (project / "scratch/smoke").exists()
