"""What is asked of the command line: help, mistakes told before anything that takes time is imported, ranges, lists."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from study_file import write_study

from excursions import cli, keys
from excursions.arguments import check, named_cells, suite_checkpoints
from excursions.models.model import use_machine
from excursions.params import UserError

ROOT = Path(__file__).parents[1]
COMMANDS = "data pretrain train show evaluate notebook site claims plan cells sample export grade smoke".split()


def run(*arguments, **environment):
    """In a process of its own; stderr has the modules it imported."""
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "excursions", *arguments],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environment},
    )  # fmt: skip


@pytest.fixture
def parsed(monkeypatch):
    """What a command would be called with."""
    monkeypatch.chdir(ROOT)

    def parse(*arguments):
        args = cli._parse(list(arguments))
        check(args)
        return args

    return parse


@pytest.mark.parametrize("command", COMMANDS)
def test_each_help_says_what_it_is_for_and_gives_an_example_that_is_right(command, parsed, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, "--help"])
    told = capsys.readouterr().out
    assert stopped.value.code == 0
    about, examples = told.split("\n\n")[1], told.split("for example:\n")[1].splitlines()
    assert about.endswith(".") and examples
    for example in examples:
        words = shlex.split(example.split(" > ")[0])
        assert words[:2] == ["excursions", command]
        if "larger" not in words:  # a suite that params.yaml may not name yet
            parsed(*words[1:])


def test_help_lists_all_commands_quickly_also_without_docstrings():
    done = run("--help", PYTHONOPTIMIZE="2")
    assert done.returncode == 0 and all(re.search(rf"^ +{name} +\w", done.stdout, re.M) for name in COMMANDS)
    assert "torch" not in done.stderr and "pandas" not in done.stderr


def test_version():
    done = run("--version")
    assert done.returncode == 0 and re.fullmatch(r"excursions [\w.]+\n", done.stdout)


MISTAKES = [
    ("trian", "There is no command 'trian'; accepted: data, pretrain, train"),
    ("TRAIN", "Did you mean 'train'?"),
    ("train --sede 0", "takes no '--sede'. Did you mean '--seed'?"),
    ("train rl", "takes no 'rl'"),
    ("train --scale nanoo", "Did you mean 'nano'?"),
    ("train --scale ../x", "'../x' cannot be the name of a scale"),
    ("train --recipe RL", "There is no recipe 'RL'; accepted: base, rl, sft"),
    ("train --checkpoint p21", "There is no checkpoint of nano, suite main 'p21'"),
    ("train --suite Pythia-1B", "Did you mean 'pythia-1b'?"),
    ("train --seed -1", "--seed: -1 is not a whole number, 0 to 9,223,372,036,854,775,807"),
    ("train --seed 18446744073709551616", "is not a whole number, 0 to"),
    ("train --seed 0.5", "0.5 is not a whole number"),
    ("train --seed one", "one is not a whole number"),
    ("pretrain --suite ../../x", "'../../x' cannot be the name of a suite; accepted: letters"),
    ("pretrain --suite a;b", "cannot be the name of a suite"),
    ("pretrain --suite pythia-1b", "is a public suite of params.yaml"),
    ("pretrain --suite shots-1", "start from the checkpoints of 'main'"),
    ("data --suite shots-11", "Did you mean 'shots-1'?"),
    ("pretrain --processes 0", "--processes: 0 is not a whole number, 1 to 1,024"),
    ("pretrain --processes 100000", "is not a whole number, 1 to 1,024"),
    ("evaluate --questions 0", "--questions: 0 is not a whole number, 1 to"),
    ("evaluate --json", "evaluate without --benchmark takes no --json"),
    ("evaluate --benchmark gsm9k", "There is no benchmark 'gsm9k'; accepted: easy, hard, gsm8k, math. Did you mean"),
    ("evaluate --benchmark gsm8k --split test", "--benchmark takes no --split"),
    ("evaluate --compare a b --model x", "--compare takes no --model"),
    ("evaluate --compare a b --max-new-tokens 5", "--compare takes no --max-new-tokens"),
    ("evaluate --compare a b --recipe rl", "--compare takes no --recipe"),
    ("evaluate --compare a.jsonl", "--compare: expected 2 arguments"),
    ("evaluate --compare nowhere.jsonl b.jsonl", "nowhere.jsonl could not be read"),
    ("evaluate --engine tf", "invalid choice: 'tf'"),
    ("evaluate --shots -1", "-1 is not a whole number, 0 to"),
    ("evaluate --split tset", "invalid choice: 'tset'"),
    ("evaluate --checkpoint p21", "There is no checkpoint of nano, suite main 'p21'"),
    ("sample -n 0", "0 is not a whole number, 1 to"),
    ("sample --temperature nan", "nan is not a number, 0 to 100"),
    ("sample --temperature -0.5", "-0.5 is not a number, 0 to 100"),
    ("plan --gpu-tflops inf", "inf is not a number, above 0"),
    ("plan --utilization 1.5", "1.5 is not a number, 0 to 1, not 0 itself"),
    ("plan --gpus 0", "0 is not a whole number, 1 to"),
    ("notebook early_lr", "Did you mean 'early_rl'?"),
    ("notebook sharpening_or_expansion -p siute=main", "accepted: scale, root, suite. Did you mean 'suite'?"),
    ("notebook early_rl --root tests", "has no notebooks. Run from the project's folder, or name it: --root"),
    ("notebook audit -p seed", "accepted: name=value"),
    ("notebook audit -p seed=-1", "--parameter seed=-1: accepted: a whole number, 0 to"),
    ("notebook audit -p seed=nan", "--parameter seed=nan: accepted: a whole number"),
    ("notebook audit -p checkpoint={", "'{' cannot be the name of a checkpoint"),
    ("notebook audit -p suite=../x", "'../x' cannot be the name of a suite"),
    ("notebook suite -p suite=cal-rl-1e-4", "this suite asks validation questions, to choose settings by"),
    ("notebook audit -p seed=1000", "has no results to audit; `excursions train --scale nano --suite main"),
    ("notebook audit -p steps=0", "--parameter steps=0: accepted: a whole number, 1 to"),
    ("notebook 00_start_here -p learning_rate=0", "accepted: a number, 0 to 1, not 0 itself"),
    ("notebook 00_start_here -p rollouts=1.5", "accepted: a whole number, 2 to"),
    ("notebook early_rl -p scale=paper", "`--scale paper` names the scale"),
    ("notebook early_rl -p suite=", "'' cannot be the name of a suite"),
    ("notebook early_rl -p suite=main suite=main", "suite is given twice"),
    ("train --scale nano --scale smoke", "--scale is given twice"),
    ("sample --checkpoint p20 --model x", "are two models; name one of them"),
    ("sample -n 3 -n 4", "-n is given twice"),
    ("try --checkpoint p20 --recipe rl --name x --set rl.steps=1 rl.steps=2", "rl.steps is given twice"),
    ("pretrain --suite mian", "Did you mean 'main'?"),
    ("export --suite mian", "Did you mean 'main'?"),
    ("data --suite larger --report", "--report is of the study itself, the suite main; found: --suite larger"),
    ("train --recipe base --keep-model", "base trains none; name another --recipe"),
    ("sample --recipe rl/", "--recipe rl/: accepted: a recipe, or a recipe and a seed, e.g. rl/seed-0"),
    ("notebook 00_start_here -p number=500", "--parameter number=500: accepted: below 500"),
    ("evaluate --benchmark easy --keep README.md", "--keep README.md exists; name a new file, or delete it"),
    ("evaluate --benchmark easy --keep /dev/null", "exists; name a new file, or delete it"),
    ("grade --jsonl x --pred 5", "leave out --pred and --gold"),
    ("grade --pred 5", "grade needs --pred and --gold, or --jsonl FILE"),
    ("train --root nowhere", "params.yaml does not exist"),
]


@pytest.mark.parametrize(("command", "said"), MISTAKES)
def test_a_mistake_is_one_sentence(command, said, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert cli.main(command.split(" ")) == 2
    told = capsys.readouterr().err
    assert said in told and told.startswith("excursions: ") and told.count("\n") == 1


def test_what_no_check_has_met_is_one_sentence_too(capsys, monkeypatch):
    monkeypatch.setattr("excursions.grading.grade.is_correct", lambda *pair: 1 / 0)
    assert cli.main(["grade", "--pred", "5", "--gold", "5"]) == 1
    told = capsys.readouterr().err
    assert "unforeseen ZeroDivisionError: division by zero (test_arguments.py, line" in told and told.count("\n") == 1
    monkeypatch.setenv("EXCURSIONS_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        cli.main(["grade", "--pred", "5", "--gold", "5"])


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"cells": [{}]}', '{"cells": [{"metadata": {"tags": ["parameters"]}}]}']
)
def test_a_damaged_notebook_is_one_sentence(content, tmp_path, capsys):
    write_study(tmp_path)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "early_rl.ipynb").write_text(content)
    assert cli.main(["notebook", "early_rl", "--scale", "smoke", "--root", str(tmp_path)]) == 2
    assert "is no notebook that can be read" in capsys.readouterr().err


def test_a_mistake_is_told_before_anything_heavy_is_imported():
    done = run("train", "--recipe", "rll")
    assert done.returncode == 2 and "There is no recipe 'rll'" in done.stderr
    assert not re.search(r"\| +(torch|transformers|pandas|datasets)$", done.stderr, re.M)


@pytest.mark.parametrize(("said", "threads"), [("2", 2), ("2,1", 2), (" 1", 1), ("", os.cpu_count())])
def test_threads_are_as_many_as_the_environment_says(said, threads, monkeypatch):
    set_to = []
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    use_machine()
    use_machine(3)
    assert set_to == [threads, 3]


@pytest.mark.parametrize("said", ["abc", "0", "-1", "1.5"])
def test_threads_that_are_no_number_are_refused(said, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    with pytest.raises(UserError, match=f"OMP_NUM_THREADS is '{said}'; accepted: a whole number"):
        use_machine()


def test_options_that_are_given_again_add_up_and_nothing_is_named_twice(parsed):
    args = parsed("train", "--recipe", "rl", "--recipe", "sft", "rl", "--seed", "0", "0", "--checkpoint", "p20")
    assert named_cells(args) == [("nano", "main", "p20", "rl", 0), ("nano", "main", "p20", "sft", 0)]
    args = parsed("notebook", "audit", "-p", "checkpoint=p56", "-p", "recipe=parallel", "seed=0")
    assert args.parameters == {"checkpoint": "p56", "recipe": "parallel", "seed": 0}
    assert parsed("train").recipe == [], "the default is not what the call before has added"


@pytest.mark.parametrize("command", ["train", "show", "plan", "cells"])
def test_a_study_without_such_runs_names_the_keys(command, tmp_path, capsys):
    write_study(tmp_path, seeds=[], more_seeds={"base": {"p20": [0]}})
    assert cli.main([command, "--root", str(tmp_path), "--recipe", "rl"]) == 2
    told = capsys.readouterr().err
    assert "`seeds` is empty, and `more_seeds` has no seed" in told and "--seed" in told and told.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("p56", "p56"), ("3", 3), ("1e-4", 1e-4), ("true", True), ("null", None), ("", ""), ("{", "{"), ("[", "["),
        ("2024-01-01", "2024-01-01"), ("nan", "nan"), (".nan", ".nan"), (".inf", ".inf"), ("a: b: c", "a: b: c"),
        ("[p08, 1]", ["p08", 1]), ("!!python/name:os.system", "!!python/name:os.system"), ("[" * 5000, "[" * 5000),
        ("'3'", "3"), ("\t", "\t"), ("a\nb", "a b"),
    ],
)  # fmt: skip
def test_a_parameter_is_a_plain_value_or_its_own_text(text, value):
    assert keys.plain_value(text) == value and type(keys.plain_value(text)) is type(value)


def test_a_suite_of_our_own_that_is_there_may_be_named(tmp_path):
    from excursions.params import load

    study = load(ROOT / "params.yaml")
    (tmp_path / "checkpoints" / "nano" / "tried").mkdir(parents=True)
    (tmp_path / "checkpoints" / "nano" / "tried" / "suite.json").write_text("{}")
    assert suite_checkpoints(study, "nano", "tried", tmp_path) == study.scale("nano").pretrain.save
    with pytest.raises(UserError, match="Did you mean 'tried'"):
        suite_checkpoints(study, "nano", "tired", tmp_path)
