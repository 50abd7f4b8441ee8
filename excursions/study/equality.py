"""Shows that changed code computes what the code before it did, without computing the runs again.

Of a run the first training steps are done again, and some of its test questions are measured again before training; of
`base`, which is not trained, the general benchmarks as well, and of the others their names are looked at. All of it is
compared with what the run left behind. On the machine that made it every number must be the same; elsewhere rounding
differs, and a rare draw goes another way, so numbers may differ by TOLERANCE. Then run.json is stamped with the new
digest and with how it was shown. What is not equal is to be computed again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pandas as pd

from excursions.data.source import open_source
from excursions.evaluation.outcomes import make_exam, measure_general
from excursions.files import file_digest, write_json
from excursions.models.model import load_model, load_weights, save_weights
from excursions.models.processes import Processes
from excursions.params import Scale
from excursions.progress import Progress
from excursions.recipes import RECIPES
from excursions.results import tables
from excursions.rollout.engines import start_engine
from excursions.study import code, provenance
from excursions.study.one_run import Job, measure, start_model, use_cores
from excursions.study.run import FILES, Run, about, fingerprint, modules, state_key

STEPS = 2  # training steps that are done again
QUESTIONS = 8  # per benchmark, measured again before training
TOLERANCE = 0.02  # of a number, relative to itself, on another machine; a count of samples: of their number


def show_runs(runs: Sequence[Run], scale: Scale, root: Path) -> list[Run]:
    """Stamps those of the runs that come out equal; returns the others."""
    unequal = []
    with Progress("showing equality", len(runs), unit="runs") as progress:
        for run in runs:
            difference = show(run, scale, root)
            if difference is not None:
                print(f"{run.name}: not equal to its results ({difference}); it is to be computed again", flush=True)
                unequal.append(run)
            progress.step()
    return unequal


def show(run: Run, scale: Scale, root: Path) -> str | None:
    """Stamps a run whose first steps and measurements come out as they were; else says what differs."""
    use_cores(scale)
    found = about(run, root)
    same_machine = found is not None and found["machine"] == provenance.machine() and (
        found["versions"] == provenance.versions()
    )  # fmt: skip
    gaps = compare(run, scale, root)
    what, largest = worst(gaps)
    if largest > TOLERANCE:
        return f"{what}: {largest:.1%} off"
    if same_machine and any(gaps.values()):
        return f"the same machine and versions, and yet {', '.join(what for what, gap in gaps.items() if gap)} differ"
    if found is None:
        return "no run.json"
    how = f"within {largest:.1g} of each number" if largest else "exactly"
    code_before = found.get("code", {})
    shown = f"{_again(run)} and {QUESTIONS} questions a benchmark done again, equal {how}"
    computed_by = code_before.get("computed_by", code_before.get("digest"))
    found["code"] = code.stamp(modules(run, scale), shown) | {"computed_by": computed_by}
    found["files"] = {name: file_digest(run.folder(root) / name) for name in FILES}  # of runs written without them
    write_json(run.folder(root) / "run.json", found)
    _keep_trained(run, scale, root, code_before.get("digest", ""))
    return None


def _keep_trained(run: Run, scale: Scale, root: Path, digest_before: str) -> None:
    """The trained weights that other runs start from, if they are there, count as those of the changed code as well:
    else each run that starts from them would train them again."""
    file = run.scratch(root) / "trained.safetensors"
    if file.is_file():
        model, _ = load_model(run.checkpoint_folder(root))
        if load_weights(file, model, fingerprint(run, scale, root) + digest_before):
            save_weights(file, model, state_key(run, scale, root))


def _again(run: Run) -> str:
    return "the general benchmarks" if RECIPES[run.recipe].make is None else f"{STEPS} training steps"


def worst(gaps: dict[str, float]) -> tuple[str, float]:
    """What is farthest from what the run left behind, and how far. The difference of sampler and trainer is rounding
    itself and is not judged."""
    return max(((what, gap) for what, gap in gaps.items() if not what.startswith("sampling/")), key=lambda one: one[1])


def compare(run: Run, scale: Scale, root: Path, steps: int = STEPS) -> dict[str, float]:
    """What was done again -> how far it is from what the run left behind: of a number relative to itself; of right and
    of derived samples in the mean of the questions, relative to their number; of general items the share answered in
    another way."""
    processes = Processes()
    folder = run.folder(root)
    outcomes = tables.load_files([folder], "outcomes")
    log = tables.load_files([folder], "training")
    model, tokenizer = start_model(run, scale, root, processes)
    seen = scale.of(run.recipe)
    gaps: dict[str, float] = {}
    with closing(start_engine(seen.engine, processes.plain(model), tokenizer, processes.local_rank)) as engine:
        job = Job(run, scale, root, model, tokenizer, engine, processes)
        rows, _ = measure(job, make_exam(seen, seen.asked, QUESTIONS, job.shots))
        before = outcomes[outcomes["step"] == 0].set_index(["benchmark", "question_id"])
        again = pd.DataFrame(rows).set_index(["benchmark", "question_id"])
        for name in ("correct", "valid"):
            gap_q = (again[name].astype(float) - before.loc[again.index, name].astype(float)).abs() / again["n"]
            gaps[f"{name} samples before training"] = 0.0 if gap_q.isna().all() else gap_q.mean()
        tasks, general = open_source(seen).general(), tables.load_files([folder], "general")
        gaps["names of the general benchmarks"] = float({*tasks.tasks} != {*general["benchmark"].unique()})
        if RECIPES[run.recipe].make is None:
            items = measure_general(processes.plain(model), tokenizer, tasks, processes)
            gaps["answers to general items"] = _changed(items, general)
        work = job.training()
        for step in range(1, min(steps, work.steps) + 1):
            metrics = work.update(step)
            written = log[log["step"] == step].iloc[0]
            for name, value in metrics.items():
                if "time" not in name and not name.startswith("share_") and name in written:
                    gaps[name] = max(gaps.get(name, 0.0), _gap(value, written[name]))
    return gaps


def _changed(items: pd.DataFrame, before: pd.DataFrame) -> float:
    """The share of general items that are answered another way; an item that is in one of the two alone counts."""
    keys = ["benchmark", "item_id"]
    both = items.astype({key: str for key in keys}).merge(
        before.astype({key: str for key in keys}), on=keys, how="outer", suffixes=("", "_before")
    )
    return float((both["correct"] != both["correct_before"]).mean())


def _gap(value: float, before: float) -> float:
    if math.isnan(value) or math.isnan(before):
        return 0.0 if math.isnan(value) and math.isnan(before) else math.inf
    return abs(value - before) / max(abs(before), 1e-6) if value != before else 0.0
