"""Pretraining: the suite loads, a killed run resumes to the same bytes, damage is named."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from excursions.models.model import load_model
from excursions.params import UserError
from excursions.study import code
from excursions.study.pretraining import pretrain_suite
from excursions.training import pretrain as module
from excursions.training.optimizers import cosine
from excursions.training.pretrain import next_token_loss, pretrain, total_steps

ROOT = Path(__file__).parents[1]


def test_checkpoints_load_in_half_precision_and_learn(suite, smoke):
    folder = suite / "checkpoints" / "smoke" / "main"
    model = AutoModelForCausalLM.from_pretrained(folder / "p88")
    assert model.dtype == torch.float16 and model.config.model_type == "olmo2"
    tokenizer = AutoTokenizer.from_pretrained(folder / "p88")
    assert tokenizer.decode(tokenizer("tom has 12 pens .").input_ids) == "tom has 12 pens ."
    log = pd.read_parquet(folder / "pretraining.parquet")
    assert log.step.tolist() == list(range(1, total_steps(smoke) + 1))
    assert log.loss.tail(5).mean() < log.loss.head(5).mean() - 1
    about = json.loads((folder / "suite.json").read_text())
    assert about["tokens"]["p20"] < about["tokens"]["p88"] < about["total_tokens"]
    assert about["parameters"] == sum(p.numel() for p in model.parameters())


def test_a_killed_run_goes_on_to_the_same_bytes(suite, smoke, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SAVE_EVERY", 7)
    calls = 0

    def killed(*args):
        nonlocal calls
        calls += 1
        if calls == 25:
            raise KeyboardInterrupt
        return next_token_loss(*args)

    monkeypatch.setattr(module, "next_token_loss", killed)
    with pytest.raises(KeyboardInterrupt):
        pretrain(smoke, tmp_path / "suite", tmp_path / "scratch")
    assert not (tmp_path / "suite" / "p88").exists()
    pretrain(smoke, tmp_path / "suite", tmp_path / "scratch")
    assert calls > 25 and calls < total_steps(smoke) + 10
    for name in (
        "p20/model.safetensors",
        "p88/model.safetensors",
        "p88/tokenizer.json",
        "suite.json",
        "pretraining.parquet",
    ):
        expected = suite / "checkpoints" / "smoke" / "main" / name
        assert (tmp_path / "suite" / name).read_bytes() == expected.read_bytes(), name


def test_the_command_starts_itself_as_two_processes(suite, tmp_path):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    command = [sys.executable, "-m", "excursions", "pretrain", "--root", str(tmp_path), "--scale", "smoke"]
    done = subprocess.run([*command, "--processes", "2"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    two, one = (root / "checkpoints" / "smoke" / "main" for root in (tmp_path, suite))
    logs = [pd.read_parquet(folder / "pretraining.parquet") for folder in (one, two)]
    pd.testing.assert_frame_equal(logs[0].head(10), logs[1].head(10), rtol=1e-5)  # later on rounding grows
    assert not logs[0].equals(logs[1])  # sums in another order: there were two


def test_a_suite_that_is_there_is_kept(suite, smoke, monkeypatch, capsys):
    monkeypatch.setattr(module, "next_token_loss", lambda *a: pytest.fail("trained again"))
    modules = code.pretraining_modules(smoke)
    file = suite / "checkpoints" / "smoke" / "main" / "suite.json"
    before = json.loads(file.read_text())
    file.write_text(json.dumps(before | {"code": {"digest": code.digest(modules)}}))
    pretrain_suite(smoke, suite, "smoke", "main")
    assert "is there already" in capsys.readouterr().out
    file.write_text(json.dumps(before))


def test_a_suite_whose_code_changed_is_shown_equal_or_trained_again(suite, smoke, tmp_path, monkeypatch, capsys):
    shutil.copytree(suite / "checkpoints", tmp_path / "checkpoints")
    file = tmp_path / "checkpoints" / "smoke" / "main" / "suite.json"
    pretrain_suite(smoke, tmp_path, "smoke", "main")
    assert "its code changed and gives the same (exactly)" in capsys.readouterr().out
    stamped = json.loads(file.read_text())["code"]
    assert stamped["shown"] == "3 training steps done again, equal exactly"
    loss = module.next_token_loss
    monkeypatch.setattr(module, "next_token_loss", lambda *a: 3 * loss(*a))
    monkeypatch.setattr(module, "pretrain", lambda *a: pytest.fail("trained again"))
    pretrain_suite(smoke, tmp_path, "smoke", "main")  # by its digest, which the patch does not change
    file.write_text(json.dumps(json.loads(file.read_text()) | {"code": {"digest": "another"}}))
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        pretrain_suite(smoke, tmp_path, "smoke", "main")


def test_loss_is_that_of_transformers(suite):
    model, _ = load_model(suite / "checkpoints" / "smoke" / "main" / "p88")
    ids_bt = torch.randint(3, 100, (2, 20), generator=torch.Generator().manual_seed(0))
    assert next_token_loss(model, ids_bt).item() == pytest.approx(
        model(input_ids=ids_bt, labels=ids_bt).loss.item(), abs=1e-5
    )


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match="pretrain.compile is true.*'no-such-compiler'.*compile: false"):
        module.loss_function(True)
    assert module.loss_function(False) is next_token_loss


def test_learning_rate_warms_up_and_ends_at_its_ratio(smoke):
    params = replace(smoke.pretrain, warmup_steps=10, learning_rate=1.0, final_learning_rate_ratio=0.1)
    given = (100, params.learning_rate, params.warmup_steps, params.final_learning_rate_ratio)
    rates = [cosine(step, *given) for step in range(1, 101)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == rates[9] == 1.0
    assert rates[-1] == pytest.approx(0.1)
    assert rates[9:] == sorted(rates[9:], reverse=True)


@pytest.mark.parametrize("damage", ["missing", "truncated", "empty folder"])
@pytest.mark.parametrize(
    ("place", "remedy"),
    [
        ("checkpoints/smoke/other/p88", "git checkout -- .*`excursions pretrain --scale smoke --suite other`"),
        ("trained/smoke/main/p88/rl/seed-0", "git checkout -- .*`excursions train --keep-model`"),
        ("mine/main", "Save it again, or download it again"),
    ],
)
def test_a_damaged_checkpoint_is_named_with_its_remedy(suite, tmp_path, damage, place, remedy):
    import shutil

    folder = tmp_path / place
    shutil.copytree(suite / "checkpoints" / "smoke" / "main" / "p88", folder)
    weights = folder / "model.safetensors"
    if damage == "missing":
        weights.unlink()
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:1000])
    else:
        shutil.rmtree(folder)
    with pytest.raises(UserError, match=remedy) as error:
        load_model(folder)
    assert str(folder) in str(error.value)
