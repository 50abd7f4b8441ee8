"""The stages of dvc.yaml depend on the code that they run: no edit of it leaves a result standing unnoticed."""

import ast
import inspect
import json
from pathlib import Path

import pytest
import yaml

from excursions import commands
from excursions.recipes import RECIPES
from excursions.study import code

ROOT = Path(__file__).parents[1]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
# What only describes, checks or stores: its values are in fingerprints and tables, where each run is checked.
DESCRIBING = {
    "__init__",
    "blocks",
    "cli",
    "arguments",
    "commands",
    "files",
    "keys",
    "params",
    "progress",
    "recipes",
    "tokens",
    "tree",
}


def starts(command: str) -> list[str]:
    """The modules that a stage's command imports: those of its function in commands.py, or of its notebook."""
    name, *rest = command.split()[3:]
    found = code._imports(ast.parse(inspect.getsource(getattr(commands, name))))
    if name == "notebook":
        cells = json.loads((ROOT / "notebooks" / f"{rest[0]}.ipynb").read_text(encoding="utf-8"))["cells"]
        for cell in cells:
            if cell["cell_type"] == "code":
                found += code._imports(ast.parse("".join(cell["source"])))
    return [module for module in found if module.startswith("excursions.")]


def closure(waiting: list[str]) -> set[Path]:
    """Files of all modules that these import, directly or not."""
    found: set[Path] = set()
    while waiting:
        file = code._file(waiting.pop(), ROOT / "excursions")
        if file is not None and file not in found:
            found.add(file)
            waiting += code._imports(ast.parse(file.read_text(encoding="utf-8")))
    return {file.relative_to(ROOT) for file in found}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_what_it_imports(name):
    stage = STAGES[name]
    (notebook,) = [each["notebook"] for each in stage.get("vars", [{"notebook": ""}])]
    modules = closure(starts(stage["cmd"].replace("${notebook}", notebook)))
    assert len(modules) > 3
    watched = [Path(dep) for dep in stage["deps"]]
    loose = {
        str(file)
        for file in modules
        if file.stem not in DESCRIBING and not any(file == dep or dep in file.parents for dep in watched)
    }
    assert loose == set()


def test_training_depends_on_every_key_that_can_change_a_run():
    """DVC would not see an edit of another one."""
    named = {key.removeprefix("${item.scale}.") for key in STAGES["train"]["params"]}
    blocks = {block for recipe in RECIPES.values() for block in recipe.reads}
    assert {*blocks, "engine", "lora", "overrides", "seeds", "more_seeds", "recipes", "keep_models"} <= named
