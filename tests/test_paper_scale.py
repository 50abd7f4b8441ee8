"""The paper's scale on public text with a tiny model: recipes and evaluation end to end, through each engine that needs
no installation of its own (vLLM's turn is in tests/with_vllm), and through two processes."""

import gzip
import json
import shutil
from dataclasses import replace

import distributed_work
import pandas as pd
import pytest
import yaml
from hub_project import write_params

from excursions import cli
from excursions.models.processes import Processes
from excursions.results import tables as results
from excursions.study.one_run import train_run
from excursions.study.run import Run
from excursions.training import pretrain

RECIPES = ("base", "sft", "rl", "sft_rl", "parallel")


def samples(folder):
    with gzip.open(folder / "samples.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def copy_of(hub_project, folder, scale):
    """A project of its own: checkpoints and params.yaml; the data stay where they are."""
    shutil.copytree(hub_project / "checkpoints", folder / "checkpoints")
    write_params(folder, scale)
    return folder


@pytest.fixture(scope="module")
def alone(hub_project, hub_scale, tmp_path_factory):
    """The results of one process with the embedded engine, by the command that a user types."""
    root = copy_of(hub_project, tmp_path_factory.mktemp("alone") / "project", hub_scale)
    command = ["train", "--root", str(root), "--scale", "paper", "--checkpoint", "p88", "--recipe", *RECIPES]
    assert cli.main(command) == 0
    return root


def test_recipes_and_evaluation_run_end_to_end(alone, hub_scale):
    outcomes, general = results.load_outcomes(alone, "paper"), results.load_general(alone, "paper")
    assert set(outcomes.recipe) == set(RECIPES) == set(general.recipe)
    assert set(outcomes.benchmark) == {"gsm8k", "math"}
    assert set(general.benchmark) == {"lambada", "hellaswag", "arc_easy", "arc_challenge", "piqa", "openbookqa"}
    log = results.load_training(alone, "paper")
    sft = log[log.recipe == "sft"].sort_values("step")
    assert sft.sft_loss.iloc[-1] < sft.sft_loss.iloc[0]
    assert log[log.recipe == "parallel"][["reward", "sft_loss"]].notna().all().all()
    base, rl = (samples(results.run_folder(alone, "paper", "main", "p88", recipe, 0)) for recipe in ("base", "rl"))
    asked = {row["benchmark"]: row["prompt"] for row in base}
    assert asked["gsm8k"].count("Question:") == asked["math"].count("Question:") == hub_scale.evaluate.shots + 1
    assert "####" in asked["gsm8k"] and "\\boxed" in asked["math"]
    assert all(row["prompt"].count("Question:") == 1 for row in rl)


def test_transformers_generation_gives_the_same_study(alone, hub_project, hub_scale, tmp_path):
    scale = replace(hub_scale, engine=replace(hub_scale.engine, name="transformers"))
    root = copy_of(hub_project, tmp_path, scale)
    for recipe in ("base", "rl"):
        run = Run("paper", "main", "p88", recipe, 0)
        train_run(run, scale, root, Processes())
        assert samples(run.folder(root)) == samples(run.folder(alone))
        about = json.loads((run.folder(root) / "run.json").read_text())
        assert about["engine"]["name"] == "transformers"
        assert about["fingerprint"] != json.loads((run.folder(alone) / "run.json").read_text())["fingerprint"]


def assert_rewards_change_the_model(recipe, hub_project, scale, folder, monkeypatch, logp_difference):
    """An untrained model earns no reward, so here some texts count as right."""
    monkeypatch.setattr("excursions.training.rl.grade_completions", distributed_work.grade_by_text)
    root = copy_of(hub_project, folder, scale)
    run = Run("paper", "main", "p88", recipe, 0)
    train_run(run, scale, root, Processes())
    log = pd.read_parquet(run.folder(root) / "training.parquet")
    assert (log.grad_norm > 0).all() and log.reward.between(0.01, 0.99).all()
    assert (log["sampling/sampling_logp_difference/mean"] < logp_difference).all()


@pytest.mark.parametrize("engine", ["torch", "transformers"])
def test_rl_from_rewards_changes_the_model(hub_project, hub_scale, tmp_path, monkeypatch, engine):
    scale = replace(hub_scale, engine=replace(hub_scale.engine, name=engine))
    assert_rewards_change_the_model("rl", hub_project, scale, tmp_path, monkeypatch, 1e-5)


def test_two_processes_give_the_results_of_one(alone, hub_project, hub_scale, tmp_path):
    root = copy_of(hub_project, tmp_path / "project", hub_scale)
    program = ["-m", "excursions", "train", "--root", str(root), "--scale", "paper", "--checkpoint", "p88"]
    options = ["--use_fsdp", "--fsdp_version", "2", "--mixed_precision", "no"]
    said = distributed_work.launch(*options, *program, "--recipe", *RECIPES)
    assert said.count("p88 sft seed-0: 8/8") <= 1  # the main process alone speaks
    for recipe in RECIPES:
        one, two = (results.run_folder(place, "paper", "main", "p88", recipe, 0) for place in (alone, root))
        about = json.loads((two / "run.json").read_text())
        assert about["processes"]["count"] == 2 and about["processes"]["sharded"]
        assert about["fingerprint"] == json.loads((one / "run.json").read_text())["fingerprint"]
        assert samples(one) == samples(two)
        for name in ("outcomes.parquet", "general.parquet"):
            pd.testing.assert_frame_equal(pd.read_parquet(one / name), pd.read_parquet(two / name))
        logs = [pd.read_parquet(place / "training.parquet") for place in (one, two)]
        same = [name for name in logs[0] if not name.startswith("share_") and not name.endswith("time")]
        pd.testing.assert_frame_equal(logs[0][same], logs[1][same], rtol=1e-4, atol=1e-5)


def test_pretraining_on_packed_text_resumes_to_the_same_bytes(hub_project, hub_scale, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "SAVE_EVERY", 2)
    straight, resumed = (copy_of(hub_project, tmp_path / name, hub_scale) for name in ("straight", "resumed"))
    for root in (straight, resumed):
        raw = yaml.safe_load((root / "params.yaml").read_text())
        raw["suites"]["own"] = {"checkpoints": ["p88"], "recipes": ["base"], "seeds": [0]}
        (root / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    command = ["pretrain", "--scale", "paper", "--suite", "own", "--root"]
    assert cli.main([*command, str(straight)]) == 0
    steps, loss = iter(range(1, 100)), pretrain.next_token_loss

    def killed(*args):
        if next(steps) == 4:
            raise KeyboardInterrupt
        return loss(*args)

    monkeypatch.setattr(pretrain, "next_token_loss", killed)
    assert cli.main([*command, str(resumed)]) == 130
    assert cli.main([*command, str(resumed)]) == 0
    assert next(steps) == 8  # steps 1 to 3, the kill, 3 to 5
    for name in ("p08/model.safetensors", "p88/model.safetensors", "p88/tokenizer.json", "pretraining.parquet"):
        one, two = (root / "checkpoints" / "paper" / "own" / name for root in (straight, resumed))
        assert one.read_bytes() == two.read_bytes(), name
    assert len(pd.read_parquet(straight / "checkpoints/paper/own/pretraining.parquet")) == 5
