"""What the arguments of a command name, looked up before anything heavy is imported: a mistake costs no time."""

from __future__ import annotations

import argparse
import ast
import json
import shlex
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from excursions import keys, params, tree
from excursions.params import RECIPES, Study, UserError
from excursions.study import tries


def check(args: argparse.Namespace) -> None:
    """Looks up all that the arguments name, in params.yaml and by their form. Raises UserError."""
    if args.run.__name__ == "evaluate":
        _check_evaluate(args)
        if args.compare:
            return
    for what in ("scale", "suite"):
        if getattr(args, what, None) is not None:
            params.checked_name(getattr(args, what), what)
    if hasattr(args, "scale"):
        file = args.root / "params.yaml"
        if file.is_file() or args.run.__name__ not in ("notebook", "site", "claims"):
            args.study = params.load(file)
            args.scale = args.scale or _scale_with(args.study, args.benchmark)
            scale_of(args)
    if hasattr(args, "suite") and hasattr(args, "study"):
        suite_checkpoints(args.study, args.scale, args.suite, args.root)
    if hasattr(args, "recipe"):
        named_cells(args)
    elif hasattr(args, "checkpoint") and args.model is not None and args.checkpoint is not None:
        raise UserError(f"--checkpoint {args.checkpoint} and --model {args.model} are two models; name one of them.")
    elif hasattr(args, "checkpoint") and args.model is None:
        named_checkpoint(args)
        if args.kept is not None:
            args.model = str(_kept_model(args))
    elif getattr(args, "kept", None) is not None:
        raise UserError(f"--recipe {args.kept} goes with --checkpoint; --model {args.model} names a model by itself.")
    if args.run.__name__ == "try_":
        (checkpoint,), (recipe,) = args.checkpoint, args.recipe
        args.seed = args.seed or [0]
        if not args.set and {*args.seed} <= {*args.study.seeds_of(args.scale, recipe, checkpoint)}:
            raise UserError("without --set this is a run of the study itself; name what the try changes.")
        args.planned = tries.plan_try(
            args.study, args.root, args.name, args.scale, checkpoint, recipe, args.seed, args.set
        )
    if args.run.__name__ == "grade" and args.jsonl and not (args.pred is None and args.gold is None):
        raise UserError("--jsonl takes predictions and answers from its file; leave out --pred and --gold.")
    if args.run.__name__ == "notebook":
        args.parameters = _parameters(args.parameter)
        _check_notebook(args)
    if args.run.__name__ == "compare":
        folders = [folder.name for folder in (args.root / "tries").glob("*") if folder.is_dir()]
        params.one_of(args.name, sorted(folders), "try")
    if args.run.__name__ == "cells":
        try:
            words = shlex.split(args.launcher)
        except ValueError as error:
            raise UserError(f"--launcher {args.launcher}: {error}.") from None
        if not words:
            raise UserError("--launcher is empty; accepted: a command, for example `accelerate launch`.")


def _check_notebook(args: argparse.Namespace) -> None:
    """Whether there is such a notebook, with such parameters, and what they name. Raises UserError."""
    files = sorted((args.root / "notebooks").glob("*.ipynb"))
    if not files:
        raise UserError(
            f"{args.root / 'notebooks'} has no notebooks. Run from the project's folder, or name it: --root."
        )
    name = params.one_of(args.name, [file.stem for file in files], "notebook")
    known = _defaults(args.root / "notebooks" / f"{name}.ipynb")
    for given, value in args.parameters.items():
        params.one_of(given, list(known), f"parameter of the notebook {name}")
        if given in NUMBERS:
            _check_number(given, value, known[given])
        if given == "number" and hasattr(args, "study") and not value < scale_of(args).questions.test:
            raise UserError(
                f"--parameter number={value}: accepted: below {scale_of(args).questions.test}, as many as "
                "are asked of a benchmark."
            )
        if given in ("recipe", "other"):
            params.one_of(str(value), RECIPES, "recipe")
        if given == "suite" and hasattr(args, "study"):
            suite_checkpoints(args.study, args.scale, str(value), args.root)
            if args.study.scale(args.scale, str(value)).asked != "test":
                raise UserError(
                    f"--parameter suite={value}: this suite asks validation questions, to choose settings by; "
                    "accepted: one that asks the test's. docs/calibration.md shows what was chosen."
                )
        if given == "checkpoint" and hasattr(args, "study"):
            suite = str(args.parameters.get("suite") or "main")
            params.one_of(str(value), suite_checkpoints(args.study, args.scale, suite, args.root), "checkpoint")
    chosen = known | args.parameters
    if name == "audit" and hasattr(args, "study"):
        cell = tree.Cell(args.scale, *(chosen[key] for key in ("suite", "checkpoint", "recipe", "seed")))
        if not (tree.run_folder(args.root, *cell) / "run.json").is_file():
            raise UserError(
                f"{tree.run_folder(args.root, *cell)} has no results to audit; `excursions train --scale {cell.scale} "
                f"--suite {cell.suite} --checkpoint {cell.checkpoint} --recipe {cell.recipe} --seed {cell.seed}` "
                "computes them."
            )


# Of parameters of notebooks that are numbers, what they may be.
NUMBERS = {
    "seed": params.SEED,
    "steps": keys.Range(1, 10**6),
    "seconds": keys.Range(1, 10**6),
    "rollouts": keys.Range(2, 1024),
    "number": keys.Range(0, 10**6),
    "learning_rate": keys.Range(0, 1, above=True),
}


def _check_number(name: str, value: object, default: object) -> None:
    kinds = (int,) if type(default) is int else (int, float)
    if type(value) not in kinds or value not in NUMBERS[name]:  # type: ignore[operator]  # a number by then
        word = "a whole number" if kinds == (int,) else "a number"
        raise UserError(f"--parameter {name}={value}: accepted: {word}, {NUMBERS[name]}.")


def _defaults(file: Path) -> dict[str, object]:
    """The parameters of a notebook with their defaults. Raises UserError for what is no notebook."""
    try:
        cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
        source = "".join(
            line for cell in cells if "parameters" in cell["metadata"].get("tags", ()) for line in cell["source"]
        )
        lines = [line for line in ast.parse(source).body if isinstance(line, ast.Assign)]
        return {line.targets[0].id: ast.literal_eval(line.value) for line in lines}  # type: ignore[attr-defined]  # a name, or it is caught
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SyntaxError) as error:
        raise UserError(
            f"{file} is no notebook that can be read ({type(error).__name__}: {error}). Bring it back with "
            f"`git checkout -- {file}`."
        ) from None


def suite_checkpoints(study: Study, scale: str, suite: str, root: Path) -> tuple[str, ...]:
    """Names of the checkpoints of a suite, or of the suite it starts from: those of params.yaml's `suites`, or of our
    own pretraining. Raises UserError for a suite that is neither."""
    suite = study.checkpoint_suite(suite)
    if suite in study.public_suites:
        return tuple(study.public_suites[suite].checkpoints)
    own = sorted({"main", *(file.parent.name for file in (root / "checkpoints" / scale).glob("*/suite.json"))})
    params.one_of(suite, dict.fromkeys([*own, *study.suites]), f"suite of {scale}")
    return study.scale(scale, suite).pretrain.save


def scale_of(args: argparse.Namespace) -> params.Scale:
    return args.study.scale(args.scale, getattr(args, "suite", "main"))


def _scale_with(study: Study, benchmark: str | None) -> str:
    """The scale that has a benchmark: nano before all others. Raises UserError if there is none."""
    if benchmark is None:
        return "nano"
    scales: dict[str, str] = {}
    for name in sorted(study.blocks, key=lambda name: name != "nano"):
        questions = study.scale(name).questions
        for found in filter(None, (questions.easy, questions.hard)):
            scales.setdefault(found, name)
    return scales[params.one_of(benchmark, scales, "benchmark")]


def _check_evaluate(args: argparse.Namespace) -> None:
    """Raises UserError for options that do not go together."""
    useless: tuple[str, ...] = ("split", "general") if args.benchmark else ("json", "keep")
    if args.compare:
        useless = ("benchmark", "model", "checkpoint", "kept", "split", "general", "keep", "questions", "samples")
        useless += ("shots", "max_new_tokens", "engine", "threads")
    if args.keep is not None and (args.keep.exists() or args.keep.is_symlink()):
        raise UserError(
            f"--keep {args.keep} exists; name a new file, or delete it. What is on disk is not written over."
        )
    by = "--compare" if args.compare else "--benchmark" if args.benchmark else "evaluate without --benchmark"
    for name in useless:
        if getattr(args, name):
            option = {"kept": "recipe"}.get(name, name.replace("_", "-"))
            raise UserError(f"{by} takes no --{option}. `excursions evaluate --help` tells more.")


def named_cells(args: argparse.Namespace) -> list[tuple[str, str, str, str, int]]:
    """The runs named by --checkpoint, --recipe and --seed, each of them all of params.yaml by default, each once."""
    study = args.study
    for name in args.recipe:
        params.one_of(name, RECIPES, "recipe")
    there = suite_checkpoints(study, args.scale, args.suite, args.root)
    about = study.suites.get(args.suite, study)
    where = "" if args.checkpoint else " (`checkpoints` of params.yaml, or else --checkpoint, names them)"
    for name in args.checkpoint or about.checkpoints:
        params.one_of(name, there, f"checkpoint of {args.scale}, suite {args.suite}{where}")
    cells = (
        (args.scale, args.suite, checkpoint, recipe, seed)
        for checkpoint in args.checkpoint or about.checkpoints
        for recipe in args.recipe or getattr(about, "recipes", study.recipes)
        for seed in args.seed or study.seeds_of(args.scale, recipe, checkpoint, args.suite)
    )
    return list(dict.fromkeys(cells))


def named_runs(args: argparse.Namespace) -> list:
    """One at least. Raises UserError."""
    from excursions.study.run import Run

    runs = [Run(*cell) for cell in named_cells(args)]
    if not runs:
        raise UserError(
            f"{args.study.path} names no such run: `seeds` is empty, and `more_seeds` has no seed for these recipes "
            "and checkpoints; name seeds there, or with --seed."
        )
    return runs


def named_checkpoint(args: argparse.Namespace) -> str:
    """The one that --checkpoint names, the last of the suite by default."""
    there = suite_checkpoints(args.study, args.scale, args.suite, args.root)
    return params.one_of(args.checkpoint or there[-1], there, f"checkpoint of {args.scale}, suite {args.suite}")


def _kept_model(args: argparse.Namespace) -> Path:
    """The folder of a trained model that was kept. Raises UserError if it was not."""
    recipe, named, seed = args.kept.partition("/")
    if named and not seed:
        raise UserError(f"--recipe {args.kept}: accepted: a recipe, or a recipe and a seed, e.g. {recipe}/seed-0.")
    params.one_of(recipe, [name for name in RECIPES if name != "base"], "recipe that trains")
    cell = (args.scale, args.suite, named_checkpoint(args), recipe)
    kept = {folder.name: folder for folder in sorted(tree.trained_folder(args.root, *cell, 0).parent.glob("seed-*"))}
    if not kept:
        folder = tree.trained_folder(args.root, *cell, 0)
        raise UserError(f"{folder}: no trained model was kept there. `excursions train --keep-model` keeps them.")
    return kept[params.one_of(seed or "seed-0", list(kept), f"kept model of {recipe} from {cell[2]}")]


def _parameters(pairs: Iterable[str]) -> dict[str, object]:
    """The values that --parameter gives a notebook. Raises UserError."""
    found: dict[str, object] = {}
    for pair in pairs:
        name, is_pair, text = pair.partition("=")
        if not is_pair:
            raise UserError(f"--parameter {pair}: accepted: name=value, e.g. checkpoint=p56.")
        if name == "scale":
            raise UserError(f"--parameter {pair}: `--scale {text or 'nano'}` names the scale.")
        if name in found:
            raise UserError(f"--parameter {pair}: {name} is given twice.")
        found[name] = keys.plain_value(text)
        if name in ("suite", "checkpoint"):
            found[name] = params.checked_name(text, name)
    return found


def asked_scale(args: argparse.Namespace) -> params.Scale:
    """The scale with the numbers that `evaluate` is given."""
    scale = scale_of(args)
    given = {name: getattr(args, name) for name in ("samples", "max_new_tokens") if getattr(args, name)}
    return replace(scale, evaluate=replace(scale.evaluate, **given))


def loaded(args: argparse.Namespace) -> tuple:
    """The model of --model or --checkpoint on its device, its tokenizer, and an engine that samples from it."""
    from excursions.models.model import load_model, use_machine
    from excursions.models.suites import checkpoint_folder, find_model, prepare_suite
    from excursions.rollout.engines import start_engine

    device = use_machine(args.threads)
    study, scale, suite = args.study, scale_of(args), args.study.checkpoint_suite(args.suite)
    if args.model is not None:
        folder = find_model(args.model)
    elif suite in study.public_suites:
        name = named_checkpoint(args)
        folder = prepare_suite(study, args.scale, suite, [name], args.root)[name]
    else:
        folder = checkpoint_folder(args.root, args.scale, suite, named_checkpoint(args))
    model, tokenizer = load_model(folder)
    model.to(device)
    name = args.engine or (scale.engine.name if args.model is None else "transformers")
    return model, tokenizer, start_engine(replace(scale.engine, name=name), model, tokenizer)
