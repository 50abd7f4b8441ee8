"""Every command line of README and docs is one the command line knows; README's about the study run, at smoke scale."""

import re
import shlex
import shutil
from pathlib import Path

from study_file import write_study

from excursions import cli

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "docs/own-models.md", "docs/paper-scale.md", "docs/calibration.md")
# by themselves or in a sentence; what follows > or ; is the shell's
COMMAND = re.compile(r"^excursions ([^>;\n]+)|`excursions ([^`>;]+)", re.M)
STUDY = ("plan", "sample", "evaluate", "grade", "train", "export", "cells")


def command_lines(page: str) -> list[list[str]]:
    found = COMMAND.findall((ROOT / page).read_text(encoding="utf-8"))
    return [shlex.split(line or inline, comments=True) for line, inline in found]


def test_every_command_line_is_known():
    found = [line for page in PAGES for line in command_lines(page)]
    assert len(found) > 30 and {"try", "compare", "plan", "train"} <= {line[0] for line in found}
    for line in found:
        assert callable(cli._parse(line).run), line


def test_those_of_the_readme_run(suite, tmp_path, monkeypatch, capsys):
    write_study(tmp_path, scales=["smoke"], checkpoints=["p88"], recipes=["base"], seeds=[0])
    shutil.copytree(suite / "checkpoints", tmp_path / "checkpoints")
    monkeypatch.chdir(tmp_path)
    lines = [line for line in command_lines("README.md") if line[0] in STUDY and "paper" not in line and len(line) > 1]
    lines = [line for line in lines if not (line[0] == "sample" and "--recipe" in line)]  # of a model that is kept
    assert len(lines) > 4
    for line in lines:
        at_smoke = [re.sub(r"^p\d\d$", "p88", word) for word in line]
        if line[0] == "train" and "--keep-model" in line:
            at_smoke += ["--recipe", "sft"]
        code = cli.main(at_smoke + (["--scale", "smoke"] if line[0] != "grade" else []))
        assert code == 0, (line, capsys.readouterr().err)
    assert (tmp_path / "folder" / "outcomes.csv").is_file()
