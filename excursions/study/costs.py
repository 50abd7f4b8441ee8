"""What a study costs: the stages of `planning` times the runs, in operations, hours, memory and disk, as a report.

Costs of a run depend on its recipe and not on its checkpoint or seed. Runs named without their parent (`sft_rl` without
`sft`) are counted without it.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from excursions.data.loading import load_questions
from excursions.data.source import open_source
from excursions.params import Scale
from excursions.recipes import PARENTS, RECIPES
from excursions.results import tables as results
from excursions.study.planning import (
    GENERAL,
    STAGES,
    Lengths,
    Shape,
    general_flops,
    rl_flops,
    rollout_flops,
    stage_memory,
    training_flops,
)
from excursions.study.run import Run
from excursions.training import sft

# What is assumed of public data, whose lengths are not known before they are there. Tokens of OLMo2's tokenizer, from
# characters at 4 a token (3 in MATH): questions of GSM8K 235 and of MATH 191, correct rows of OpenMathInstruct-1.
PROMPT, SOLUTION = 70.0, 150.0
COMPLETION = 0.4  # mean length of a trained model's completions, as a share of max_new_tokens
KEPT = 0.5  # share of the groups of rollouts whose rewards differ; the others are not scored
TEST_QUESTIONS = {"gsm8k": 1319, "math": 5000}  # all there are
FITS = 0.9  # share of a device's memory that a stage may take; the libraries need some
GB = 1e9


@dataclass(frozen=True)
class Machine:
    """What computes. Utilizations are shares of the peak that the matrix products reach."""

    device: str
    tflops: float  # peak of one device
    utilization: float  # of training and of scoring given text
    decode_utilization: float  # of sampling token by token
    memory_gb: float  # of one device
    count: int


# H100 SXM, bfloat16: NVIDIA's data sheet has 1,979 TFLOP/s with sparsity, dense half of that. Training on it reaches
# 0.38 to 0.43 (Llama 3, arXiv 2407.21783, table 4). Decoding waits for memory: a step reads all weights and the cache.
GPU = Machine("GPU", 989.0, 0.4, 0.1, 80.0, 8)
# One CPU core in fp32, measured: benchmarks/pretraining.py, and the times in training.parquet of committed runs.
CORE = Machine("core", 0.1, 0.45, 0.25, math.inf, 1)


def find_machine(scale: Scale, **given: float | None) -> Machine:
    """The default for a scale, CPU cores for nano's data and GPUs for public ones, with what is given (not None)."""
    default = CORE if open_source(scale).made_here else GPU
    changed: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    return replace(default, **changed)


@dataclass(frozen=True)
class Cost:
    """Operations by what they are for."""

    rollouts: float = 0.0
    training: float = 0.0
    evaluation: float = 0.0
    general: float = 0.0

    def hours(self, machine: Machine) -> Cost:
        """Hours of one device."""
        rate = machine.tflops * 1e12 * 3600
        decoding, scoring = rate * machine.decode_utilization, rate * machine.utilization
        return Cost(
            self.rollouts / decoding, self.training / scoring, self.evaluation / decoding, self.general / scoring
        )

    @property
    def total(self) -> float:
        """All of it."""
        return sum(astuple(self))


# ---- the stages of a study ----


def find_lengths(scale: Scale, root: Path, name: str, suite: str) -> Lengths:
    """From the training logs of this scale's runs; without them from nano's questions, or assumed."""
    if any((root / "results" / name / suite).glob("*/*/seed-*/training.parquet")):
        log = results.load_training(root, name, suite)
        sft_log = log[log.recipe.isin(["sft", "sft_gold"])] if "sft_tokens" in log else pd.DataFrame()
        rl_log = log[log.reward.notna()]
        if len(sft_log) and len(rl_log):
            completion = rl_log["completions/mean_length"]
            rows = scale.rl.questions_per_step * scale.rl.rollouts
            prompt = (rl_log.num_tokens / rows - completion).mean()
            first = completion[(rl_log.step == 1) & rl_log.recipe.isin(["rl", "parallel"])]
            return Lengths(
                prompt=prompt,
                solution=sft_log.sft_tokens.mean() / scale.sft.batch_size - prompt,
                completion=completion.mean(),
                untrained=first.mean() if len(first) else completion.mean(),
                kept=1 - rl_log.frac_reward_zero_std.mean(),
                source="means of the runs that are there",
            )
    limit = scale.evaluate.max_new_tokens
    source = open_source(scale)
    if source.made_here:
        examples = sft.sft_examples(load_questions(scale).train, source.tokenizer(), scale.questions, 0, False)
        prompt = sum(len(e.prompt_ids) for e in examples) / len(examples)
        solution = sum(len(e.completion_ids) for e in examples) / len(examples)
        completion = min(solution, limit)
        return Lengths(prompt, solution, completion, limit, KEPT, "of the questions; completions like their solutions")
    return Lengths(PROMPT, SOLUTION, COMPLETION * limit, limit, KEPT, "assumed, see costs.py")


def asked(scale: Scale, per_benchmark: int) -> int:
    """Test questions of all benchmarks, two or one, where there are so many."""
    names = [name for name in (scale.questions.easy, scale.questions.hard) if name]
    return sum(min(per_benchmark, TEST_QUESTIONS.get(name, per_benchmark)) for name in names)


def pretraining_cost(scale: Scale, shape: Shape) -> Cost:
    """All of pretraining, the part after the last checkpoint that is kept included."""
    tokens = scale.pretrain.tokens
    return Cost(training=training_flops(shape, tokens, scale.model.context, tokens))


def checkpoint_cost(scale: Scale, shape: Shape, lengths: Lengths, recipes: Iterable[str]) -> Cost:
    """What is measured once of a checkpoint for all recipes and seeds (`one_run.measure`): 0-shot, the step 0 of all
    recipes that start from it, and few-shot for `base`."""
    shots, questions = scale.evaluate.shots, asked(scale, scale.questions.test)
    prompts = {lengths.prompt for recipe in recipes if recipe != "base" and RECIPES[recipe].parent is None}
    if "base" in recipes:
        prompts.add(lengths.prompt + shots * (lengths.prompt + lengths.solution))
    samples = scale.evaluate.samples
    return Cost(evaluation=sum(rollout_flops(shape, questions, samples, p, lengths.untrained) for p in prompts))


def run_steps(recipe: str, scale: Scale) -> int:
    """Optimizer steps of a recipe after its parent's."""
    make = RECIPES[recipe].make
    if make == "sft":
        gold, questions = RECIPES[recipe].gold, scale.questions.train_easy + scale.questions.train_hard
        return sft.sft_steps(questions * (scale.questions.solutions if gold else 1), scale.sft, gold)
    return {None: 0, "parallel": scale.parallel.steps}.get(make, scale.rl.steps)


def run_cost(recipe: str, scale: Scale, shape: Shape, lengths: Lengths) -> Cost:
    """One run after its step 0: `sft_rl` starts from the result of `sft`, which that run has measured."""
    rl, prompt, completion = scale.rl, lengths.prompt, lengths.completion
    steps, rollouts, training, evaluation = run_steps(recipe, scale), 0.0, 0.0, 0.0
    if "rl" in RECIPES[recipe].blocks:
        rollouts = steps * rollout_flops(shape, rl.questions_per_step, rl.rollouts, prompt, completion)
        training = steps * rl_flops(shape, scale, lengths)
    if "sft" in RECIPES[recipe].blocks:
        batch_size = scale.parallel.sft_batch_size if RECIPES[recipe].make == "parallel" else scale.sft.batch_size
        length = prompt + lengths.solution
        tokens = steps * batch_size * length
        training += training_flops(shape, tokens, length, tokens)
    if steps:
        questions = asked(scale, scale.questions.test)
        questions += scale.evaluate.between * asked(scale, scale.evaluate.questions_between)
        evaluation = rollout_flops(shape, questions, scale.evaluate.samples, prompt, completion)
    return Cost(rollouts, training, evaluation, general_flops(shape, scale))


def study_costs(
    runs: Sequence[Run], scale: Scale, shape: Shape, lengths: Lengths, pretrained: bool
) -> list[tuple[str, int, Cost]]:
    """(stage, how many times, cost of one) of these runs; `pretrained`: from a public suite."""
    rows = [] if pretrained else [("pretraining", 1, pretraining_cost(scale, shape))]
    by_checkpoint: dict[str, set[str]] = {}
    for run in runs:
        by_checkpoint.setdefault(run.checkpoint, set()).add(run.recipe)
    measured: dict[Cost, int] = {}
    for recipes in by_checkpoint.values():
        cost = checkpoint_cost(scale, shape, lengths, recipes)
        measured[cost] = measured.get(cost, 0) + 1
    rows += [("checkpoint, as it is", times, cost) for cost, times in measured.items()]
    for recipe in dict.fromkeys(run.recipe for run in runs):
        times = sum(run.recipe == recipe for run in runs)
        rows.append((recipe, times, run_cost(recipe, scale, shape, lengths)))
    return rows


def reduce_study(runs: Sequence[Run], scale: Scale) -> tuple[list[Run], Scale, dict[str, object]]:
    """A smaller study of the same form: its runs, its scale, and what of params.yaml that changes.

    The first, the middle and the last checkpoint, one seed, a quarter of the RL steps, one epoch over all solutions,
    at most 500 test questions of a benchmark, and at most two evaluations between.
    """
    names = list(dict.fromkeys(run.checkpoint for run in runs))
    kept = list(dict.fromkeys([names[0], names[len(names) // 2], names[-1]]))
    few = [run for run in runs if run.checkpoint in kept and run.seed == runs[0].seed]
    blocks = {
        "rl": {"steps": math.ceil(scale.rl.steps / 4)},
        "parallel": {"steps": math.ceil(scale.parallel.steps / 4)},
        "sft": {"gold_epochs": 1},
        "questions": {"test": min(500, scale.questions.test)},
        "evaluate": {"between": min(2, scale.evaluate.between)},
    }
    smaller = replace(scale, **{block: replace(getattr(scale, block), **values) for block, values in blocks.items()})
    name = runs[0].scale
    changed = {"checkpoints": kept, "seeds": [runs[0].seed], "more_seeds": {}}
    for block, values in blocks.items():
        for key, value in values.items():
            if value != getattr(getattr(scale, block), key):
                changed[f"{name}.{block}.{key}"] = value
    return few, smaller, changed


# ---- disk ----


def results_bytes(recipe: str, scale: Scale, lengths: Lengths) -> float:
    """The size of a run's folder, in the proportions of committed runs: 14 kB, 2 bytes a question asked, 2 a general
    item, half a byte a token of the completions that are kept, and of a step of the log 32, with RL 100."""
    times = 1 if recipe == "base" else 2
    questions = times * asked(scale, scale.questions.test)
    questions += (times - 1) * scale.evaluate.between * asked(scale, scale.evaluate.questions_between)
    kept = times * 2 * scale.evaluate.kept_questions * scale.evaluate.kept_samples * lengths.completion
    items = sum(min(count, scale.evaluate.general or count) for count, *_ in GENERAL.values())
    step = 32 if recipe in ("sft", "sft_gold") else 100
    return 14_000 + 2 * questions + 2 * items + 0.5 * kept + step * run_steps(recipe, scale)


def disk_bytes(
    runs: Sequence[Run], scale: Scale, shape: Shape, lengths: Lengths, pretrained: bool
) -> list[tuple[str, float]]:
    """(what, bytes). A state holds fp32 weights and what AdamW keeps; a new one is written before the old one goes."""
    n, size = shape.parameters, {"float32": 4}.get(scale.pretrain.dtype, 2)
    recipes = {run.recipe for run in runs}
    state = max((20 if r == "parallel" else 12 for r in recipes if r != "base"), default=0)
    parents = sum(run.recipe in PARENTS for run in runs)
    rows: list[tuple[str, float]] = []
    if not pretrained:
        saved = len(scale.pretrain.save)
        rows.append((f"{saved} checkpoints ({scale.pretrain.dtype})", saved * size * n))
        rows.append(("states while pretraining", 2 * 12 * n))
    rows.append(("states while a run trains, at most", 2 * state * n))
    rows.append((f"{parents} trained models that other runs start from", 4 * n * parents))
    rows.append((f"results of {len(runs)} runs", sum(results_bytes(run.recipe, scale, lengths) for run in runs)))
    return rows


# ---- the report ----


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
        flops = sum(times * cost.total for _, times, cost in costs)
        spent = sum(times * cost.hours(machine).total for _, times, cost in costs)
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
    rows = [[f"memory, {unit}", *heads, *([f"FSDP2 over {count}"] if count > 1 else [])]]
    advice = []
    for stage in STAGES[1:] if pretrained else STAGES:
        memory = stage_memory(stage, scale, shape, lengths, count, mixed)
        sizes = [*astuple(memory), memory.total, *([memory.sharded(count)] if count > 1 else [])]
        rows.append([stage, *(_number(size / divisor) for size in sizes)])
        if memory.total > FITS * machine.memory_gb * GB:
            advice.append(_advice(stage, scale, shape, lengths, machine, mixed))
    micro = f"{scale.pretrain.micro_batch or 'all'} (pretraining), {sft.MICRO_BATCH} (sft), {scale.rl.micro_batch} (rl)"
    about = (
        f"of one process of {count}; {'bf16 products over fp32 weights' if mixed else 'fp32'}; micro batches of "
        f"{micro}, completions of {scale.rl.max_new_tokens} tokens"
    )
    return [*_aligned(rows), *_wrapped(about), *advice]


def _advice(stage: str, scale: Scale, shape: Shape, lengths: Lengths, machine: Machine, mixed: bool) -> str:
    """How a stage that does not fit would: sharded, or with the largest power of two as a micro batch."""
    block = "pretrain" if stage == "pretraining" else "rl"
    limit, says = FITS * machine.memory_gb * GB, f"  {stage} does not fit {machine.memory_gb:g} GB"
    sizes = [getattr(scale, block).micro_batch, *(1 << i for i in reversed(range(12)))]
    for size in sizes:
        tried = replace(scale, **{block: replace(getattr(scale, block), micro_batch=size)})
        memory = stage_memory(stage, tried, shape, lengths, machine.count, mixed)
        with_it = "" if size == sizes[0] else f"{block}.micro_batch: {size}"
        if memory.total <= limit:
            return f"{says}; it does with {with_it}"
        if memory.sharded(machine.count) <= limit:
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
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(x.rjust(w) for x, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
