"""Every path of the project's tree, once. `root` is the project's folder."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Cell(NamedTuple):
    """The names of one run in the results tree."""

    scale: str
    suite: str
    checkpoint: str
    recipe: str
    seed: int

    @property
    def path(self) -> Path:
        """Its folder below results/, scratch/ or trained/."""
        return Path(self.scale, self.suite, self.checkpoint, self.recipe, f"seed-{self.seed}")


def run_folder(root: Path | str, *cell: str | int) -> Path:
    """Where the results of a run are: root/results/<scale>/<suite>/<checkpoint>/<recipe>/seed-<k>."""
    return Path(root) / "results" / Cell._make(cell).path


def scratch_folder(root: Path | str, *cell: str | int) -> Path:
    """Where the unfinished state of a run and the model that others start from are; not in git."""
    return Path(root) / "scratch" / Cell._make(cell).path


def trained_folder(root: Path | str, *cell: str | int) -> Path:
    """Where the trained model of a run is kept, if it is."""
    return Path(root) / "trained" / Cell._make(cell).path


def try_folder(root: Path | str, name: str) -> Path:
    """Where a variant beside the study is, a project of its own; not in git."""
    return Path(root) / "tries" / name


def suites_with_results(root: Path | str, scale: str) -> list[str]:
    """Names of the suites that have results; main if none has."""
    folder = Path(root) / "results" / scale
    return sorted(path.name for path in folder.glob("[!.]*") if path.is_dir()) or ["main"]


def suite_folder(root: Path | str, scale: str, suite: str) -> Path:
    """Where the checkpoints of a suite of our own are, and suite.json of any suite."""
    return Path(root) / "checkpoints" / scale / suite


def pretraining_scratch(root: Path | str, scale: str, suite: str) -> Path:
    """Where the state of an unfinished pretraining is."""
    return Path(root) / "scratch" / scale / suite / "pretrain"


def measured_file(root: Path | str, key: str) -> Path:
    """What was measured of a model, by the digest of all it depends on; not in git."""
    return Path(root) / "scratch" / "measured" / f"{key}.json"


def questions_file(root: Path | str, key: str) -> Path:
    """The digest of the questions of a scale, by the digest of what makes them; not in git."""
    return Path(root) / "scratch" / "questions" / f"{key}.json"
