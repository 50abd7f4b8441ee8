"""What a study costs, as lines of text: `excursions plan`."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import astuple, replace
from pathlib import Path

from tabulate import tabulate

from excursions.data.source import open_source
from excursions.params import Scale
from excursions.study.costs import GB, Machine, disk_bytes, find_lengths, reduce_study, study_costs, totals
from excursions.study.planning import STAGES, Lengths, Shape, stage_memory
from excursions.study.run import Run
from excursions.training import sft

FITS = 0.9  # share of a device's memory that a stage may take; the libraries need some


def describe_costs(
    runs: Sequence[Run], scale: Scale, shape: Shape, root: Path, machine: Machine, pretrained: bool, reduced: bool
) -> list[str]:
    """The costs of these runs as lines of text; `reduced`: in detail those of the reduced study instead."""
    name, suite = runs[0].scale, runs[0].suite
    lengths = find_lengths(scale, root, name, suite)
    few, smaller, changed = reduce_study(runs, scale)
    studies = {"study": study_costs(runs, scale, shape, lengths, pretrained)}
    studies["reduced study"] = study_costs(few, smaller, shape, lengths, pretrained)
    if reduced:
        del studies["study"]
        runs, scale = few, smaller
    device, plural = machine.device, f"{machine.count} {machine.device}{'s' if machine.count > 1 else ''}"
    lines = [
        f"Costs of the {next(iter(studies))} at scale {name}, suite {suite}{' (already pretrained)' * pretrained}",
        f"  model    {shape.kind}, {shape.parameters:,} parameters: {shape.layers} layers, width {shape.hidden:,}, MLP "
        f"{shape.intermediate:,}, vocabulary {shape.vocabulary:,}, context {shape.context:,}",
        f"  {device:8} peak {machine.tflops:g} TFLOP/s; {machine.utilization:.0%} of it are reached in training and "
        f"scoring, {machine.decode_utilization:.0%} in sampling",
        f"  tokens   prompt {lengths.prompt:.0f}, solution {lengths.solution:.0f}, completion {lengths.completion:.0f}"
        f" ({lengths.untrained:.0f} before training); {lengths.kept:.0%} of groups scored; {lengths.source}",
        "",
    ]
    rows = [["stage", "times", "FLOPs of one", "rollouts", "training", "evaluation", "general", "sum", "all times"]]
    for stage, times, cost in next(iter(studies.values())):
        hours = cost.hours(machine)
        parts = [_number(x) for x in (*astuple(hours), hours.total, times * hours.total)]
        rows.append([stage, str(times), f"{cost.total:.1e}", *parts])
    lines += [*_aligned(rows), f"  columns from rollouts on: {device}-hours", ""]

    rows = [["total", "runs", "FLOPs", "pretraining", "runs", f"all, {device}-hours", f"days on {plural}"]]
    for label, costs in studies.items():
        flops, spent = totals(costs, machine)
        before = sum(cost.hours(machine).total for stage, _, cost in costs if stage == "pretraining")
        parts = [_number(x) for x in (before, spent - before, spent, spent / 24 / machine.count)]
        rows.append([label, str(len(few if label == "reduced study" else runs)), f"{flops:.1e}", *parts])
    changes = ", ".join(f"{key}: {value}" for key, value in changed.items()).replace("'", "")
    lines += [*_aligned(rows), *_wrapped(f"reduced: params.yaml with {changes}")]
    if not pretrained:
        lines.append("  from public checkpoints (`suites` in params.yaml): without the hours of pretraining")
    lines += ["", *_memory_lines(scale, shape, lengths, machine, pretrained), ""]
    unit, divisor = _unit(scale)
    rows = [["disk", unit]]
    rows += [[what, _number(size / divisor)] for what, size in disk_bytes(runs, scale, shape, lengths, pretrained)]
    return [*lines, *_aligned(rows), ""]


def _memory_lines(scale: Scale, shape: Shape, lengths: Lengths, machine: Machine, pretrained: bool) -> list[str]:
    """A table of all stages, what was assumed, and what does not fit, with the micro batch that does."""
    mixed, count = not open_source(scale).made_here, machine.count
    unit, divisor = _unit(scale)
    heads = "weights gradients AdamW snapshots copies sampler cache activations logits total".split()
    shards = count > 1 and not scale.lora  # FSDP with adapters is refused
    rows = [[f"memory, {unit}", *heads, *([f"FSDP2 over {count}"] if shards else [])]]
    advice = []
    for stage in STAGES[1:] if pretrained else STAGES:
        memory = stage_memory(stage, scale, shape, lengths, count, mixed)
        sizes = [*astuple(memory), memory.total, *([memory.sharded(count)] if shards else [])]
        rows.append([stage, *(_number(size / divisor) for size in sizes)])
        if memory.total > FITS * machine.memory_gb * GB:
            advice.append(_advice(stage, scale, shape, lengths, machine, mixed))
    tokens = scale.sft.micro_batch_tokens
    of_sft = sft.MICRO_BATCH if tokens is None else f"{tokens:,} tokens"
    micro = f"{scale.pretrain.micro_batch or 'all'} (pretraining), {of_sft} (sft), {scale.rl.micro_batch} (rl)"
    about = f"LoRA of rank {scale.lora.rank}; " if scale.lora else ""
    about += (
        f"of one process of {count}; {'bf16 products over fp32 weights' if mixed else 'fp32'}; micro batches of "
        f"{micro}, completions of {scale.rl.max_new_tokens} tokens"
    )
    return [*_aligned(rows), *_wrapped(about), *advice]


def _advice(stage: str, scale: Scale, shape: Shape, lengths: Lengths, machine: Machine, mixed: bool) -> str:
    """How a stage that does not fit would: sharded, or with the largest power of two as a micro batch."""
    block, key, powers = {"pretraining": ("pretrain", "micro_batch", 12), "sft": ("sft", "micro_batch_tokens", 16)}.get(
        stage, ("rl", "micro_batch", 12)
    )
    limit, says = FITS * machine.memory_gb * GB, f"  {stage} does not fit {machine.memory_gb:g} GB"
    sizes = [getattr(getattr(scale, block), key), *(1 << i for i in reversed(range(powers)))]
    for size in sizes:
        tried = replace(scale, **{block: replace(getattr(scale, block), **{key: size})})
        memory = stage_memory(stage, tried, shape, lengths, machine.count, mixed)
        with_it = "" if size == sizes[0] else f"{block}.{key}: {size}"
        if memory.total <= limit:
            return f"{says}; it does with {with_it}"
        if memory.sharded(machine.count) <= limit and not scale.lora:
            return f"{says}; it does with {with_it}{' and ' if with_it else ''}FSDP2"
    return f"{says} with any micro batch"


def _unit(scale: Scale) -> tuple[str, float]:
    return ("MB", 1e6) if open_source(scale).made_here else ("GB", GB)


def _number(x: float) -> str:
    if not x:
        return "-"
    return f"{x:,.0f}" if x >= 100 else f"{x:.1f}" if x >= 1 else f"{x:.2g}"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 116, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)


def _aligned(rows: list[list[str]]) -> list[str]:
    """Columns of one width each, the first to the left and the others to the right."""
    sides = ["left", *("right" for _ in rows[0][1:])]
    return tabulate(rows, tablefmt="plain", colalign=sides, disable_numparse=True).splitlines()
