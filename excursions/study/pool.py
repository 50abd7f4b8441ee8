"""Many runs: those that are not there, `workers` at a time, in the order in which they need each other.

What computes them is imported when there is something to compute: mostly there is not, and it takes seconds.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

from excursions import tree
from excursions.data.source import open_source
from excursions.models.launch import end_with, is_first, is_launched
from excursions.params import Scale, UserError
from excursions.progress import Progress
from excursions.recipes import RECIPES
from excursions.results import tables
from excursions.study.run import Run, code_digest, status


def train_runs(wanted: Sequence[Run], scale: Scale, root: Path, keep: Iterable[Run] = ()) -> list[Run]:
    """Computes those of the wanted runs that are not there yet; returns them.

    A run whose code has changed since is shown to be equal where that can be done, and else computed again. A run that
    fails does not stop the others; all failures are told at the end. Raises UserError then. Under a launcher of several
    processes all of them compute one run after the other, together. keep: runs whose trained model is kept.
    """
    for checkpoint in dict.fromkeys(run.checkpoint for run in wanted):
        tables.tokens_of(root, wanted[0].scale, wanted[0].suite, checkpoint)  # what a run would miss after its hours
    for run in wanted[:1]:
        _check_writable(run.folder(root))
        _check_writable(run.scratch(root))
    source = open_source(scale)
    keep = set(keep)
    todo: list[Run] = []
    changed: list[Run] = []
    for run in wanted:
        {"there": [], "code changed": changed, "to compute": todo}[status(run, scale, root)].append(run)
    if (todo or changed) and not source.made_here:
        from excursions.evaluation.general import check_tasks

        check_tasks(source.general())  # what cannot be had is told now, not after the training
    if is_first():
        there = len(wanted) - len(todo) - len(changed)
        more = f", {len(changed)} to show equal as their code changed" if changed else ""
        print(f"{there} of {len(wanted)} runs are there already, {len(todo)} to compute{more}", flush=True)
        for run in wanted:
            if run in keep - {*todo} and not tree.trained_folder(root, *run).is_dir():
                print(f"{run.name} is there, but its trained model was not kept: to have it, delete {run.folder(root)} "
                      "and compute the run again", flush=True)  # fmt: skip
    if is_launched():
        from excursions.models.processes import Processes
        from excursions.study.one_run import train_run

        processes = Processes()
        # as the main process finds it: two that disagree would wait for each other for ever
        chosen = processes.join([in_order(todo + changed)] if processes.is_main else [])[0]
        for run in chosen:
            train_run(run, scale, root, processes, run in keep)
        return chosen
    if changed:
        from excursions.study import equality

        todo += equality.show_runs(changed, scale, root)
    todo = in_order(todo)
    if todo:
        _pool(todo, scale, root, keep)
    return todo


def _check_writable(folder: Path) -> None:
    """Raises UserError for a folder that cannot be made or written to, which would be found out after the hours."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise UserError(f"{folder} cannot be written: {there} is no folder that this user may write to.")


def in_order(runs: Iterable[Run]) -> list[Run]:
    """By checkpoint as they come; within one, runs that others start from first, then those with most steps to go."""
    runs = list(runs)
    checkpoints = list(dict.fromkeys(run.checkpoint for run in runs))

    def rank(run: Run) -> tuple:
        recipe = RECIPES[run.recipe]
        waiting = sum(run.recipe in other.ancestors for other in RECIPES.values())
        return checkpoints.index(run.checkpoint), recipe.make is None, -waiting, -len(recipe.blocks), run.seed

    return sorted(runs, key=rank)


def _pool(todo: list[Run], scale: Scale, root: Path, keep: set[Run]) -> None:
    progress = Progress("runs", len(todo), unit="runs")
    failures, waiting = [], list(todo)
    working: dict[Future, Run] = {}
    digests = {run: code_digest(run, scale) for run in todo}
    # A pool of one new process for each run, so that its peak memory is its own, and that one which is killed takes no
    # other with it. The server that forks them has imported what they need and has run nothing, so that a start costs
    # no seconds and no thread of torch is lost in a fork.
    context = get_context("forkserver")
    context.set_forkserver_preload(["excursions.study.one_run", "lm_eval.evaluator", "lm_eval.models.huggingface"])
    while waiting or working:
        pending = {*waiting, *working.values()}
        ready = [run for run in waiting if not pending & set(_ancestors(run))]
        for run in ready[: scale.workers - len(working)]:
            waiting.remove(run)
            pool = ProcessPoolExecutor(1, context, end_with, (os.getpid(),))
            working[pool.submit(_alone, run, scale, root, run in keep, digests[run])] = run
            pool.shutdown(wait=False)
        for done in wait(working, return_when=FIRST_COMPLETED).done:
            run = working.pop(done)
            failed = _failure(run, done)
            progress.step()
            # each would train it again from its first step, to fail alike
            for child in [other for other in waiting if failed and run in _ancestors(other)]:
                waiting.remove(child)
                failed.append(f"{child.name}: not started, as it starts from {run.name}")
                progress.step()
            failures += failed
    if failures:
        raise UserError("\n".join([f"{len(failures)} of {len(todo)} runs failed; the others are complete.", *failures]))


def _alone(run: Run, scale: Scale, root: Path, keep_model: bool, digest: str) -> None:
    """In a process of its own. digest: of the code as it was when the command started, and the server imported it."""
    if code_digest(run, scale) != digest:
        raise UserError(f"{run.name}: its code was edited after this command had started; start the command again.")
    if status(run, scale, root) == "there":  # by now: another command has computed it
        return
    from excursions.models.processes import Processes
    from excursions.study.one_run import train_run

    train_run(run, scale, root, Processes(), keep_model)


def _ancestors(run: Run) -> list[Run]:
    return [] if run.parent is None else [run.parent, *_ancestors(run.parent)]


def _failure(run: Run, done: Future) -> list[str]:
    """What a failed run says: a sentence for a mistake or a full disk, a whole traceback for a fault of the program."""
    error = done.exception()
    if error is None:
        return []
    if isinstance(error, BrokenProcessPool):
        return [f"{run.name}: its process was killed, perhaps for lack of memory; it goes on from its last saved state"]
    if not isinstance(error, UserError | OSError):
        sys.excepthook(type(error), error, error.__traceback__)
    said = str(error) or type(error).__name__
    return [said if said.startswith(run.name) else f"{run.name}: {said}"]
