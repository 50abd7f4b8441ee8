"""Next-token prediction on the stream; writes the suite of checkpoints (paper, section 2: OLMo2, AdamW, cosine).

Interrupted, it goes on from its last saved state and ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from accelerate import Accelerator

from excursions.files import Progress, whole_file, write_json
from excursions.model import build_model, count_parameters, save_model
from excursions.nano import corpus
from excursions.params import Pretrain, Scale, UserError, percent

PRETRAINING_CODE = 1  # raise it when a change to the code alters what pretraining computes
SAVE_EVERY = 100  # steps between saved states


def pretrain(scale: Scale, folder: Path, scratch: Path) -> None:
    """Trains the model from random weights and writes the checkpoints named in `pretrain.save`.

    folder: where the suite goes: one Hugging Face folder per checkpoint, suite.json and pretraining.parquet.
    scratch: where the state of an unfinished run is kept; emptied at the end.
    """
    params, questions = scale.pretrain, scale.questions
    if questions.source != "nano":
        raise UserError(
            f"questions.source is '{questions.source}', whose pretraining stream is not part of this version; "
            f"accepted: nano. See docs/paper-scale.md."
        )
    wanted = fingerprint(scale)
    if _suite_is_current(folder, params.save, wanted):
        print(f"the suite in {folder} is there already", flush=True)
        return
    torch.set_num_threads(params.threads)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    tokenizer = corpus.tokenizer(questions.seed)
    model = build_model(scale.model, tokenizer, params.seed)
    optimizer = adamw(model, params.learning_rate, params.betas, params.weight_decay)
    model, optimizer = accelerator.prepare(model, optimizer)

    steps = total_steps(scale)
    save_at = {max(1, round(steps * percent(name) / 100)): name for name in params.save}
    state_file = scratch / "pretrain.pt"
    state = {"fingerprint": wanted, "step": 0, "block": 0, "used": 0, "log": []}
    saved = torch.load(state_file, weights_only=True) if state_file.is_file() else {"fingerprint": None}
    if saved["fingerprint"] == wanted:
        state = saved
        accelerator.unwrap_model(model).load_state_dict(state.pop("model"))
        optimizer.load_state_dict(state.pop("optimizer"))
    batches = _batches(scale, state["block"], state["used"])
    progress = Progress("pretraining", steps, state["step"])
    rank, ranks = accelerator.process_index, accelerator.num_processes

    for step in range(state["step"] + 1, steps + 1):
        block, used, batch = next(batches)
        ids_bt = torch.from_numpy(batch[rank::ranks]).to(accelerator.device)
        learning_rate = cosine(step, steps, params)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        loss = next_token_loss(model, ids_bt)
        accelerator.backward(loss)
        norm = accelerator.clip_grad_norm_(model.parameters(), params.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        shown = accelerator.reduce(loss.detach(), "mean").item()
        state["log"].append([step, step * batch.size, shown, float(norm), learning_rate])
        progress.step(loss=shown)
        if step in save_at and accelerator.is_main_process:
            save_model(accelerator.unwrap_model(model), tokenizer, folder / save_at[step], params.dtype)
        if step % SAVE_EVERY == 0 and accelerator.is_main_process:
            state |= {"step": step, "block": block, "used": used}
            weights = {
                "model": accelerator.unwrap_model(model).state_dict(),
                "optimizer": optimizer.state_dict(),
            }
            with whole_file(state_file) as temporary:
                torch.save(state | weights, temporary)

    if accelerator.is_main_process:
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
        state_file.unlink(missing_ok=True)


def fingerprint(scale: Scale) -> str:
    """Hash of everything the suite depends on: its parameters, the beginning of the stream, the version of the code."""
    first_block = hashlib.sha256(next(corpus.token_blocks(scale.questions)).tobytes()).hexdigest()
    about = [PRETRAINING_CODE, asdict(scale.model), asdict(scale.pretrain), first_block]
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


def adamw(
    model: torch.nn.Module, learning_rate: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=tuple(betas))


def cosine(step: int, steps: int, params: Pretrain) -> float:
    """Learning rate at a step (1 to `steps`): linear warm-up, then a cosine to the final ratio of the peak."""
    if step <= params.warmup_steps:
        return params.learning_rate * step / params.warmup_steps
    share = (step - params.warmup_steps) / max(1, steps - params.warmup_steps)
    low = params.final_learning_rate_ratio
    return params.learning_rate * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * share)))


def total_steps(scale: Scale) -> int:
    """Optimizer steps of the whole pretraining."""
    return max(1, round(scale.pretrain.tokens / (scale.pretrain.batch_size * scale.model.context)))


def _batches(scale: Scale, block: int, used: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """(block and tokens of it used so far, batch (batch, context)) from a position of the stream."""
    size = scale.pretrain.batch_size * scale.model.context
    left = np.empty(0, dtype=np.int32)
    for number, tokens in enumerate(corpus.token_blocks(scale.questions, block), start=block):
        left = np.concatenate([left, tokens[used:] if number == block else tokens])
        consumed = used if number == block else 0
        while len(left) >= size:
            batch, left = left[:size], left[size:]
            consumed = len(tokens) - len(left)
            yield number, consumed, batch.reshape(scale.pretrain.batch_size, scale.model.context)
