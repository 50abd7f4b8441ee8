"""Saved states: the last two, whole; what is damaged is as if absent; nothing that is read can run code."""

import json
import os
import pickle
import signal
import subprocess
import sys

import pytest
import torch

from excursions.models.state import load_state, save_state, saved_states


def save(folder, step, fingerprint="f", value=None):
    tensors = {"model.w": torch.full((3, 2), float(step)), "optimizer-0.0.step": torch.tensor(float(step))}
    save_state(folder, step, tensors, {"fingerprint": fingerprint, "log": [0.1, 1e-300, value]})


def test_a_state_comes_back_as_it_was(tmp_path):
    assert load_state(tmp_path, "f") is None
    save(tmp_path, 7)
    about, tensors = load_state(tmp_path, "f")
    assert about == {"fingerprint": "f", "log": [0.1, 1e-300, None], "step": 7}
    assert torch.equal(tensors["model.w"], torch.full((3, 2), 7.0)) and tensors["optimizer-0.0.step"].shape == ()


def test_the_last_two_are_kept_and_those_of_other_work_go(tmp_path):
    for step in (90, 9, 10, 11):  # 90: of a study with other parameters
        save(tmp_path, step)
        (tmp_path / ".step-3.x.partial").mkdir()  # by a kill
    save(tmp_path, 11)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-10", "step-11"]
    assert [path.name for path in saved_states(tmp_path)] == ["step-10", "step-11"]
    assert load_state(tmp_path, "other") is None


DAMAGE = {
    "empty": lambda file: file.write_bytes(b""),
    "cut short": lambda file: file.write_bytes(file.read_bytes()[:-5]),
    "no beginning": lambda file: file.write_bytes(bytes(50) + file.read_bytes()[50:]),
    "absent": lambda file: file.unlink(),
}


@pytest.mark.parametrize("name", ["about.json", "tensors.safetensors"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_state_is_as_if_absent_and_the_one_before_is_used(tmp_path, name, damage, capsys):
    save(tmp_path, 1)
    save(tmp_path, 2)
    DAMAGE[damage](tmp_path / "step-2" / name)
    about, tensors = load_state(tmp_path, "f")
    assert about["step"] == 1 and tensors["model.w"][0, 0] == 1
    said = capsys.readouterr().out
    assert "step-2" in said and said.endswith("is taken as absent\n") and said.count("\n") == 1
    DAMAGE[damage](tmp_path / "step-1" / name)
    assert load_state(tmp_path, "f") is None


@pytest.mark.parametrize("text", ["[]", "null", "5", "{}"])
def test_json_that_is_no_state_is_as_if_absent(tmp_path, text, capsys):
    save(tmp_path, 1)
    (tmp_path / "step-1" / "about.json").write_text(text)
    assert load_state(tmp_path, "f") is None and "is taken as absent" in capsys.readouterr().out


def test_nothing_that_is_read_runs_code(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    save(tmp_path, 1)
    for name in ("about.json", "tensors.safetensors", ".metadata", "about.pt"):
        (tmp_path / "step-1" / name).write_bytes(pickle.dumps(Bomb()))
        assert load_state(tmp_path, "f") is None
    assert not (tmp_path / "ran").exists()


KILLED = """
import sys
import pathlib, torch
from excursions.models.state import save_state
folder = pathlib.Path(sys.argv[1])
for step in range(1, 10**6):
    save_state(folder, step, {"w": torch.full((1000,), float(step))}, {"fingerprint": "f"})
    print(step, flush=True)
"""


def test_kill_9_at_any_moment_leaves_a_state_that_can_be_read(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if int(line) >= 20:
                process.send_signal(signal.SIGKILL)
                break
    about, tensors = load_state(tmp_path, "f")
    assert about["step"] >= 20 and (tensors["w"] == about["step"]).all()
    save_state(tmp_path, about["step"] + 1, tensors, about)
    assert len(list(tmp_path.iterdir())) == 2  # no leftover of the kill


def test_a_state_is_json_and_safetensors(tmp_path):
    save(tmp_path, 1)
    assert sorted(path.name for path in (tmp_path / "step-1").iterdir()) == ["about.json", "tensors.safetensors"]
    assert json.loads((tmp_path / "step-1" / "about.json").read_text())["step"] == 1
