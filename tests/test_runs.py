"""Runs: the same seed gives the same bytes, killed or not; only what is new is computed; mistakes are named."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest
import torch

from excursions.models.model import load_model
from excursions.models.processes import Processes
from excursions.params import RECIPES, UserError
from excursions.results import tables as results
from excursions.rollout.torch_engine import TorchEngine
from excursions.study import runs
from excursions.study.runs import Run, fingerprint, is_current, train_run, train_runs
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
    make = runs.training

    def made(*args):
        work = make(*args)
        if args[0] != recipe:
            return work

        def update(n):
            if n == step:
                raise KeyboardInterrupt
            return work.update(n)

        monkeypatch.setattr(runs, "training", make)
        return replace(work, update=update)

    monkeypatch.setattr(runs, "training", made)


@pytest.mark.parametrize("recipe", ["parallel", "sft_rl"])
def test_a_killed_run_resumes_to_the_same_bytes(project, smoke, monkeypatch, recipe):
    monkeypatch.setattr(runs, "SAVE_EVERY", 1)
    scale = replace(smoke, rl=replace(smoke.rl, steps=3), parallel=replace(smoke.parallel, steps=3))
    run = Run("smoke", "main", "p88", recipe, 0)
    train_run(run, scale, project)
    straight = contents(run.folder(project))
    shutil.rmtree(project / "results")
    shutil.rmtree(project / "scratch")
    killed_at(monkeypatch, recipe, 3)
    with pytest.raises(KeyboardInterrupt):
        train_run(run, scale, project)
    assert not run.folder(project).exists()
    assert Processes().load_about(run.scratch(project) / "state")["step"] == 2
    train_run(run, scale, project)
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
    plan = runs.describe_plan([*wanted, Run("smoke", "main", "p20", "rl", 0)], smoke, project)
    assert plan[0].endswith("there") and "to compute, about" in plan[-2] and plan[-1].startswith("to compute: about")


def test_parameters_and_checkpoint_decide_what_is_current(project, smoke):
    rl, sft = (Run("smoke", "main", "p88", recipe, 0) for recipe in ("rl", "sft"))
    other = replace(smoke, rl=replace(smoke.rl, learning_rate=2e-4))
    assert fingerprint(rl, smoke, project) != fingerprint(rl, other, project)
    assert fingerprint(sft, smoke, project) == fingerprint(sft, other, project)
    assert fingerprint(rl, smoke, project) != fingerprint(replace(rl, seed=1), smoke, project)
    before = fingerprint(rl, smoke, project)
    weights = project / "checkpoints/smoke/main/p88/model.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    assert fingerprint(rl, smoke, project) != before
    assert not is_current(rl, smoke, project)


def test_a_failed_run_is_told_and_the_others_are_complete(project, smoke):
    weights = project / "checkpoints/smoke/main/p20/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    broken, fine = (Run("smoke", "main", name, "base", 0) for name in ("p20", "p88"))
    with pytest.raises(UserError, match="1 of 2 runs failed") as error:
        train_runs([broken, fine], smoke, project)
    assert (
        "p20 base seed-0" in str(error.value) and "damaged" in str(error.value) and "git checkout" in str(error.value)
    )
    assert is_current(fine, smoke, project) and not broken.folder(project).exists()


def test_two_processes_cannot_compute_one_run(project, smoke):
    import fcntl

    run = Run("smoke", "main", "p88", "base", 0)
    run.scratch(project).mkdir(parents=True)
    with (run.scratch(project) / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process"):
            train_run(run, smoke, project)


def test_parallel_with_weight_one_is_rl(suite, smoke):
    scale = replace(smoke, rl=replace(smoke.rl, steps=2), parallel=replace(smoke.parallel, steps=2, rl_weight=1.0))
    models = []
    for recipe in ("rl", "parallel"):
        model, tokenizer = load_model(suite / "checkpoints/smoke/main/p88")
        engine = TorchEngine(model, tokenizer.eos_token_id, len(tokenizer))
        work = recipes.training(recipe, model, tokenizer, engine, scale, 0)
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
from excursions.models import processes
processes.end_with({starter.pid})
print("at work", flush=True)
time.sleep(100)
"""
    worker = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert worker.stdout.readline() == "at work\n"
    starter.kill()
    starter.wait()
    assert worker.wait(timeout=20) == 1
