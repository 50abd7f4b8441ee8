"""The paper's scale on public text, sampled by vLLM: recipes and evaluation end to end, alone and in two processes."""

from __future__ import annotations

import json
from dataclasses import replace

import distributed_work
import pandas as pd
import pytest
from test_paper_scale import assert_rewards_change_the_model, copy_of, samples

from excursions.models.processes import Processes
from excursions.results import tables as results
from excursions.study.one_run import train_run
from excursions.study.run import Run
from excursions.tree import run_folder

pytest.importorskip("vllm", reason="vLLM is not installed; make test-vllm installs it in an environment apart")


@pytest.fixture(scope="module")
def vllm_scale(hub_scale):
    return replace(hub_scale, engine=replace(hub_scale.engine, name="vllm", kv_cache_gb=0.1))


def test_greedy_evaluation_is_the_embedded_engines(hub_project, hub_scale, vllm_scale, tmp_path):
    run, found = Run("paper", "main", "p88", "base", 0), []
    for scale in (hub_scale, vllm_scale):
        greedy = replace(scale, evaluate=replace(scale.evaluate, temperature=0.0))
        root = copy_of(hub_project, tmp_path / scale.engine.name, greedy)
        train_run(run, greedy, root, Processes())
        found.append((samples(run.folder(root)), pd.read_parquet(run.folder(root) / "outcomes.parquet")))
    assert found[0][0] == found[1][0]
    pd.testing.assert_frame_equal(found[0][1], found[1][1])


@pytest.mark.parametrize("recipe", ["rl", "parallel"])
def test_rl_from_rewards_changes_the_model(hub_project, vllm_scale, tmp_path, monkeypatch, recipe):
    assert_rewards_change_the_model(recipe, hub_project, vllm_scale, tmp_path, monkeypatch, 1e-4)


def test_two_processes_run_the_recipes(hub_project, vllm_scale, tmp_path):
    root = copy_of(hub_project, tmp_path / "project", vllm_scale)
    program = ["-m", "excursions", "train", "--root", str(root), "--scale", "paper", "--checkpoint", "p88"]
    options = ["--use_fsdp", "--fsdp_version", "2", "--mixed_precision", "no"]
    distributed_work.launch(*options, *program, "--recipe", "rl", "sft")
    for recipe in ("rl", "sft"):
        folder = run_folder(root, "paper", "main", "p88", recipe, 0)
        about = json.loads((folder / "run.json").read_text())
        assert about["processes"]["count"] == 2 and about["engine"]["name"] == "vllm"
    outcomes, log = results.load_outcomes(root, "paper"), results.load_training(root, "paper")
    assert set(outcomes.recipe) == {"rl", "sft"} and (outcomes.n == vllm_scale.evaluate.samples).all()
    assert (log[log.recipe == "rl"].groupby("step")["completions/mean_length"].first() > 0).all()
