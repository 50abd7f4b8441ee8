"""Which code computes a run, and its digest: what a run is checked against besides its parameters.

The code of a run is the modules reached by import from its recipe, its engine, its data source and the measurements,
and the task files of the general benchmarks. Of a module its syntax counts, without comments, docstrings and layout.
Modules that only describe, check or store (params, files, progress bars, paths) are no part of it: the values they hand
on are in the fingerprint or in the tables.
"""

from __future__ import annotations

import ast
import hashlib
import json
from functools import lru_cache
from pathlib import Path

import excursions
from excursions.files import json_digest
from excursions.params import Scale
from excursions.recipes import RECIPES

PACKAGE = Path(excursions.__file__).parent
DESCRIBING = ("excursions", "excursions.params", "excursions.files", "excursions.progress", "excursions.tree",
              "excursions.recipes", "excursions.rollout.engines", "excursions.data.source")  # fmt: skip
MEASURING = ("excursions.evaluation.outcomes", "excursions.evaluation.general", "excursions.models.model")
TASKS = "data/nano/tasks"  # the harness imports excursions.data.nano.benchmarks because these files name it


def run_modules(recipe: str, scale: Scale) -> dict[str, str]:
    """The modules that compute a run of a recipe, each with its digest."""
    source = "excursions.data.nano.source" if scale.questions.source == "nano" else "excursions.data.public_source"
    starts = {*MEASURING, source, f"excursions.rollout.{scale.engine.name}_engine"}
    for name in (recipe, *RECIPES[recipe].ancestors):
        if RECIPES[name].make is not None:
            starts.add(f"excursions.training.{RECIPES[name].make}")
    if scale.questions.source != "nano":
        return reached(tuple(sorted(starts)))
    starts.add("excursions.data.nano.benchmarks")
    return reached(tuple(sorted(starts))) | {TASKS: _tasks_digest()}


def pretraining_modules(scale: Scale) -> dict[str, str]:
    """The modules that compute a suite of our own pretraining, each with its digest."""
    source = "excursions.data.nano.source" if scale.questions.source == "nano" else "excursions.data.public_source"
    return reached((source, "excursions.training.pretrain"))


def digest(modules: dict[str, str]) -> str:
    """One digest of all of them."""
    return json_digest(modules)


def stamp(modules: dict[str, str], shown: str) -> dict[str, object]:
    """What run.json and suite.json say of the code. shown: that it computed them, or how it was shown to be equal."""
    return {"digest": digest(modules), "shown": shown, "modules": modules}


@lru_cache(maxsize=64)
def reached(starts: tuple[str, ...], package: Path = PACKAGE) -> dict[str, str]:
    """Module -> digest, of all modules of the package that the starts import, directly or not."""
    found: dict[str, str] = {}
    waiting = list(starts)
    while waiting:
        name = waiting.pop()
        if name in found or name in DESCRIBING:
            continue
        file = _file(name, package)
        if file is None:
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        found[name] = hashlib.sha256(json.dumps(_plain(_without_docstrings(tree))).encode()).hexdigest()[:16]
        waiting += _imports(tree)
        while "." in name:  # importing a module runs the packages around it
            name = name.rpartition(".")[0]
            waiting.append(name)
    return dict(sorted(found.items()))


@lru_cache(maxsize=1)
def _tasks_digest() -> str:
    """Of what the task files of nano's general benchmarks say."""
    files = {file.name: file.read_text(encoding="utf-8").splitlines() for file in (PACKAGE / TASKS).glob("*yaml")}
    return json_digest({name: [line for line in lines if line[:1] != "#"] for name, lines in files.items()})[:16]


def _file(name: str, package: Path) -> Path | None:
    """The file of a module of the package, or None for what is no module of it."""
    inside = package.joinpath(*name.split(".")[1:])
    for file in (inside.with_suffix(".py"), inside / "__init__.py"):
        if name.split(".")[0] == package.name and file.is_file():
            return file
    return None


def _imports(tree: ast.AST) -> list[str]:
    """Names that a module imports; of `from a import b` both a and a.b, as b may be a module."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


def _without_docstrings(tree: ast.AST) -> ast.AST:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            value = first.value if isinstance(first, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                node.body = node.body[1:]
    return tree


def _plain(node: object) -> object:
    """A syntax tree as lists, the same on every Python: empty fields, which newer versions add, are left out."""
    if isinstance(node, ast.AST):
        fields = {name: _plain(value) for name, value in ast.iter_fields(node) if value not in (None, [])}
        return [type(node).__name__, fields]
    if isinstance(node, list):
        return [_plain(item) for item in node]
    return repr(node)
