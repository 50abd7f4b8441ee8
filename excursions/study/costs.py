"""What a study costs: the stages of `planning` times the runs, in operations, hours and disk; told by `cost_report`.

Costs of a run depend on its recipe and not on its checkpoint or seed. Runs named without their parent (`sft_rl` without
`sft`) are counted without it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from excursions.data.loading import load_questions
from excursions.data.source import open_source
from excursions.models.state import KEPT as KEPT_STATES
from excursions.params import Scale
from excursions.recipes import PARENTS, RECIPES
from excursions.results import tables as results
from excursions.study.planning import (
    GENERAL,
    Lengths,
    Shape,
    adapter_rank,
    general_flops,
    rl_flops,
    rollout_flops,
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
    measured = set()  # (questions, samples of each, tokens of a prompt)
    for recipe in recipes:
        seen = scale.of(recipe)
        shots = seen.evaluate.shots if recipe == "base" else 0
        prompt = lengths.prompt + shots * (lengths.prompt + lengths.solution)
        if RECIPES[recipe].parent is None:
            measured.add((asked(seen, seen.questions.test), seen.evaluate.samples, prompt))
    return Cost(evaluation=sum(rollout_flops(shape, *how, lengths.untrained) for how in sorted(measured)))


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
        training += training_flops(shape, tokens, length, tokens, adapter_rank(scale))
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
        rows.append((recipe, times, run_cost(recipe, scale.of(recipe), shape, lengths)))
    return rows


def totals(stages: Sequence[tuple[str, int, Cost]], machine: Machine) -> tuple[float, float]:
    """Operations, and hours of one device, of all times that the stages of `study_costs` run."""
    flops = sum(times * cost.total for _, times, cost in stages)
    return flops, sum(times * cost.hours(machine).total for _, times, cost in stages)


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
    name, seeds = runs[0].scale, [runs[0].seed]
    changed = {"checkpoints": kept, "seeds": seeds, "more_seeds": {}}
    if scale.seeds is not None:
        smaller, changed = replace(smaller, seeds=tuple(seeds)), {"checkpoints": kept, f"{name}.seeds": seeds}
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
    """(what, bytes). A state holds what is trained in fp32 and what AdamW keeps; the last are kept meanwhile."""
    n, size = shape.parameters, {"float32": 4}.get(scale.pretrain.dtype, 2)
    trained = adapter_rank(scale) * shape.layer_sides or n
    recipes = {run.recipe for run in runs}
    state = max((20 if r == "parallel" else 12 for r in recipes if r != "base"), default=0)
    parents = sum(run.recipe in PARENTS for run in runs)
    rows: list[tuple[str, float]] = []
    if not pretrained:
        saved = len(scale.pretrain.save)
        rows.append((f"{saved} checkpoints ({scale.pretrain.dtype})", saved * size * n))
        rows.append(("states while pretraining", (KEPT_STATES + 1) * 12 * n))
    rows.append(("states while a run trains, at most", (KEPT_STATES + 1) * state * trained))
    rows.append((f"{parents} trained models that other runs start from", 4 * n * parents))
    kept = sum(results_bytes(run.recipe, scale.of(run.recipe), lengths) for run in runs)
    rows.append((f"results of {len(runs)} runs", kept))
    return rows
