"""Trains and measures one run and writes its folder.

A run is resumed from its last saved state, evaluations from the last part that was measured, and ends with the same
results; its folder appears when it is complete.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from excursions import tree
from excursions.data.source import open_source
from excursions.evaluation.outcomes import Exam, make_exam, measure_general, measure_outcomes
from excursions.files import json_digest, locked, read_json, write_json
from excursions.models.model import load_model, load_weights, model_digest, one_thread, save_model, save_weights
from excursions.models.processes import Processes
from excursions.params import Scale, UserError
from excursions.progress import Progress
from excursions.recipes import PARENTS, RECIPES
from excursions.results import schemas, tables
from excursions.rollout.engines import start_engine
from excursions.rollout.rewards import FIRST_STEPS, no_signal_warning
from excursions.rollout.sampler import Sampler
from excursions.study import code, provenance
from excursions.study.card import write_card
from excursions.study.live import Log
from excursions.study.run import Run, fingerprint, modules, parameters, state_key
from excursions.training.recipes import Training, training

SAVE_EVERY = 10  # RL steps between saved states, at least
PART = 100  # questions that are measured together: what an interruption of an evaluation costs at most


@dataclass(frozen=True)
class Job:
    """A run with all that it works with."""

    run: Run
    study_scale: Scale
    root: Path
    model: torch.nn.Module  # placed on the processes
    tokenizer: PreTrainedTokenizerBase
    engine: Sampler
    processes: Processes

    @property
    def scale(self) -> Scale:
        """The scale as the recipe sees it."""
        return self.study_scale.of(self.run.recipe)

    @property
    def shots(self) -> int:
        """Worked examples in its prompts: a base checkpoint does not know the answer's form (paper, section 2)."""
        return self.scale.evaluate.shots if RECIPES[self.run.recipe].make is None else 0

    def training(self) -> Training:
        run = self.run
        return training(run.recipe, self.model, self.tokenizer, self.engine, self.scale, run.seed, self.processes)

    def progress(self, what: str, total: int, done: int = 0) -> Progress:
        return Progress(f"{self.run.name} {what}", total, done, quiet=not self.processes.is_main)


def train_run(run: Run, scale: Scale, root: Path, processes: Processes, keep_model: bool = False) -> None:
    """Computes one run. Raises UserError if somebody else is at it.

    processes: those of the job, which compute it together. keep_model: the trained model is kept as a Hugging Face
    folder in trained/.
    """
    use_cores(scale)
    torch.manual_seed(run.seed)
    seen = scale.of(run.recipe)
    started = time.time()
    scratch = run.scratch(root)
    identity = _identity(run, root)
    # now and not hours later, when the sources may be others than those that were imported
    origin = {
        "versions": provenance.versions(),
        "git_commit": provenance.git_commit(root),
        "dirty": provenance.is_dirty(root),
        "machine": provenance.machine(),
        "fingerprint": fingerprint(run, scale, root),
        "code": code.stamp(modules(run, scale), "computed by it"),
    }
    with locked(scratch / "lock", run.name) if processes.is_main else nullcontext():
        model, tokenizer = start_model(run, scale, root, processes)
        with closing(start_engine(seen.engine, processes.plain(model), tokenizer, processes.local_rank)) as engine:
            job = Job(run, scale, root, model, tokenizer, engine, processes)
            state = _train(job)
        plain = processes.plain(model)
        with job.progress("general benchmarks", 1) as progress:
            general = measure_general(plain, tokenizer, open_source(seen).general(), processes)
            progress.step()
        if processes.is_main:
            about = origin | {
                "parameters": parameters(run, scale),
                "engine": asdict(seen.engine),
                "processes": processes.describe(),
                "wall_seconds": round(state["seconds"] + time.time() - started, 1),
                "peak_memory_mb": provenance.peak_memory_mb(),
                "model_sha256": model_digest(plain),
            }
            outcomes = pd.DataFrame(state["outcomes"]).assign(**identity)
            log = pd.DataFrame(state["log"]).assign(**identity)
            if keep_model:  # before the results: a run that has those is not computed again
                save_model(plain, tokenizer, tree.trained_folder(root, *run), seen.pretrain.dtype)
                write_card(run, about, outcomes, root)
            tables.write_run(run.folder(root), outcomes, general.assign(**identity), log, state["samples"], about)
    processes.delete_state(scratch / "state")


def use_cores(scale: Scale) -> None:
    """One thread at nano scale, where more cost more than they bring, and bytes are promised; for other models the
    cores, shared by the workers, or as many as OMP_NUM_THREADS says."""
    if scale.questions.source == "nano":
        one_thread()
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // scale.workers))


def start_model(
    run: Run, scale: Scale, root: Path, processes: Processes
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model a run starts from, placed on the processes: its checkpoint, or the result of its parent (trained again,
    with its own parents, if it is gone). Adapters are new: what those of a parent learned is in its weights."""
    lora = scale.of(run.recipe).lora if RECIPES[run.recipe].make is not None else None
    if run.parent is None:
        model, tokenizer = load_model(run.checkpoint_folder(root))
        return processes.place(model, lora, run.seed), tokenizer
    parent, wanted = run.parent, state_key(run.parent, scale, root)
    file = parent.scratch(root) / "trained.safetensors"
    model, tokenizer = load_model(run.checkpoint_folder(root))
    # The main process looks, for all: two that disagree about a file would wait for each other for ever.
    if processes.join([load_weights(file, model, wanted)] if processes.is_main else []) == [True]:
        if not processes.is_main:
            load_weights(file, model, wanted)
        return processes.place(model, lora, run.seed), tokenizer
    del model
    model, tokenizer = start_model(parent, scale, root, processes)
    of_parent = scale.of(parent.recipe).engine
    with closing(start_engine(of_parent, processes.plain(model), tokenizer, processes.local_rank)) as engine:
        job = Job(parent, scale, root, model, tokenizer, engine, processes)
        work = job.training()
        with job.progress(f"for {run.recipe}", work.steps) as progress:
            for step in range(1, work.steps + 1):
                check_finite(work.update(step), parent, step)
                progress.step()
    _save_trained(job)
    return (processes.place(processes.plain(model), lora, run.seed) if lora else model), tokenizer


def _train(job: Job) -> dict:
    """All steps of a run with the evaluations before, between and after them, from the last saved state on."""
    run, scale, processes, model = job.run, job.scale, job.processes, job.model
    started = time.time()
    work = job.training()
    states = run.scratch(job.root) / "state"
    wanted = state_key(run, job.study_scale, job.root)
    state = processes.load_state(states, wanted, model, work.optimizers)
    if state is None:
        state = {"fingerprint": wanted, "step": -1, "log": [], "outcomes": [], "samples": [], "seconds": 0.0}
    before = state["seconds"]
    whole = make_exam(scale, scale.asked, getattr(scale.questions, scale.asked), job.shots)
    short = make_exam(scale, scale.asked, scale.evaluate.questions_between, job.shots)
    for exam in (whole, short):
        exam.check_lengths(job.tokenizer, job.engine.context)
    points = scale.evaluate.between + 1
    between = {round(work.steps * i / points) for i in range(1, points)}
    progress = job.progress("training", work.steps, max(0, state["step"]))
    live = Log(run.scratch(job.root), work.steps, state["log"]) if processes.is_main and work.steps else None
    save_every = max(SAVE_EVERY, work.steps // 10)
    for step in range(state["step"] + 1, work.steps + 1):
        if step > 0:
            metrics = work.update(step)
            check_finite(metrics, run, step)
            state["log"].append({"step": step, **metrics})
            if step == FIRST_STEPS and "frac_reward_zero_std" in metrics and processes.is_main:
                warn_without_signal(run, state["log"])
            if live is not None:
                live.add(state["log"][-1])
            progress.step(**{name: metrics[name] for name in ("reward", "sft_loss") if name in metrics})
        if step in (0, work.steps) or step in between:
            rows, samples = measure(job, whole if step in (0, work.steps) else short)
            state["outcomes"] += [{"step": step, **row} for row in rows]
            if step in (0, work.steps):
                state["samples"] += [{"step": step, **sample} for sample in samples]
        state["step"] = step
        if step % save_every == 0 and step < work.steps:
            state["seconds"] = before + time.time() - started
            processes.save_state(states, step, model, work.optimizers, state)
    if run.recipe in PARENTS:
        _save_trained(job)
    state["seconds"] = before
    return state


def check_finite(metrics: dict[str, float], run: Run, step: int) -> None:
    """Raises UserError if the training has diverged; the states saved before stay."""
    for name, value in metrics.items():
        if name in ("loss", "grad_norm", "sft_loss", "sft_grad_norm", "entropy") and not math.isfinite(value):
            raise UserError(
                f"{run.name} diverged: step {step} has {name} {value}. The last saved state before it is kept; lower "
                f"the learning rate of {' and '.join(RECIPES[run.recipe].blocks)} in params.yaml."
            )


def warn_without_signal(run: Run, log: Sequence[dict[str, float]]) -> None:
    """Says so if no group of the first steps of RL had unequal rewards: the run would end well and learn nothing."""
    if warning := no_signal_warning(log):
        print(f"{run.name}: WARNING: {warning}", file=sys.stderr, flush=True)


def measure(job: Job, exam: Exam) -> tuple[list[dict], list[dict]]:
    """Outcomes of the job's model, and the samples that are kept. What was measured of the same weights, questions and
    code before is not measured again: the start of `sft_rl` is the end of `sft`, and all recipes without a parent start
    from one checkpoint."""
    processes = job.processes
    plain = processes.plain(job.model)
    measuring = code.digest(code.run_modules("base", job.scale))
    vocabulary = sorted(job.tokenizer.get_vocab().items())
    about = [model_digest(plain), measuring, asdict(job.scale.engine), json_digest(vocabulary)]
    rows: list[dict] = []
    samples: list[dict] = []
    parts = exam.parts(PART)
    loaded = False
    with job.progress("evaluating", len(parts)) as progress:
        for part in parts:
            file = tree.measured_file(job.root, _key(job.tokenizer, part, about))
            found = processes.join([read_json(file, schemas.MEASURED)] if processes.is_main else [])[0]
            if found is None or [row["question_id"] for row in found[0]] != [q.id for q in part.asked]:
                if not loaded:
                    job.engine.load_weights(plain)
                    loaded = True
                found = measure_outcomes(part, job.engine, job.tokenizer, processes)
                if processes.is_main:
                    write_json(file, found)
            rows += found[0]
            samples += found[1]
            progress.step()
    return rows, samples


def _key(tokenizer: PreTrainedTokenizerBase, part: Exam, about: list) -> str:
    """Of a measurement that can be used again. The prompts as tokens: a chat template or a rule of BOS changes them."""
    return json_digest([*about, part.digest(), part.prompts(tokenizer)])[:24]


def _save_trained(job: Job) -> None:
    plain = job.processes.plain(job.model)
    if job.processes.is_main:
        file = job.run.scratch(job.root) / "trained.safetensors"
        save_weights(file, plain, state_key(job.run, job.study_scale, job.root))


def _identity(run: Run, root: Path) -> dict[str, str | int]:
    """The columns of all its tables. Raises UserError if the suite does not say how many tokens the checkpoint saw."""
    tokens = tables.tokens_of(root, run.scale, run.suite, run.checkpoint)
    return {**run._asdict(), "tokens": tokens}
