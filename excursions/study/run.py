"""One run, a recipe from a checkpoint with a seed: what it depends on, and whether its results are there."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Literal

from excursions import tree
from excursions.data.loading import questions_digest
from excursions.data.source import open_source
from excursions.files import file_digest, json_digest, read_json, write_json
from excursions.models import suites
from excursions.models.weights import weight_files
from excursions.params import Scale, Study
from excursions.recipes import RECIPES
from excursions.results import schemas
from excursions.study import code

PROMPT_FILES = ("chat_template.jinja", "tokenizer_config.json")  # a tokenizer's chat template, and its rule of BOS
FILES = ("outcomes.parquet", "general.parquet", "training.parquet", "samples.jsonl.gz")  # beside run.json
Status = Literal["there", "code changed", "to compute"]


class Run(tree.Cell):
    """Which run, by its names in the results tree; what it starts from, and where what it makes is."""

    @property
    def name(self) -> str:
        suite = "" if self.suite == "main" else f"{self.suite} "
        return f"{suite}{self.checkpoint} {self.recipe} seed-{self.seed}"

    @property
    def parent(self) -> Run | None:
        """The run whose trained model it starts from, if any."""
        parent = RECIPES[self.recipe].parent
        return None if parent is None else self._replace(recipe=parent)

    def folder(self, root: Path) -> Path:
        """Where its results are."""
        return tree.run_folder(root, *self)

    def scratch(self, root: Path) -> Path:
        """Where its unfinished state is, and the model that others start from; not in git."""
        return tree.scratch_folder(root, *self)

    def checkpoint_folder(self, root: Path) -> Path:
        """The checkpoint that it, or the first of its ancestors, starts from."""
        return suites.checkpoint_folder(root, self.scale, self.suite, self.checkpoint)


def parameters(run: Run, scale: Scale) -> dict[str, dict]:
    """The blocks of params.yaml that a run depends on, as its recipe sees them. A key that is null changes nothing and
    is left out."""
    seen, recipe = scale.of(run.recipe), RECIPES[run.recipe]
    blocks = [*recipe.reads, *(["lora"] if seen.lora and recipe.make else [])]
    return {block: without_nulls(asdict(getattr(seen, block))) for block in blocks}


def without_nulls(values: dict) -> dict:
    """A block without its keys that are null."""
    return {key: value for key, value in values.items() if value is not None}


def fingerprint(run: Run, scale: Scale, root: Path) -> str:
    """Hash of all that the run depends on but its code: parameters, questions, the checkpoint's files, its parent."""
    seen = scale.of(run.recipe)
    about: dict[str, object] = {
        "recipe": run.recipe,
        "seed": run.seed,
        "parameters": parameters(run, scale),
        "engine": [seen.engine.name, seen.engine.importance_cap],
        "questions": _questions(seen, root),
    }
    if copies := seen.hub and seen.hub.general:  # of the general benchmarks; those of the hub have no bytes here
        files = sorted(Path(copies).expanduser().glob("*.jsonl"))
        about["general"] = {file.name: _digest(file, file.stat().st_mtime_ns) for file in files}
    if run.parent is None:
        folder = run.checkpoint_folder(root)
        files = weight_files(folder)
        if seen.questions.style or seen.questions.source != "nano":  # else the tokenizer is made by the code
            files += [folder / name for name in PROMPT_FILES if (folder / name).is_file()]
        about["files"] = {file.name: _digest(file, file.stat().st_mtime_ns) for file in files}
    else:
        about["parent"] = fingerprint(run.parent, scale, root)
    return json_digest(about)


def _questions(scale: Scale, root: Path) -> str:
    """Digest of all questions. Of those that are made here it is kept by what makes them, which takes seconds."""
    if not open_source(scale).made_here:
        return questions_digest(scale)
    made_by = code.reached(("excursions.data.nano.source", "excursions.data.loading"))
    # as text, since the order of a mixture's cells decides what is drawn
    file = tree.questions_file(root, json_digest([repr(scale.questions), made_by])[:24])
    found = read_json(file)
    if not isinstance(found, str):
        found = questions_digest(scale)
        with suppress(OSError):  # who may only read waits these seconds again
            write_json(file, found)
    return found


@lru_cache(maxsize=256)
def _digest(file: Path, changed: int) -> str:
    return file_digest(file)


def code_digest(run: Run, scale: Scale) -> str:
    """Digest of the code that computes the run."""
    return code.digest(modules(run, scale))


def modules(run: Run, scale: Scale) -> dict[str, str]:
    """The modules that compute the run, each with its digest."""
    return code.run_modules(run.recipe, scale.of(run.recipe))


def state_key(run: Run, scale: Scale, root: Path) -> str:
    """What a saved state and the trained weights of a run belong to: all it depends on, and its code."""
    return fingerprint(run, scale, root) + code_digest(run, scale)


def about(run: Run, root: Path) -> dict | None:
    """run.json of a run that has results; None for one that has none, or none that can be read."""
    return read_json(run.folder(root) / "run.json", schemas.RUN)


def status(run: Run, scale: Scale, root: Path) -> Status:
    """Whether the results tree holds this very run.

    `code changed`: parameters and inputs are the same, but the code that computes it is not what computed it: it is to
    be shown equal (`equality.show`) or to be computed again.
    """
    found = about(run, root)
    if found is None or found.get("fingerprint") != fingerprint(run, scale, root):
        return "to compute"
    for name in FILES:
        file = run.folder(root) / name
        if not file.is_file() or file.stat().st_size == 0:
            wrong = "is missing or empty"
        elif found.get("files", {}).get(name) not in (None, _digest(file, file.stat().st_mtime_ns)):
            wrong = "was changed after the run had written it"
        else:
            continue
        print(f"{file} {wrong}, so this run is taken as not computed", flush=True)
        return "to compute"
    return "there" if found.get("code", {}).get("digest") == code_digest(run, scale) else "code changed"


def kept_models(runs: Iterable[Run], study: Study) -> set[Run]:
    """Those of the runs whose trained models params.yaml wants kept (`keep_models`, of the suite main at the scales of
    `scales`)."""
    return {
        run
        for run in trained(runs)
        if run.suite == "main" and run.scale in study.scales
        if f"{run.checkpoint}/seed-{run.seed}" in study.keep_models
    }


def trained(runs: Iterable[Run]) -> set[Run]:
    """Those of the runs that train a model: all but `base`."""
    return {run for run in runs if RECIPES[run.recipe].make is not None}
