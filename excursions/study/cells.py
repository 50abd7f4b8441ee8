"""The study as a list of jobs, one cell of the study each, for a shell, a SLURM array or Ray."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from excursions.params import Study
from excursions.study.pool import in_order
from excursions.study.run import Run
from excursions.study.verify import result_stages


@dataclass(frozen=True)
class Cell:
    """One job: a command, and the ids of the cells that must be done before it."""

    id: str
    command: str
    needs: tuple[str, ...]


def study_cells(
    runs: Sequence[Run], study: Study, root: Path = Path("."), launcher: str = "python"
) -> tuple[list[Cell], str]:
    """The jobs of these runs of one suite, in an order in which each can run after those before it; and a remark.

    data -> pretrain -> one cell per run, `sft` before `sft_rl` and `sft_gold` before `sft_gold_rl` -> notebooks, that
    of the claims last -> site -> `dvc commit`. A public suite needs no pretraining. From notebooks on only if the runs
    are all that params.yaml names of the suite main: before that the figures lack cells, and DVC would take a stage for
    complete that is not.

    What is there already is not computed again, so after a failure the whole list can be run once more. Cells on
    several machines need one file system: `sft_rl` starts from the trained model that `sft` leaves in scratch/ (without
    it, it trains `sft` again), and measurements are shared there. `dvc commit` records in dvc.lock what the jobs wrote,
    as `dvc repro` does after computing it, so that a later `dvc repro` finds nothing to do.

    launcher: what starts `-m excursions` for pretraining and runs, e.g. "accelerate launch --num_processes 8".
    Raises UserError if dvc.yaml, which names the notebooks, is not there.
    """
    scale, suite = runs[0].scale, runs[0].suite
    at = "" if root == Path(".") else f" --root {shlex.quote(str(root))}"

    def command(what: str, start: str = "python") -> str:
        return f"{start} -m excursions {what}{at}"

    cells = [Cell("data", command(f"data --scale {scale}"), ())]
    lender = study.checkpoint_suite(suite)
    if lender not in study.public_suites:
        cells.append(Cell("pretrain", command(f"pretrain --scale {scale} --suite {lender}", launcher), ("data",)))
    first, wanted = cells[-1].id, set(runs)
    checkpoints = list(dict.fromkeys(run.checkpoint for run in runs))
    for run in in_order(runs):
        which = f"--scale {scale} --suite {suite} --checkpoint {run.checkpoint} --recipe {run.recipe} --seed {run.seed}"
        before = _run_id(run.parent) if run.parent in wanted else first
        cells.append(Cell(_run_id(run), command(f"train {which}", launcher), (before,)))
    if wanted != {Run(scale, "main", *cell) for cell in study.cells(scale)}:
        return cells, "Notebooks, site and `dvc commit` are left out: these are not the runs that params.yaml names."

    trained = tuple(_run_id(run) for run in runs)
    done: list[str] = []
    for name, stage in result_stages(root).items():
        what = name if name == "site" else f"notebook {name}"
        needs = tuple(done) if "claims" in stage["deps"] else trained  # what is weighed in the notebooks before
        cells.append(Cell(what.replace(" ", "/"), command(f"{what} --scale {scale}"), needs))
        done.append(cells[-1].id)
    if scale not in study.scales:
        return cells, (
            f"`dvc commit` is left out: DVC knows the scales that params.yaml names ({', '.join(study.scales)}). "
            f"With 'scales: [{', '.join([*study.scales, scale])}]' there, `excursions cells` lists it."
        )
    stages = [f"data@{scale}", f"pretrain@{scale}", *(f"train@{scale}-{checkpoint}" for checkpoint in checkpoints)]
    for name, stage in result_stages(root).items():
        if "matrix" in stage or scale == study.scales[0]:
            stages.append(f"{name}@{scale}" if "matrix" in stage else name)
    there = "" if root == Path(".") else f" --cd {shlex.quote(str(root))}"
    cells.append(Cell("commit", f"python -m dvc{there} commit --force {' '.join(stages)}", tuple(done)))
    return cells, ""


def _run_id(run: Run) -> str:
    return f"{run.checkpoint}/{run.recipe}/seed-{run.seed}"
