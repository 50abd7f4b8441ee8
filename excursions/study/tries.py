"""Variants of a recipe beside the study, each a project of its own in tries/<name>/, which is not in git.

Its params.yaml names the runs and holds the scale with the changed values; its checkpoints are the study's, read where
they are. So every command takes it by `--root tries/<name>`, and none of them can write over the study.

Nothing heavy is imported before all is checked.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import yaml

from excursions import keys, params, tree
from excursions.blocks import BLOCKS
from excursions.files import whole_file, write_json
from excursions.params import Scale, Study, UserError
from excursions.recipes import RECIPES


@dataclass(frozen=True)
class Try:
    """A try that is checked and not yet on disk."""

    root: Path  # the project's folder
    folder: Path  # its own
    scale: str
    text: str  # of its params.yaml

    def write(self) -> Study:
        """Makes its folder a project; returns what its params.yaml says. One that is there stays as it is."""
        from excursions.results import tables

        about = tables.load_suite(self.root, self.scale)
        lender, own = (tree.suite_folder(root, self.scale, "main") for root in (self.root, self.folder))
        borrowed = {
            "model": os.path.relpath(lender, self.folder),
            "revisions": {name: name for name in about["tokens"]},
        }
        write_json(own / "suite.json", {key: about[key] for key in ("parameters", "tokens", "total_tokens")} | borrowed)
        with whole_file(self.folder / "params.yaml") as file:
            file.write_text(self.text, encoding="utf-8")
        return params.load(self.folder / "params.yaml")


def plan_try(
    study: Study,
    root: Path,
    name: str,
    scale: str,
    checkpoint: str,
    recipe: str,
    seeds: Sequence[int],
    pairs: Sequence[str],
) -> Try:
    """The try `name`: a recipe from a checkpoint of the suite main, with what pairs of 'block.key=value' change.

    Raises UserError for a pair that the recipe does not read or take, and for the name of a try with other settings.
    """
    changed = settings(pairs, recipe)
    params.changed(study.scale(scale).of(recipe), changed, f"{study.path}: {scale}", "--set")
    raw = keys.read_yaml(Path(study.path))
    # as overrides of the recipe, which win over those that params.yaml has, and of the recipes it starts from
    overrides = {}
    for one in (recipe, *RECIPES[recipe].ancestors):
        before = (raw[scale].get("overrides") or {}).get(one) or {}
        taken = {block: values for block, values in changed.items() if block in RECIPES[one].takes}
        overrides[one] = {block: {**before.get(block, {}), **taken.get(block, {})} for block in {**before, **taken}}
    head = {"scales": [scale], "checkpoints": [checkpoint], "recipes": [recipe], "seeds": list(dict.fromkeys(seeds))}
    made = head | {"more_seeds": {}, "keep_models": [], scale: raw[scale] | {"overrides": overrides, "seeds": None}}
    text = yaml.safe_dump(made, sort_keys=False)
    folder = tree.try_folder(root, params.checked_name(name, "try"))
    if (folder / "params.yaml").is_file():
        old = (folder / "params.yaml").read_text(encoding="utf-8")
        lines = difflib.unified_diff(old.splitlines(), text.splitlines(), n=0, lineterm="")
        if differ := [" ".join(line.split()) for line in lines if line[:3] not in ("---", "+++") and line[0] in "-+"]:
            raise UserError(
                f"{folder} is a try with other settings ({keys.listed(differ)}; + is new); give this one another "
                f"--name, or delete that folder."
            )
    return Try(root, folder, scale, text)


def settings(pairs: Iterable[str], recipe: str) -> dict[str, dict[str, object]]:
    """{block: {key: value}} of pairs 'block.key=value', checked one by one. Raises UserError."""
    # what the recipe trains by comes first in the list of an error
    known = [f"{block}.{key.name}" for block in reversed(RECIPES[recipe].reads) for key in fields(BLOCKS[block])]
    found: dict[str, dict[str, object]] = {}
    for pair in pairs:
        dotted, is_pair, text = pair.partition("=")
        if not is_pair:
            raise UserError(f"--set {pair}: accepted: block.key=value, e.g. rl.learning_rate=2e-4.")
        block, _, key = params.one_of(dotted, known, f"key that {recipe} reads").partition(".")
        if key in found.get(block, {}):
            raise UserError(f"--set {pair}: {dotted} is given twice.")
        value = keys.plain_value(text)
        keys.build_key(BLOCKS[block], key, value, "--set", dotted)
        found.setdefault(block, {})[key] = value
    return found


def cost_line(runs: Sequence, scale: Scale, root: Path) -> str:
    """What the runs of a try cost, with the runs they start from, in a sentence. root: whose logs tell the lengths."""
    from excursions.study import costs, planning

    every = list(runs)
    for run in every:  # grows by the parents
        every += [run.parent] if run.parent and run.parent not in every else []
    first, machine, shape = runs[0], costs.find_machine(scale), planning.model_shape(scale)
    lengths = costs.find_lengths(scale, root, first.scale, first.suite)
    stages = costs.study_costs(every, scale, shape, lengths, pretrained=True)
    flops, hours = costs.totals(stages, machine)
    names = ", ".join(run.name for run in runs)
    return f"{names}: about {flops:.1e} FLOPs, {hours:.2g} {machine.device}-hours"
