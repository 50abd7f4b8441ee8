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
    made = _stages(lock)
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
        places = " ".join(dict.fromkeys(file.split("/")[0] for file in files))
        raise UserError(
            f"`dvc repro` failed, its last lines say why; `git checkout -- {places}` brings back what it made."
        )
    return files, [file for file in files if file_digest(root / file) != before[file]]


def result_stages(root: Path) -> dict[str, dict]:
    """The stages of dvc.yaml that show results, in its order: each runs the notebook of its name, `site` the site."""
    file = root / "dvc.yaml"
    if not file.is_file():
        raise UserError(f"{file} does not exist. Run from the project's folder, or name it with --root.")
    return {
        name: stage for name, stage in _stages(file).items() if " notebook " in str(stage.get("cmd")) or name == "site"
    }


def _stages(file: Path) -> dict[str, dict]:
    """Of dvc.yaml or dvc.lock. Raises UserError for one that cannot be read."""
    try:
        stages = yaml.safe_load(file.read_text(encoding="utf-8"))["stages"]
        if all(isinstance(stage, dict) for stage in stages.values()):
            return stages
        what = "a stage is no mapping"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    raise UserError(f"{file} cannot be read ({what}). Bring it back with `git checkout -- {file}`.")
