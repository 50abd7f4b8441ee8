"""Next-token prediction on the stream; writes the suite of checkpoints (paper, section 2: OLMo2, AdamW, cosine).

Interrupted, it goes on from its last saved state and ends with the same bytes. Several processes (see `processes`) each
compute their part of every batch, and each reads the whole stream.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from excursions.data.source import open_source
from excursions.files import whole_file, write_json
from excursions.models.launch import is_first
from excursions.models.model import build_model, count_parameters, save_model
from excursions.models.processes import Processes
from excursions.params import Scale, UserError, percent
from excursions.progress import Progress
from excursions.training.optimizers import adamw, clip_gradients, cosine

PRETRAINING_CODE = 1  # raise it when a change to the code alters what pretraining computes
SAVE_EVERY = 100  # steps between saved states


def pretrain(scale: Scale, folder: Path, scratch: Path) -> None:
    """Trains the model from random weights and writes the checkpoints named in `pretrain.save`.

    folder: where the suite goes: one Hugging Face folder per checkpoint, suite.json and pretraining.parquet.
    scratch: where the state of an unfinished run is kept; emptied at the end.
    Raises UserError if the batch cannot be split evenly over the processes.
    """
    params = scale.pretrain
    wanted = fingerprint(scale)
    if _suite_is_current(folder, params.save, wanted):
        if is_first():
            print(f"the suite in {folder} is there already", flush=True)
        return
    torch.set_num_threads(params.threads)
    processes = Processes()
    if params.batch_size % processes.count:
        raise UserError(
            f"pretrain.batch_size is {params.batch_size}, which {processes.count} processes cannot share evenly; "
            f"accepted: a number of processes that divides it."
        )
    source = open_source(scale)
    tokenizer, stream = source.tokenizer(), source.stream()
    model = processes.place(build_model(scale.model, tokenizer, params.seed))
    optimizer = adamw(model, params.learning_rate, params.betas, params.weight_decay)
    token_loss = torch.compile(next_token_loss, dynamic=False) if params.compile else next_token_loss

    steps = total_steps(scale)
    save_at = {max(1, round(steps * percent(name) / 100)): name for name in params.save}
    states = scratch
    state = processes.load_about(states)
    if state and state["fingerprint"] == wanted:
        processes.load_tensors(states, model, [optimizer])
        stream.load_state_dict(state["stream"])
    else:
        state = {"fingerprint": wanted, "step": 0, "log": []}
    progress = Progress("pretraining", steps, state["step"], quiet=not processes.is_main)

    for step in range(state["step"] + 1, steps + 1):
        batch = stream.next_batch()
        learning_rate = cosine(step, steps, params.learning_rate, params.warmup_steps, params.final_learning_rate_ratio)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        loss = batch_gradients(model, batch, params.micro_batch, processes, token_loss)
        norm = clip_gradients(model, params.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        state["log"].append([step, step * batch.size, loss, norm, learning_rate])
        progress.step(loss=loss)
        if step in save_at:
            plain = processes.plain(model)
            if processes.is_main:
                save_model(plain, tokenizer, folder / save_at[step], params.dtype)
        if step % SAVE_EVERY == 0:
            state |= {"step": step, "stream": stream.state_dict()}
            processes.save_state(states, step, model, [optimizer], state)

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
    processes.delete_state(states)


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
    """Hash of everything the suite depends on: its parameters, the stream, the version of the code. A parameter that
    is null changes nothing and is left out."""
    stream = open_source(scale).stream_identity()
    parameters = {name: value for name, value in asdict(scale.pretrain).items() if value is not None}
    about = [PRETRAINING_CODE, asdict(scale.model), parameters, stream]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def _suite_is_current(folder: Path, names: tuple[str, ...], wanted: str) -> bool:
    try:
        found = json.loads((folder / "suite.json").read_text(encoding="utf-8"))["fingerprint"]
    except (FileNotFoundError, KeyError, json.JSONDecodeError):
        return False
    return found == wanted and all((folder / name / "model.safetensors").is_file() for name in names)


def next_token_loss(model: torch.nn.Module, ids_bt: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of each token given those before it. ids_bt: (batch, token)."""
    logits_btv = model(input_ids=ids_bt, use_cache=False).logits[:, :-1].float()
    return F.cross_entropy(logits_btv.flatten(0, 1), ids_bt[:, 1:].flatten().long())


def total_steps(scale: Scale) -> int:
    """Optimizer steps of the whole pretraining."""
    return max(1, round(scale.pretrain.tokens / (scale.pretrain.batch_size * scale.model.context)))
