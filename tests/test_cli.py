"""The command line as a newcomer uses it, typos included: one sentence, exit code 2, no traceback."""

import json
import re
import shutil
from pathlib import Path

import pytest
from study_file import write_study

from excursions.cli import main

ROOT = Path(__file__).parents[1]


@pytest.fixture
def project(suite, tmp_path):
    write_study(tmp_path)
    shutil.copytree(suite / "checkpoints", tmp_path / "checkpoints")
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    return tmp_path


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            ["train", "--scale", "smoke", "--recipe", "rll"],
            "There is no recipe 'rll'; accepted: base, rl, sft",
        ),
        (["train", "--scale", "smoke", "--checkpoint", "p21"], "Did you mean 'p20'?"),
        (["cells", "--scale", "smoke"], "or else --checkpoint, names them) 'p08'; accepted: p20"),
        (["train", "--scale", "smoke", "--suite", "pythia", "--recipe", "rl"], "Did you mean 'pythia-1b'?"),
        (["pretrain", "--scale", "smoke", "--suite", "pythia-1b"], "is a public suite of params.yaml"),
        (["plan", "--scale", "smoke", "--recipe", "sft-rl"], "Did you mean 'sft_rl'?"),
        (["sample", "--scale", "smoke", "--question", "easy-test-99"], "There is no question 'easy-test-99'"),
        (["sample", "--model", "nowhere"], "nowhere (--model), revision main, could not be downloaded"),
        (["claims", "--scale", "smoke"], "claims"),
        (["export", "--scale", "smoke"], "results"),
        (["grade", "--pred", "5"], "grade needs --pred and --gold, or --jsonl FILE"),
        (["grade", "--jsonl", "nowhere.jsonl"], "nowhere.jsonl"),
        (["notebook", "early_lr", "--scale", "smoke"], "early_rl"),
        (["notebook", "early_rl", "--scale", "smoke", "-p", "rooot=x"], "Did you mean 'root'?"),
    ],
)
def test_mistakes_are_one_sentence(project, capsys, monkeypatch, command, said):
    monkeypatch.chdir(project)
    assert main(command) == 2
    message = capsys.readouterr().err
    assert said in message and "Traceback" not in message


def test_grade_prints_one_or_zero(capsys, tmp_path):
    assert main(["grade", "--pred", "so it is #### 18", "--gold", "18"]) == 0
    assert capsys.readouterr().out == "1\n"
    file = tmp_path / "lines.jsonl"
    file.write_text('{"prediction": "#### 17", "gold": "18"}\n{"prediction": "\\\\boxed{1/2}", "gold": "0.5"}\n')
    assert main(["grade", "--jsonl", str(file)]) == 0
    assert capsys.readouterr().out == "0\n1\n"
    file.write_text("")
    assert main(["grade", "--jsonl", str(file)]) == 0
    assert capsys.readouterr().out == ""


def test_sample_evaluate_and_plan_on_a_checkpoint(project, capsys):
    where = ["--root", str(project), "--scale", "smoke"]
    assert main(["sample", *where, "--checkpoint", "p88", "-n", "3", "--shots", "1"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert "[gold:" in printed[0] and len(printed) == 4 and all(line[:5] in ("right", "wrong") for line in printed[1:])
    assert main(["evaluate", *where, "--questions", "2", "--general"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"piqa +8 items +accuracy +\d+\.\d% \[\d+\.\d, \d+\.\d\]", printed)
    assert "validation questions, 0-shot" in printed and "Wilson" in printed and "pass@1" in printed
    assert main(["plan", *where, "--checkpoint", "p88", "--recipe", "rl", "sft", "--measure"]) == 0
    printed = capsys.readouterr().out
    assert "to compute" in printed and printed.count("the first step took") == 2
    assert "2 steps of 3 runs would take" in printed, "seeds 0, 1, 2"
    assert "prompts: plain, without BOS (the tokenizer's own rule)" in printed


def test_data_report_is_written(project, capsys):
    assert main(["data", "--root", str(project), "--scale", "smoke"]) == 0
    found = json.loads((project / "results/smoke/data.json").read_text())
    printed = capsys.readouterr()
    assert found["questions"]["train"] == 16 and found == json.loads(printed.out)
    assert all(f"{benchmark}, {shots}-shot, plain" in printed.err for benchmark in ("easy", "hard") for shots in (0, 2))
    assert printed.err.count(":'question'") == 4 and printed.err.count(":'<eos>'\n") == 2, "prompts and solutions"
