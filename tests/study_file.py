"""params.yaml with a head of a test's own, so that no test depends on which runs the project's file names just now."""

from pathlib import Path

import yaml

from excursions import params
from excursions.params import RECIPES, Study
from excursions.study.smoke import with_head

FILE = Path(__file__).parents[1] / "params.yaml"
HEAD = {
    "scales": ["nano"],
    "checkpoints": ["p08", "p20", "p40", "p56", "p88"],
    "recipes": list(RECIPES),
    "seeds": [0, 1, 2],
    "more_seeds": {},
    "keep_models": [],
}


def read_study(**head) -> dict:
    """params.yaml as it is read, a new one at each call, with HEAD, the public suites alone, and then `head` as its
    top-level keys."""
    return with_head(yaml.safe_load(FILE.read_text(encoding="utf-8")), HEAD | head)


def write_study(root: Path, **head) -> Study:
    """Writes that as params.yaml under root; returns what is loaded from there."""
    (root / "params.yaml").write_text(yaml.safe_dump(read_study(**head), sort_keys=False), encoding="utf-8")
    return params.load(root / "params.yaml")
