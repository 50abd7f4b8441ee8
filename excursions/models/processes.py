"""The processes of one job, through accelerate: who computes what, sums over all of them, and the state on disk.

One process is the ordinary case, and everything here is then the identity. More of them are started by a launcher:

    accelerate launch --num_processes 8 -m excursions train --scale paper --checkpoint p08 --recipe rl --seed 0

Two ways to hold the model. Without FSDP each process holds all of it, and gradients are summed after the last
micro batch. With `--use_fsdp --fsdp_version 2` weights, gradients and optimizer states are sharded over the processes
(FSDP2, `fully_shard`; ZeRO-3, arXiv 1910.02054). In both the loss of a process is its part of the sum over the whole
batch, divided by the whole batch's tokens, and gradients are summed and never averaged. So the number of processes
changes nothing but the order of additions. A sharded model needs the same number of passes in every process:
`share_passes` gives each the same number.

Left out: tensor, pipeline and context parallelism, which 1B parameters do not need.
"""

from __future__ import annotations

import copy
import os
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from accelerate import Accelerator
from accelerate.utils import gather_object
from accelerate.utils.environment import parse_flag_from_env
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from excursions.models.lora import add_lora, merge_lora
from excursions.params import Lora, UserError


class Processes:
    """This process among those of its job. A job trains one model."""

    def __init__(self) -> None:
        """Joins the others. Raises UserError if this machine has fewer GPUs than processes."""
        here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
        if gpus and here > gpus:
            raise UserError(
                f"{here} processes were started on this machine, which has {gpus} GPUs: start one for each GPU, "
                f"accelerate launch --num_processes {gpus} ..."
            )
        sharded = parse_flag_from_env("ACCELERATE_USE_FSDP")
        if sharded and os.environ.get("FSDP_VERSION", "1") != "2":
            raise UserError(
                "accelerate was told to use FSDP 1; this project uses FSDP 2: add --fsdp_version 2 to `accelerate "
                "launch`, or `fsdp_version: 2` to its configuration file (see launch/)."
            )
        self.accelerator = Accelerator(cpu=not torch.cuda.is_available())
        self.rank, self.count = self.accelerator.process_index, self.accelerator.num_processes
        self.local_rank, self.is_main = self.accelerator.local_process_index, self.accelerator.is_main_process
        self.device = self.accelerator.device
        self.sharded = sharded and self.count > 1
        # Every process loads its weights itself; transformers would leave all but the first without.
        os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
        self._plain: nn.Module | None = None
        self.adapted = False

    def describe(self) -> dict:
        """What run.json says of them."""
        return {
            "count": self.count,
            "sharded": self.sharded,
            "device": self.device.type,
            "mixed_precision": self.accelerator.mixed_precision,
        }

    # ---- who computes what ----

    def share(self, items: Sequence) -> list:
        """This process's part of a list that all have: every count-th item."""
        return list(items)[self.rank :: self.count]

    def share_passes(self, passes: Sequence) -> list[tuple]:
        """This process's part of a list of passes through the model, as (pass, weight).

        Every process gets the same number; what is missing is filled up with passes of weight 0.
        """
        if not passes:
            return []
        padding = -len(passes) % self.count
        weighted = [(item, 1.0) for item in passes] + [(passes[0], 0.0)] * padding
        return weighted[self.rank :: self.count]

    def join(self, parts: list) -> list:
        """The inverse of `share`: what each process made of its part (any picklable objects), as one list."""
        if self.count == 1:
            return parts
        by_rank = [[] for _ in range(self.count)]  # type: list[list]
        for rank, part in gather_object([(self.rank, parts)]):
            by_rank[rank] = part
        longest = max(map(len, by_rank))
        return [part[i] for i in range(longest) for part in by_rank if i < len(part)]

    def sum(self, numbers: dict[str, float]) -> dict[str, float]:
        """Each number summed over the processes, in double precision."""
        if self.count == 1:
            return numbers
        total = torch.tensor(list(numbers.values()), dtype=torch.float64, device=self.device)
        return dict(zip(numbers, self.accelerator.reduce(total, "sum").tolist(), strict=True))

    def wait(self) -> None:
        """Until all processes are here."""
        self.accelerator.wait_for_everyone()

    # ---- the model ----

    def place(self, model: nn.Module, lora: Lora | None = None, seed: int = 0) -> nn.Module:
        """Puts a plain model on this process's device, sharded if the launcher says so, with adapters if asked for; to
        be called before the optimizers are built."""
        model.to(self.device)
        self._plain = copy.deepcopy(model) if self.sharded or lora else model
        self.adapted = lora is not None
        if lora:
            if self.sharded:
                raise UserError("LoRA with FSDP is not supported: start without --use_fsdp, or without `lora`.")
            model = add_lora(model, lora, seed)
        precision = self.accelerator.mixed_precision
        if precision not in ("no", "bf16"):
            raise UserError(f"--mixed_precision {precision} is not supported; accepted: no, bf16.")
        if self.sharded:
            kind = torch.bfloat16 if precision == "bf16" else torch.float32
            policy = MixedPrecisionPolicy(param_dtype=kind, reduce_dtype=torch.float32)
            blocks = _blocks(model)
            for block in blocks:
                fully_shard(block, mp_policy=policy)
            fully_shard(model, mp_policy=policy)
            for module in (model, *blocks):
                module.set_gradient_divide_factor(1.0)  # a sum over the processes, as without sharding
                module.set_force_sum_reduction_for_comms(True)  # gloo knows no other
        elif precision == "bf16":
            model.forward = torch.autocast(self.device.type, torch.bfloat16)(model.forward)
        return model

    @torch.no_grad()
    def plain(self, model: nn.Module) -> nn.Module:
        """The placed model with its present weights, whole and ordinary: what engines and evaluations take."""
        if self.sharded:
            for target, source in zip(self._plain.parameters(), model.parameters(), strict=True):  # type: ignore[union-attr]  # `place` came before
                target.copy_(source.full_tensor())
        elif self.adapted:
            merge_lora(model, self._plain)
        return self._plain

    def sum_gradients(self, model: nn.Module) -> None:
        """After the last micro batch: every `.grad` becomes its sum over the processes. FSDP has done so already."""
        if self.count == 1 or self.sharded:
            return
        for p in model.parameters():
            if p.grad is None:
                p.grad = torch.zeros_like(p)
            dist.all_reduce(p.grad)

    # ---- state on disk ----

    def save_state(
        self, folder: Path, step: int, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], about: dict
    ) -> None:
        """Writes folder/step-<n>, whole or not at all, and deletes what was there before. Each process writes its own
        shards (torch.distributed.checkpoint), the main one `about`."""
        partial = folder / f".step-{step}.partial"
        if self.is_main:
            for left in folder.glob(".step-*.partial"):  # by a kill
                shutil.rmtree(left)
            partial.mkdir(parents=True)
        self.wait()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of one process: "assuming the intent is to save in a single process"
            dcp.save(_tensors(model, optimizers), checkpoint_id=partial, no_dist=self.count == 1)
        self.wait()
        if self.is_main:
            torch.save(about, partial / "about.pt")
            done, old = folder / f"step-{step}", self._states(folder)
            shutil.rmtree(done, ignore_errors=True)  # of a run with other parameters
            partial.rename(done)
            for state in old:
                if state != done:
                    shutil.rmtree(state)
        self.wait()

    def load_about(self, folder: Path) -> dict | None:
        """`about` of the last saved state, if there is one."""
        states = self._states(folder)
        return torch.load(states[-1] / "about.pt", weights_only=True) if states else None

    def load_tensors(self, folder: Path, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Puts the last saved state into model and optimizers; the number of processes may have changed."""
        tensors = _tensors(model, optimizers)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dcp.load(tensors, checkpoint_id=self._states(folder)[-1], no_dist=self.count == 1)
        set_model_state_dict(model, tensors["model"])
        for i, optimizer in enumerate(optimizers):
            set_optimizer_state_dict(model, optimizer, tensors[f"optimizer-{i}"])

    def delete_state(self, folder: Path) -> None:
        """Deletes the states in a folder, when all processes are here."""
        self.wait()
        if self.is_main:
            for state in self._states(folder):
                shutil.rmtree(state)

    def _states(self, folder: Path) -> list[Path]:
        return sorted(folder.glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))


def _blocks(model: nn.Module) -> list[nn.Module]:
    """The decoder layers: the units of sharding."""
    names = set(model._no_split_modules or ())
    blocks = [module for module in model.modules() if type(module).__name__ in names]
    if not blocks:
        raise UserError(f"{type(model).__name__} does not say what its layers are, so it cannot be sharded: no FSDP.")
    return blocks


def _tensors(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> dict:
    states = {"model": get_model_state_dict(model)}
    for i, optimizer in enumerate(optimizers):
        states[f"optimizer-{i}"] = get_optimizer_state_dict(model, optimizer)
    return states
