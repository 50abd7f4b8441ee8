"""Next-token prediction on the stream; writes the suite of checkpoints (paper, section 2: OLMo2, AdamW, cosine).

Interrupted, it goes on from its last saved state and ends with the same bytes. Several processes (see `processes`) each
compute their part of every batch, and each reads the whole stream.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from excursions.data.source import open_source
from excursions.files import whole_file, write_json
from excursions.models.model import build_model, count_parameters, save_model
from excursions.models.processes import Processes
from excursions.params import Scale, UserError, percent
from excursions.progress import Progress
from excursions.training.optimizers import adamw, clip_gradients, cosine

SAVE_EVERY = 100  # steps between saved states


def pretrain(scale: Scale, folder: Path, scratch: Path) -> None:
    """Trains the model from random weights and writes the checkpoints named in `pretrain.save`.

    folder: where the suite goes: one Hugging Face folder per checkpoint, suite.json and pretraining.parquet.
    scratch: where the state of an unfinished run is kept; emptied at the end.
    Raises UserError if the batch cannot be split evenly over the processes.
    """
    params = scale.pretrain
    wanted = fingerprint(scale)
    processes = Processes()
    work = Work(scale, processes)
    model, optimizer, stream = work.model, work.optimizer, work.stream

    steps = total_steps(scale)
    save_at = {max(1, round(steps * percent(name) / 100)): name for name in params.save}
    state = processes.load_about(scratch)
    if state and state["fingerprint"] == wanted:
        processes.load_tensors(scratch, model, [optimizer])
        stream.load_state_dict(state["stream"])
    else:
        state = {"fingerprint": wanted, "step": 0, "log": []}
    progress = Progress("pretraining", steps, state["step"], quiet=not processes.is_main)

    for step in range(state["step"] + 1, steps + 1):
        loss, norm, learning_rate = work.step(step)
        if not math.isfinite(loss + norm):
            raise UserError(
                f"pretraining diverged: step {step} has a loss of {loss} and a gradient of norm {norm}. The states and "
                f"checkpoints before it are kept; lower pretrain.learning_rate, which is {params.learning_rate:g}."
            )
        state["log"].append([step, step * params.batch_size * scale.model.context, loss, norm, learning_rate])
        progress.step(loss=loss)
        if step in save_at:
            plain = processes.plain(model)
            if processes.is_main:
                save_model(plain, work.tokenizer, folder / save_at[step], params.dtype)
        if step % SAVE_EVERY == 0:
            state |= {"step": step, "stream": stream.state_dict()}
            processes.save_state(scratch, step, model, [optimizer], state)

    if processes.is_main:
        columns = ["step", "tokens", "loss", "grad_norm", "learning_rate"]
        with whole_file(folder / "pretraining.parquet") as temporary:
            pd.DataFrame(state["log"], columns=columns).to_parquet(temporary, index=False)
        tokens = {name: step * params.batch_size * scale.model.context for step, name in save_at.items()}
        about = {
            "parameters": count_parameters(model),
            "tokens": tokens,
            "total_tokens": total_steps(scale) * params.batch_size * scale.model.context,
            "fingerprint": wanted,
        }
        write_json(folder / "suite.json", about)
    processes.delete_state(scratch)


class Work:
    """A pretraining at its beginning: model, optimizer and stream, and what a step does with them."""

    def __init__(self, scale: Scale, processes: Processes) -> None:
        """Raises UserError if the processes cannot share a batch evenly."""
        params = scale.pretrain
        if params.batch_size % processes.count:
            raise UserError(
                f"pretrain.batch_size is {params.batch_size}, which {processes.count} processes cannot share evenly; "
                f"accepted: a number of processes that divides it."
            )
        torch.set_num_threads(params.threads)
        source = open_source(scale)
        self.scale, self.processes = scale, processes
        self.tokenizer, self.stream = source.tokenizer(), source.stream()
        self.model = processes.place(build_model(scale.model, self.tokenizer, params.seed))
        self.optimizer = adamw(self.model, params.learning_rate, params.betas, params.weight_decay)
        self.token_loss = loss_function(params.compile)

    def step(self, step: int) -> tuple[float, float, float]:
        """One optimizer step on the next batch: loss, norm of the gradient, learning rate."""
        params = self.scale.pretrain
        rate = cosine(
            step, total_steps(self.scale), params.learning_rate, params.warmup_steps, params.final_learning_rate_ratio
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batch = self.stream.next_batch()
        loss = batch_gradients(self.model, batch, params.micro_batch, self.processes, self.token_loss)
        norm = clip_gradients(self.model, params.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss, norm, rate


def first_losses(scale: Scale, steps: int) -> list[float]:
    """The losses of the first steps, computed again; nothing is written."""
    work = Work(scale, Processes())
    return [work.step(step)[0] for step in range(1, steps + 1)]


def batch_gradients(
    model: torch.nn.Module,
    ids_bt: np.ndarray,
    micro_batch: int | None,
    processes: Processes,
    token_loss: Callable[[torch.nn.Module, torch.Tensor], torch.Tensor] | None = None,
) -> float:
    """Adds to `.grad` the gradient of the mean cross-entropy of a batch (batch, token) that all processes have and
    each computes a part of; returns the loss of the whole batch."""
    own_bt = torch.from_numpy(ids_bt[processes.rank :: processes.count]).to(processes.device)
    total = 0.0
    for part_bt in own_bt.split(micro_batch or len(own_bt)):
        loss = (token_loss or next_token_loss)(model, part_bt) * (len(part_bt) / len(ids_bt))
        loss.backward()
        total += loss.item()
    processes.sum_gradients(model)
    return processes.sum({"loss": total})["loss"]


def fingerprint(scale: Scale) -> str:
    """Hash of everything the suite depends on but its code: its parameters and the stream. A parameter that is null
    changes nothing and is left out."""
    parameters = {name: value for name, value in asdict(scale.pretrain).items() if value is not None}
    about = [asdict(scale.model), parameters, open_source(scale).stream_identity()]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def next_token_loss(model: torch.nn.Module, ids_bt: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of each token given those before it. ids_bt: (batch, token)."""
    logits_btv = model(input_ids=ids_bt, use_cache=False).logits[:, :-1].float()
    return F.cross_entropy(logits_btv.flatten(0, 1), ids_bt[:, 1:].flatten().long())


def loss_function(compile: bool) -> Callable[[torch.nn.Module, torch.Tensor], torch.Tensor]:
    """`next_token_loss`, compiled for the shape of its first call if wanted; what is compiled is kept between processes
    in the user's cache folder. Raises UserError if that takes a C++ compiler that is not there."""
    if not compile:
        return next_token_loss
    compiler = os.environ.get("CXX", "g++")
    if not torch.cuda.is_available() and shutil.which(compiler) is None:
        raise UserError(
            f"pretrain.compile is true in params.yaml, which takes a C++ compiler, and there is no '{compiler}': "
            "install one (Debian: apt install g++), name one in CXX, or set compile: false (slower, another suite)."
        )
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "excursions" / "inductor"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache))
    return torch.compile(next_token_loss, dynamic=False)


def total_steps(scale: Scale) -> int:
    """Optimizer steps of the whole pretraining."""
    return max(1, round(scale.pretrain.tokens / (scale.pretrain.batch_size * scale.model.context)))
