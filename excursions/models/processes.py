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
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import gather_object
from accelerate.utils.environment import parse_flag_from_env
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from excursions.models import state
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
        else:
            self._mix_precision(model)
        return model

    def _mix_precision(self, model: nn.Module) -> None:
        if self.accelerator.mixed_precision == "bf16":
            model.forward = torch.autocast(self.device.type, torch.bfloat16)(model.forward)

    def frozen(self, model: nn.Module) -> nn.Module:
        """A copy of the placed model as it is now, whole on each process, that computes in the same precision."""
        copied = copy.deepcopy(self.plain(model))
        vars(copied).pop("forward", None)  # a wrapped forward is copied as it is, bound to the model that goes on
        self._mix_precision(copied)
        return copied

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
        for p in (p for p in model.parameters() if p.requires_grad):
            if p.grad is None:
                p.grad = torch.zeros_like(p)
            dist.all_reduce(p.grad)

    # ---- state on disk ----

    @torch.no_grad()
    def save_state(
        self, folder: Path, step: int, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], about: dict
    ) -> None:
        """Writes folder/step-<n> (see `state`): the main process, for all. Sharded tensors are gathered one by one."""
        tensors = {}
        for name, tensor in _training_tensors(model, optimizers):
            whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if self.is_main:
                tensors[name] = whole.detach().cpu()
        if self.is_main:
            state.save_state(folder, step, tensors, about)
        self.wait()

    @torch.no_grad()
    def load_state(
        self, folder: Path, fingerprint: str, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]
    ) -> dict | None:
        """Puts the last saved state with this fingerprint into model and optimizers and returns what was saved `about`
        it; None if there is none. The number of processes may have changed since."""
        # The main process looks, for all: two that disagree about a file would wait for each other for ever.
        found = state.load_state(folder, fingerprint) if self.is_main else None
        about = self.join([found and found[0]] if self.is_main else [])[0]
        if about is None:
            return None
        tensors = found[1] if found else state.read_tensors(folder / f"step-{about['step']}")
        for name, p in _trained(model):
            p.copy_(_like(p, tensors[name]))
        for i, optimizer in enumerate(optimizers):
            for j, p in enumerate(_parameters(optimizer)):
                prefix = f"optimizer-{i}.{j}."
                saved = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
                # as AdamW makes them: the number of steps on the CPU, the moments as the parameter is
                optimizer.state[p] = {key: _like(p, t) if t.ndim else t for key, t in saved.items()}
        return about

    def delete_state(self, folder: Path) -> None:
        """Deletes the states in a folder, when all processes are here."""
        self.wait()
        if self.is_main:
            for left in state.saved_states(folder):
                shutil.rmtree(left)


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((f"model.{name}", p) for name, p in model.named_parameters() if p.requires_grad)


def _parameters(optimizer: torch.optim.Optimizer) -> Iterator[nn.Parameter]:
    return (p for group in optimizer.param_groups for p in group["params"])


def _training_tensors(
    model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> Iterator[tuple[str, torch.Tensor]]:
    """All that training changes. Rates and the like are not of it: the code that goes on sets them."""
    yield from _trained(model)
    for i, optimizer in enumerate(optimizers):
        for j, p in enumerate(_parameters(optimizer)):
            yield from ((f"optimizer-{i}.{j}.{key}", tensor) for key, tensor in optimizer.state[p].items())


def _like(p: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """A whole tensor from the CPU, placed and sharded as a parameter is."""
    if isinstance(p, DTensor):  # each process takes its part of its own copy
        return distribute_tensor(whole.to(p.device), p.device_mesh, p.placements, src_data_rank=None)
    return whole.to(p.device)


def _blocks(model: nn.Module) -> list[nn.Module]:
    """The decoder layers: the units of sharding."""
    names = set(model._no_split_modules or ())
    blocks = [module for module in model.modules() if type(module).__name__ in names]
    if not blocks:
        raise UserError(f"{type(model).__name__} does not say what its layers are, so it cannot be sharded: no FSDP.")
    return blocks
