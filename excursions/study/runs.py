"""One run (a recipe from a checkpoint with a seed): is it there, train it, measure it, write it; and many at once.

A run is resumed from its last saved state and ends with the same outcomes; its folder appears when it is complete.
A run whose folder carries the fingerprint of what it would compute is kept.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from excursions.evaluation.general import check_source
from excursions.evaluation.outcomes import (
    asked_questions,
    few_shot_examples,
    general_source,
    measure_general,
    measure_outcomes,
    model_digest,
    questions_digest,
)
from excursions.files import Progress, file_digest, whole_file
from excursions.models import suites
from excursions.models.model import load_model, one_thread, weight_files
from excursions.models.processes import Processes, end_with, is_first, is_launched
from excursions.params import Scale, UserError
from excursions.results import tables as results
from excursions.rollout.engines import start_engine
from excursions.training.recipes import PARENTS, READS, Training, training

TRAINING_CODE = 1  # raise it when a change to the code alters what a run computes: every run is then computed anew
SAVE_EVERY = 10  # RL steps between saved states
# Within a checkpoint the pool starts long runs first, and those that others wait for before the rest.
ORDER = ("sft_gold", "sft", "parallel", "rl", "sft_gold_rl", "sft_rl", "base")


@dataclass(frozen=True)
class Run:
    """Which run: names as in the results tree."""

    scale: str
    suite: str
    checkpoint: str
    recipe: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.checkpoint} {self.recipe} seed-{self.seed}"

    @property
    def parent(self) -> Run | None:
        """The run whose trained model it starts from, if any."""
        return replace(self, recipe=PARENTS[self.recipe]) if self.recipe in PARENTS else None

    def folder(self, root: Path) -> Path:
        """Where its results are."""
        return results.run_folder(root, self.scale, self.suite, self.checkpoint, self.recipe, self.seed)

    def scratch(self, root: Path) -> Path:
        """Where its unfinished state and its trained model are; not in git."""
        return root / "scratch" / self.folder(root).relative_to(root / "results")

    def checkpoint_folder(self, root: Path) -> Path:
        """The model it starts from."""
        return suites.checkpoint_folder(root, self.scale, self.suite, self.checkpoint)


def fingerprint(run: Run, scale: Scale, root: Path) -> str:
    """Hash of all that the run depends on: parameters, questions, the checkpoint's files, the version of the code."""
    parameters = {block: asdict(getattr(scale, block)) for block in READS[run.recipe]}
    files = {file.name: file_digest(file) for file in weight_files(run.checkpoint_folder(root))}
    about = {"code": TRAINING_CODE, "recipe": run.recipe, "seed": run.seed, "parameters": parameters, "files": files,
             "questions": questions_digest(scale)}  # fmt: skip
    if scale.engine.name != "torch":  # whose runs are what the version of the code says
        about["engine"] = [scale.engine.name, scale.engine.importance_cap]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def is_current(run: Run, scale: Scale, root: Path) -> bool:
    """Whether the results tree holds this very run."""
    file, wanted = run.folder(root) / "run.json", fingerprint(run, scale, root)
    try:
        return json.loads(file.read_text(encoding="utf-8"))["fingerprint"] == wanted
    except (FileNotFoundError, KeyError, json.JSONDecodeError):
        return False


def train_runs(wanted: Iterable[Run], scale: Scale, root: Path) -> list[Run]:
    """Computes those of the wanted runs that are not there yet, `workers` at a time; returns them.

    A run that fails does not stop the others; all failures are told at the end. Raises UserError then. Under a launcher
    of several processes all of them compute one run after the other, together.
    """
    wanted = list(wanted)
    checkpoints = [r.checkpoint for r in wanted]
    todo = [r for r in wanted if not is_current(r, scale, root)]
    todo.sort(key=lambda r: (checkpoints.index(r.checkpoint), ORDER.index(r.recipe)))
    if is_first():
        print(f"{len(wanted) - len(todo)} of {len(wanted)} runs are there already, {len(todo)} to compute", flush=True)
    if not todo:
        return []
    if scale.questions.source == "hub":
        check_source(general_source(scale))  # what cannot be had is told now, not after the training
    if is_launched():
        processes = Processes()
        for run in todo:
            train_run(run, scale, root, processes)
        return todo
    progress = Progress("runs", len(todo))
    failures, waiting, working = [], list(todo), {}
    # A new process for each run, so that its peak memory is its own. The server that forks them has imported what they
    # need and has run nothing, so that a start costs no seconds and no thread of torch is lost in a fork.
    context = get_context("forkserver")
    context.set_forkserver_preload(["excursions.study.runs", "lm_eval.evaluator", "lm_eval.models.huggingface"])
    with ProcessPoolExecutor(scale.workers, context, end_with, (os.getpid(),), max_tasks_per_child=1) as pool:
        while waiting or working:
            pending = {*waiting, *working.values()}
            ready = [r for r in waiting if r.parent not in pending]
            for run in ready[: scale.workers - len(working)]:
                waiting.remove(run)
                working[pool.submit(train_run, run, scale, root)] = run
            for done in wait(working, return_when=FIRST_COMPLETED).done:
                run = working.pop(done)
                failures += _failure(run, done)
                progress.step()
    if failures:
        raise UserError("\n".join([f"{len(failures)} of {len(todo)} runs failed; the others are complete.", *failures]))
    return todo


def describe_plan(wanted: Iterable[Run], scale: Scale, root: Path) -> list[str]:
    """One line per run: there, or to compute with the minutes that runs of its recipe took; and their sum."""
    lines, total, unknown = [], 0.0, 0
    took: dict[str, list[float]] = {}
    for file in (root / "results").glob("*/*/p*/*/seed-*/run.json"):
        if file.parts[-6] == wanted[0].scale:
            took.setdefault(file.parts[-3], []).append(
                json.loads(file.read_text(encoding="utf-8"))["wall_seconds"] / 60
            )
    for run in wanted:
        minutes = took.get(run.recipe)
        # the file first: a run that is not there says nothing about a checkpoint that may be still to be downloaded
        if (run.folder(root) / "run.json").is_file() and is_current(run, scale, root):
            lines.append(f"{run.name:28} there")
        elif minutes:
            total += sum(minutes) / len(minutes)
            lines.append(f"{run.name:28} to compute, about {sum(minutes) / len(minutes):.1f} minutes")
        else:
            unknown += 1
            lines.append(f"{run.name:28} to compute, no run of its recipe to judge the time by")
    known = [f"about {total / scale.workers:.0f} minutes with {scale.workers} workers"] if total else []
    more = [f"{unknown} runs of unknown length"] if unknown else []
    lines.append(f"to compute: {' and '.join(known + more) or 'nothing'}")
    return lines


def train_run(run: Run, scale: Scale, root: Path, processes: Processes | None = None) -> None:
    """Trains and measures one run and writes its folder. Raises UserError if somebody else is at it.

    processes: those of the job, which compute it together; None: this one alone.
    """
    one_thread()
    torch.manual_seed(run.seed)
    started = time.time()
    processes = processes or Processes()
    scratch = run.scratch(root)
    scratch.mkdir(parents=True, exist_ok=True)
    with _lock(scratch / "lock", run) if processes.is_main else nullcontext():
        model, tokenizer = start_model(run, scale, root, processes)
        with closing(start_engine(scale.engine, processes.plain(model), tokenizer, processes.local_rank)) as engine:
            state = _train(run, scale, root, model, tokenizer, engine, processes)
        identity = _identity(run, root)
        plain = processes.plain(model)
        general = measure_general(plain, tokenizer, scale, processes).assign(**identity)
        if processes.is_main:
            outcomes = pd.DataFrame(state["outcomes"]).assign(**identity)
            log = pd.DataFrame(state["log"]).assign(**identity)
            packages = ("torch", "transformers", "numpy", "lm_eval", "excursions")
            about = {
                "parameters": {block: asdict(getattr(scale, block)) for block in READS[run.recipe]},
                "engine": asdict(scale.engine),
                "versions": {name: version(name) for name in packages}
                | {"python": platform.python_version(), "training_code": TRAINING_CODE},
                "git_commit": _git_commit(root),
                "machine": {"processor": _processor(), "cores": os.cpu_count(), "system": platform.system()},
                "processes": processes.describe(),
                "wall_seconds": round(state["seconds"] + time.time() - started, 1),
                "peak_memory_mb": _peak_memory_mb(),
                "fingerprint": fingerprint(run, scale, root),
                "model_sha256": model_digest(plain),
            }
            results.write_run(run.folder(root), outcomes, general, log, state["samples"], about)
        processes.delete_state(scratch / "state")


@contextmanager
def _lock(file: Path, run: Run) -> Iterator[None]:
    with file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{run.name}: another process is computing this run; wait for it or stop it.") from None
        yield


def start_model(
    run: Run, scale: Scale, root: Path, processes: Processes | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model a run starts from, placed on the processes: its checkpoint, or the result of its parent recipe (trained
    again if it is gone)."""
    processes = processes or Processes()
    model, tokenizer = load_model(run.checkpoint_folder(root))
    parent = run.parent
    if parent is None:
        return processes.place(model), tokenizer
    trained = parent.scratch(root) / "trained.pt"
    wanted = fingerprint(parent, scale, root)
    found = torch.load(trained, weights_only=True) if trained.is_file() else {"fingerprint": None}
    is_there = found["fingerprint"] == wanted
    if is_there:
        model.load_state_dict(found["model"])
    model = processes.place(model)
    if not is_there:
        work = training(parent.recipe, model, tokenizer, None, scale, run.seed, processes)
        _to_the_end(work, parent.name, processes)
        _save_trained(parent, scale, root, model, processes)
    return model, tokenizer


def _train(run: Run, scale: Scale, root: Path, model, tokenizer, engine, processes: Processes) -> dict:
    """All steps of a run with the evaluations before, between and after them, from the last saved state on."""
    started = time.time()
    work = training(run.recipe, model, tokenizer, engine, scale, run.seed, processes)
    states = run.scratch(root) / "state"
    wanted = fingerprint(run, scale, root)
    state = processes.load_about(states)
    if state and state["fingerprint"] == wanted:
        processes.load_tensors(states, model, work.optimizers)
    else:
        state = {"fingerprint": wanted, "step": -1, "log": [], "outcomes": [], "samples": [], "seconds": 0.0}
    before = state["seconds"]
    between = {round(work.steps * i / (scale.evaluate.between + 1)) for i in range(1, scale.evaluate.between + 1)}
    examples = few_shot_examples(scale, scale.evaluate.shots) if run.recipe == "base" else ()
    progress = Progress(run.name, work.steps, max(0, state["step"]), quiet=not processes.is_main)
    save_every = max(SAVE_EVERY, work.steps // 10)
    for step in range(state["step"] + 1, work.steps + 1):
        if step > 0:
            metrics = work.update(step)
            state["log"].append({"step": step, **metrics})
            progress.step(**{name: metrics[name] for name in ("reward", "sft_loss") if name in metrics})
        if step in (0, work.steps) or step in between:
            number = scale.questions.test if step in (0, work.steps) else scale.evaluate.questions_between
            plain = processes.plain(model)
            rows, samples = _measure(scale, root, plain, tokenizer, engine, number, examples, processes)
            state["outcomes"] += [{"step": step, **row} for row in rows]
            state["samples"] = samples if step == work.steps else []
        state["step"] = step
        if step % save_every == 0 and step < work.steps:
            state["seconds"] = before + time.time() - started
            processes.save_state(states, step, model, work.optimizers, state)
    if run.recipe in PARENTS.values():
        _save_trained(run, scale, root, model, processes)
    state["seconds"] = before
    return state


def _measure(
    scale: Scale, root: Path, plain, tokenizer, engine, number: int, examples, processes: Processes
) -> tuple[list, list]:
    """Outcomes of a model. One that was measured before with the same questions is not measured again: the start of
    `sft_rl` is the end of `sft`, and all recipes without a parent start from one checkpoint."""
    about = [
        model_digest(plain),
        asdict(scale.evaluate),
        asdict(scale.questions),
        number,
        len(examples),
        TRAINING_CODE,
    ]
    if scale.engine.name != "torch":
        about.append(scale.engine.name)
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:24]
    file = root / "scratch" / "measured" / f"{key}.json"
    # The main process looks, for all: two that disagree about a file would wait for each other for ever.
    known = processes.join([file.read_text(encoding="utf-8")] if processes.is_main and file.is_file() else [])
    if not known:
        engine.load_weights(plain)
        asked = asked_questions(scale, "test", number)
        rows, samples = measure_outcomes(engine, tokenizer, asked, examples, scale.questions, scale.evaluate, processes)
        known = [json.dumps([rows.to_dict("records"), samples])]
        if processes.is_main:
            with whole_file(file) as temporary:
                temporary.write_text(known[0], encoding="utf-8")
    return json.loads(known[0])


def _to_the_end(work: Training, label: str, processes: Processes) -> None:
    progress = Progress(label, work.steps, quiet=not processes.is_main)
    for step in range(1, work.steps + 1):
        work.update(step)
        progress.step()


def _save_trained(run: Run, scale: Scale, root: Path, model: torch.nn.Module, processes: Processes) -> None:
    weights = processes.plain(model).state_dict()
    if processes.is_main:
        with whole_file(run.scratch(root) / "trained.pt") as temporary:
            torch.save({"fingerprint": fingerprint(run, scale, root), "model": weights}, temporary)


def _identity(run: Run, root: Path) -> dict[str, str | int]:
    suite = results.load_suite(root, run.scale, run.suite)
    tokens = suite["tokens"][run.checkpoint]
    return {"scale": run.scale, "suite": run.suite, "checkpoint": run.checkpoint, "tokens": tokens,
            "recipe": run.recipe, "seed": run.seed}  # fmt: skip


def _failure(run: Run, done: Future) -> list[str]:
    """What a failed run says: a sentence for a mistake, the whole traceback for a fault of the program."""
    error = done.exception()
    if error is None:
        return []
    if not isinstance(error, UserError):
        sys.excepthook(type(error), error, error.__traceback__)
    return [f"{run.name}: {error or type(error).__name__}"]


def _peak_memory_mb() -> float:
    # ru_maxrss is in kilobytes on Linux and in bytes on macOS
    unit = 1024 if sys.platform == "linux" else 1024 * 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.machine())


def _git_commit(root: Path) -> str | None:
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True)
    return found.stdout.strip() or None
