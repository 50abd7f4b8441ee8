"""Several processes in tests: how they are started, and what test_processes.py lets them do (run as a program)."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import torch

from excursions import params
from excursions.data.nano import corpus
from excursions.models.launch import leave
from excursions.models.model import build_model
from excursions.models.processes import Processes
from excursions.rollout.torch_engine import TorchEngine
from excursions.training import recipes, rl
from excursions.training.optimizers import adamw, clip_gradients
from excursions.training.pretrain import batch_gradients

ROOT = Path(__file__).parents[1]
STEPS = 3


def tiny_scale() -> params.Scale:
    scale = params.load(ROOT / "params.yaml").scale("smoke")
    return replace(
        scale,
        rl=replace(scale.rl, steps=STEPS, questions_per_step=3, rollouts=5, micro_batch=4, max_new_tokens=8),
        sft=replace(scale.sft, batch_size=7),
        parallel=replace(scale.parallel, steps=STEPS, sft_batch_size=5),
    )


def grade_by_text(tokenizer, found, golds, questions):
    """A reward that an untrained model gets for some completions; all of one group now and then get none."""
    texts = [[tokenizer.decode(c.token_ids) for c in group] for group in found]
    return texts, [[zlib.crc32(text.encode()) % 3 == 0 for text in group] for group in texts]


def start(scale: params.Scale, processes: Processes):
    tokenizer = corpus.tokenizer(scale.questions.seed)
    model = processes.place(build_model(scale.model, tokenizer, seed=0))
    engine = TorchEngine(processes.plain(model), tokenizer.eos_token_id, len(tokenizer), tokenizer=tokenizer)
    return model, tokenizer, engine


def pretraining(scale: params.Scale, processes: Processes) -> tuple[torch.nn.Module, list[float]]:
    model, tokenizer, _ = start(scale, processes)
    optimizer = adamw(model, 1e-3, scale.pretrain.betas, scale.pretrain.weight_decay)
    stream = corpus.Stream(scale.questions, batch_size=6, context=32)
    seen = []
    for _ in range(STEPS):
        loss = batch_gradients(model, stream.next_batch(), 2, processes)
        seen += [loss, clip_gradients(model, 1.0)]
        optimizer.step()
        optimizer.zero_grad()
    return model, seen


def recipe(name: str, scale: params.Scale, processes: Processes, folder: Path) -> tuple[torch.nn.Module, list[float]]:
    """Some steps of a recipe, the last after a stop: the state is saved, and a new model goes on from it."""
    model, tokenizer, engine = start(scale, processes)
    work = recipes.training(name, model, tokenizer, engine, scale, 0, processes)
    seen = []
    for step in range(1, STEPS + 1):
        if step == STEPS:
            processes.save_state(folder / name, step, model, work.optimizers, {"seen": seen, "fingerprint": name})
            model, tokenizer, engine = start(scale, processes)
            work = recipes.training(name, model, tokenizer, engine, scale, 0, processes)
            seen = processes.load_state(folder / name, name, model, work.optimizers)["seen"]
        metrics = work.update(step)
        names = ("loss", "grad_norm", "entropy", "reward", "clip_ratio/region_mean", "sft_loss", "sft_grad_norm",
                 "sampling/sampling_logp_difference/mean")  # fmt: skip
        seen += [metrics[name] for name in names if name in metrics]
    return model, seen


def everything(processes: Processes, folder: Path, only: str | None = None) -> dict[str, dict]:
    """Name of a training -> its weights at the end and the numbers seen on the way."""
    rl.grade_completions = grade_by_text
    scale = tiny_scale()
    kl = replace(scale, rl=replace(scale.rl, kl=0.1, inner_steps=2))
    results = {
        "pretraining": lambda: pretraining(scale, processes),
        "sft": lambda: recipe("sft", scale, processes, folder),
        "rl": lambda: recipe("rl", scale, processes, folder),
        "rl with kl and inner steps": lambda: recipe("rl", kl, processes, folder / "kl"),
        "parallel": lambda: recipe("parallel", scale, processes, folder),
    }
    found = {}
    for name, make in results.items():
        if only not in (None, name):
            continue
        model, seen = make()
        weights = {key: value.clone() for key, value in processes.plain(model).state_dict().items()}
        found[name] = {"weights": weights, "seen": seen}
    return found


def launch(*arguments: str) -> str:
    """Runs a program in two processes over gloo, by accelerate's launcher, whose options come first; what it said."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1",
               "--main_process_port", "0", "--dynamo_backend", "no", *arguments]  # fmt: skip
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


if __name__ == "__main__":
    torch.set_num_threads(1)
    here = Processes()
    made = everything(here, Path(sys.argv[1]) / "states", *sys.argv[2:])
    assert here.count == 2
    if here.is_main:
        torch.save({"sharded": here.sharded, "made": made}, Path(sys.argv[1]) / "made.pt")
    leave()
