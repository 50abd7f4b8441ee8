"""Every figure, report and claim made again by force, and compared byte by byte with what was there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

from excursions.files import file_digest
from excursions.params import UserError
from excursions.study.smoke import environment, without_git


def verify(root: Path, scales: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """(all files, those that came out otherwise or were not there) of the stages that show results of these scales.

    What a stage made is removed before it runs. Raises UserError if nothing was made before, or if a stage fails.
    """
    lock = root / "dvc.lock"
    if not lock.is_file():
        raise UserError(f"{lock} does not exist, so nothing was made yet; `dvc repro` makes it.")
    made = yaml.safe_load(lock.read_text(encoding="utf-8"))["stages"]
    known = [stage for name in result_stages(root) for stage in (name, *(f"{name}@{scale}" for scale in scales))]
    stages = [stage for stage in known if stage in made]
    files = [out["path"] for stage in stages for out in made[stage]["outs"]]
    without_git(root)
    before = {file: file_digest(root / file) if (root / file).is_file() else "" for file in files}
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "repro", "--force", "--single-item", *stages],
        cwd=root,
        env=environment(root.absolute()),
    )
    if done.returncode:
        raise UserError("`dvc repro` failed, its last lines say why; `git checkout -- .` brings back what it removed.")
    return files, [file for file in files if file_digest(root / file) != before[file]]


def result_stages(root: Path) -> dict[str, dict]:
    """The stages of dvc.yaml that show results, in its order: each runs the notebook of its name, `site` the site."""
    file = root / "dvc.yaml"
    if not file.is_file():
        raise UserError(f"{file} does not exist. Run from the project's folder, or name it with --root.")
    stages = yaml.safe_load(file.read_text(encoding="utf-8"))["stages"]
    return {name: stage for name, stage in stages.items() if " notebook " in stage["cmd"] or name == "site"}
