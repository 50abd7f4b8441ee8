"""Which runs of the study are there, and how long the others will take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from excursions.data.prompts import PLAIN, begins_with_bos
from excursions.files import read_json
from excursions.models.model import load_model
from excursions.models.processes import Processes
from excursions.params import Scale
from excursions.recipes import RECIPES
from excursions.results import schemas
from excursions.rollout.engines import start_engine
from excursions.study.one_run import use_cores
from excursions.study.run import Run, status
from excursions.tokens import read_tokenizer
from excursions.training.recipes import training

MINUTES_TO_SHOW = 0.5  # that a run equals its results, at nano scale


def describe_plan(wanted: Sequence[Run], scale: Scale, root: Path) -> list[str]:
    """One line per run: there, to be shown equal (its code changed), or to compute with the minutes that runs of its
    recipe took; and their sum."""
    lines, minutes, unknown, changed = [], 0.0, 0, 0
    took: dict[str, list[float]] = {}
    for file in (root / "results" / wanted[0].scale).glob("*/*/*/seed-*/run.json"):
        found = read_json(file, schemas.RUN)
        if found is not None:
            took.setdefault(file.parts[-3], []).append(found["wall_seconds"] / 60)
    for run in wanted:
        known = took.get(run.recipe)
        # the file first: a run that is not there says nothing about a checkpoint that may be still to be downloaded
        found = status(run, scale, root) if (run.folder(root) / "run.json").is_file() else "to compute"
        if found == "there":
            lines.append(f"{run.name:28} there")
        elif found == "code changed":
            changed += 1
            lines.append(f"{run.name:28} there, but its code changed: `excursions show` does its first steps again")
        elif known:
            minutes += sum(known) / len(known)
            lines.append(f"{run.name:28} to compute, about {sum(known) / len(known):.1f} minutes")
        else:
            unknown += 1
            lines.append(f"{run.name:28} to compute, no run of its recipe to judge the time by")
    parts = [f"about {minutes / scale.workers:.0f} minutes with {scale.workers} workers"] if minutes else []
    parts += [f"{unknown} runs of unknown length"] if unknown else []
    lines.append(f"to compute: {' and '.join(parts) or 'nothing'}")
    if changed:
        lines.append(f"to show equal: {changed} runs, about {changed * MINUTES_TO_SHOW:.0f} minutes")
    return lines


def prompts_line(scale: Scale, folder: Path) -> str:
    """How the models are asked, and whether by a BOS first. folder: a checkpoint, which may not be here yet."""
    style = scale.questions.style or PLAIN
    form = "prompts: the tokenizer's chat template" if style.chat else "prompts: plain"
    if style.bos is not None:
        return f"{form}, {'with' if style.bos else 'without'} BOS (style.bos)"
    if not (folder / "tokenizer.json").is_file():
        return f"{form}, BOS by the tokenizer's own rule (its files are not here yet)"
    begins = begins_with_bos(read_tokenizer(str(folder)), style)
    return f"{form}, {'with' if begins else 'without'} BOS (the tokenizer's own rule)"


def measure_steps(wanted: Sequence[Run], scale: Scale, root: Path) -> list[str]:
    """One training step of each wanted recipe, done and timed: a line with its seconds and those of all steps of the
    recipe's runs. Nothing is kept. A recipe that starts from another's result is timed from the checkpoint itself."""
    use_cores(scale)
    processes, lines = Processes(), []
    for recipe in dict.fromkeys(run.recipe for run in wanted if RECIPES[run.recipe].make is not None):
        runs = [run for run in wanted if run.recipe == recipe]
        model, tokenizer = load_model(runs[0].checkpoint_folder(root))
        seen = scale.of(recipe)
        model = processes.place(model, seen.lora, runs[0].seed)
        with closing(start_engine(seen.engine, processes.plain(model), tokenizer, processes.local_rank)) as engine:
            work = training(recipe, model, tokenizer, engine, seen, runs[0].seed, processes)
            started = time.perf_counter()
            work.update(1)
            seconds = time.perf_counter() - started
        hours = seconds * work.steps * len(runs) / 3600
        lines.append(
            f"{recipe}: the first step took {seconds:.2f} s here ({processes.device.type}); {work.steps} steps of "
            f"{len(runs)} run{'s' * (len(runs) > 1)} would take {hours:.1f} h, evaluations not counted"
        )
    return lines
