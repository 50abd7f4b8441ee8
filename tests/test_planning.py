"""The closed formulas of costs against what nano's model really computes and keeps; the report; the list of jobs."""

import copy
import functools
import inspect
import json
import math
import shlex
import shutil
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from study_file import read_study, write_study
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, LlamaConfig

from excursions import cli, commands
from excursions.data.nano import corpus
from excursions.data.source import open_source
from excursions.evaluation.outcomes import measure_general
from excursions.models.lora import add_lora
from excursions.models.model import build_model
from excursions.models.processes import Processes
from excursions.models.scoring import completion_logprobs, flash, flash_backward
from excursions.params import RECIPES, Lora, PublicSuite, Revision, UserError
from excursions.recipes import RECIPES as TABLE
from excursions.rollout.sampler import Completion
from excursions.rollout.torch_engine import TorchEngine
from excursions.rollout.transformers_engine import TransformersEngine
from excursions.study import cost_report, costs, planning
from excursions.study.cells import study_cells
from excursions.study.planning import Lengths
from excursions.study.run import Run
from excursions.training.grpo import Group, rl_gradients
from excursions.training.optimizers import adamw, step_optimizer
from excursions.training.pretrain import next_token_loss
from excursions.training.sft import MICRO_BATCH, Example, completion_loss, sft_gradients

ROOT = Path(__file__).parents[1]
CLOSE = 0.2  # what the formulas promise


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def nano(study):
    return study.scale("nano")


@pytest.fixture(scope="module")
def model(nano):
    return build_model(nano.model, corpus.tokenizer(nano.questions.seed), seed=0).train()


@pytest.fixture(scope="module")
def shape(nano):
    return planning.model_shape(nano)


def flops(work) -> int:
    """Of the matrix products of `work`. The counter knows the fused attention of a GPU, and must be told a CPU's."""
    formulas = {
        flash: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
        flash_backward: lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad, q, k, v),
    }
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        work()
    return counter.get_total_flops()


def saved_bytes(model, work) -> int:
    """What autograd saves for the backward pass, each storage once, without the parameters."""
    own, saved = {p.untyped_storage()._cdata for p in model.parameters()}, {}

    def pack(x):
        saved[x.untyped_storage()._cdata] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        result = work()
    assert result is not None  # keeps the graph
    return sum(x.untyped_storage().nbytes() for key, x in saved.items() if key not in own)


class Peak(TorchDispatchMode):
    """The most bytes that tensors made inside of it took at a time."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.alive = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for x in tree_iter(result):
            if isinstance(x, torch.Tensor):
                storage = x.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
                if key not in self.alive:
                    self.now += size
                    self.peak = max(self.peak, self.now)
                    self.alive[key] = weakref.ref(storage, lambda _, key=key, size=size: self.gone(key, size))
        return result

    def gone(self, key, size):
        del self.alive[key]
        self.now -= size


def ids(rng, length) -> list[int]:
    return torch.randint(3, 400, (int(length),), generator=rng).tolist()


def make_groups(prompts=8, rollouts=16, full=None) -> list[Group]:
    """With nano's lengths: prompts of 30 to 55 tokens, completions of 35 on average and up to 96; or all of `full`."""
    rng = torch.Generator().manual_seed(0)
    lengths = torch.empty(prompts, rollouts).log_normal_(3.4, 0.6, generator=rng).clamp(2, 96)
    made = []
    for p in range(prompts):
        prompt = ids(rng, 40 if full else torch.randint(30, 56, (1,), generator=rng))
        found = [ids(rng, full or length) for length in lengths[p].tolist()]
        completions = [Completion(each, [-1.0] * len(each), "length") for each in found]
        made.append(Group(prompt, completions, [float(g % 2) for g in range(rollouts)]))
    return made


def lora(rank) -> Lora | None:
    return Lora(rank, 2 * rank) if rank else None


def adapted(model, rank):
    """A copy with adapters of a rank; the model itself for rank 0."""
    return add_lora(copy.deepcopy(model), lora(rank), 0) if rank else model


def mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


def lengths_of(groups) -> Lengths:
    completion = mean(len(c.token_ids) for group in groups for c in group.completions)
    return Lengths(mean(len(group.prompt_ids) for group in groups), 54, completion, completion, 1.0, "")


# ---- operations ----


def test_flops_of_pretraining(nano, model, shape):
    ids_bt = torch.randint(3, 400, (4, nano.model.context))
    measured = flops(lambda: next_token_loss(model, ids_bt).backward())
    few = replace(nano, pretrain=replace(nano.pretrain, tokens=ids_bt.numel()))
    assert costs.pretraining_cost(few, shape).training == pytest.approx(measured, rel=CLOSE)


@pytest.mark.parametrize(
    ("prompts", "micro_batch", "kl", "rank"), [(8, 64, 0.0, 0), (2, 8, 0.0, 0), (4, 64, 0.1, 0), (2, 32, 0.0, 16)]
)
def test_flops_of_an_rl_step(nano, model, shape, prompts, micro_batch, kl, rank):
    groups = make_groups(prompts)
    settings = {
        "temperature": 1.0,
        "processes": Processes(),
        "micro_batch": micro_batch,
        "kl": kl,
        "ref_model": model if kl else None,
    }
    measured = flops(lambda: rl_gradients(adapted(model, rank), groups, **settings))
    rl = replace(nano.rl, questions_per_step=len(groups), max_new_tokens=96, micro_batch=micro_batch, kl=kl)
    formula = planning.rl_flops(shape, replace(nano, rl=rl, lora=lora(rank)), lengths_of(groups))
    assert formula == pytest.approx(measured, rel=CLOSE)


def test_groups_without_a_signal_cost_nothing(nano, model, shape):
    groups = make_groups(prompts=4, full=48)
    half = [replace(group, rewards=[0.0] * 16) if p % 2 else group for p, group in enumerate(groups)]
    measured = flops(lambda: rl_gradients(model, half, temperature=1.0, processes=Processes())) / flops(
        lambda: rl_gradients(model, groups, temperature=1.0, processes=Processes())
    )
    lengths = lengths_of(groups)
    formula = planning.rl_flops(shape, nano, replace(lengths, kept=0.5)) / planning.rl_flops(shape, nano, lengths)
    assert formula == pytest.approx(0.5) and measured == pytest.approx(0.5)


@pytest.mark.parametrize("rank", [0, 16])
def test_flops_of_an_sft_step(nano, model, shape, rank):
    rng = torch.Generator().manual_seed(0)
    examples = [Example(ids(rng, 30 + i % 25), ids(rng, 30 + 7 * i % 60)) for i in range(32)]
    tokens = sum(len(e.prompt_ids) + len(e.completion_ids) for e in examples)
    measured = flops(lambda: sft_gradients(adapted(model, rank), examples, 0, Processes()))
    assert planning.training_flops(shape, tokens, tokens / 32, tokens, rank) == pytest.approx(measured, rel=CLOSE)


def test_flops_of_sampling(nano, model, shape):
    groups = make_groups()
    engine = TorchEngine(model, None, len(corpus.tokenizer(nano.questions.seed)))
    work = {"max_new_tokens": 48, "temperature": 1.0}
    measured = flops(lambda: engine.generate([g.prompt_ids for g in groups], [list(range(16))] * len(groups), **work))
    formula = planning.rollout_flops(shape, len(groups), 16, lengths_of(groups).prompt, 48)
    assert formula == pytest.approx(measured, rel=CLOSE)


def test_flops_of_the_general_benchmarks(nano, model, shape):
    tokenizer, tasks = corpus.tokenizer(nano.questions.seed), open_source(nano).general()
    measured = flops(lambda: measure_general(model, tokenizer, tasks, Processes()))
    assert planning.general_flops(shape, nano) == pytest.approx(measured, rel=CLOSE)


# ---- memory ----


@pytest.mark.parametrize("rank", [0, 16])
def test_weights_gradients_and_optimizer_states_are_exact(nano, model, shape, rank):
    model = adapted(model, rank)
    optimizers = [adamw(model, 1e-3, (0.9, 0.95), 0.0) for _ in range(2)]
    for optimizer in optimizers:
        next_token_loss(model, torch.randint(3, 400, (1, 8))).backward()
        gradients = sum(p.grad.nbytes for p in model.parameters() if p.requires_grad)
        step_optimizer(model, optimizer, 1.0)
    states = [x for o in optimizers for state in o.state.values() for x in state.values() if x.ndim]
    scale = replace(nano, lora=lora(rank))
    memory = planning.stage_memory("parallel", scale, shape, lengths_of(make_groups()), 1, False)
    assert sum(p.nbytes for p in model.parameters()) == memory.weights
    assert memory.copies == (4 * shape.parameters if rank else 0)  # of the weights, which takes the adapters in
    assert gradients == memory.gradients
    assert sum(x.nbytes for x in states) == memory.adamw


@pytest.mark.parametrize("mixed", [False, True], ids=["fp32", "bf16"])
def test_activations_are_what_autograd_saves(nano, model, shape, mixed):
    ids_bt = torch.randint(3, 400, (4, nano.model.context))

    def forward():
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            return next_token_loss(model, ids_bt)

    logits = ids_bt.numel() * 4 * shape.vocabulary  # their log-softmax
    measured = saved_bytes(model, forward) - logits - (2 * shape.parameters if mixed else 0)
    assert planning.activation_bytes(shape, ids_bt.numel(), mixed) == pytest.approx(measured, rel=CLOSE)


def test_activations_of_an_rl_micro_batch(nano, model, shape, monkeypatch):
    monkeypatch.setattr(model, "forward", model.forward, raising=False)  # by transformers, as on a GPU
    groups = make_groups(prompts=4, full=48)
    rl = replace(nano.rl, micro_batch=64, max_new_tokens=48)
    memory = planning.stage_memory("rl", replace(nano, rl=rl), shape, lengths_of(groups), 1, False)
    prompts = [group.prompt_ids for group in groups]
    completions = [[c.token_ids for c in group.completions] for group in groups]
    measured = saved_bytes(model, lambda: completion_logprobs(model, prompts, completions))
    assert memory.activations + 64 * 48 * 4 * shape.vocabulary == pytest.approx(measured, rel=CLOSE)


@pytest.mark.parametrize("stage", ["pretraining", "sft", "sft, checkpointed", "rl"])
@pytest.mark.parametrize("vocabulary", [512, 8192])  # with the second the logits are most of it
def test_peak_of_a_micro_batch(nano, stage, vocabulary):
    tokenizer = corpus.tokenizer(nano.questions.seed)
    model = build_model(nano.model, tokenizer, seed=0).train()
    model.resize_token_embeddings(vocabulary)
    model.forward = model.forward  # by transformers, as on a GPU
    shape = replace(planning.model_shape(nano), vocabulary=vocabulary)
    groups = make_groups(prompts=4, full=48)
    scale = replace(
        nano,
        pretrain=replace(nano.pretrain, micro_batch=4),
        rl=replace(nano.rl, micro_batch=64, max_new_tokens=48),
    )
    ids_bt = torch.randint(3, 400, (4, nano.model.context))
    examples = [Example(groups[0].prompt_ids, c.token_ids) for c in groups[0].completions[:MICRO_BATCH]]
    stage, _, checkpointed = stage.partition(", ")
    scale = replace(scale, sft=replace(scale.sft, gradient_checkpointing=bool(checkpointed)))
    if checkpointed:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    work = {
        "pretraining": lambda: next_token_loss(model, ids_bt).backward(),
        "sft": lambda: completion_loss(model, examples, 0).backward(),
        "rl": lambda: rl_gradients(model, groups, temperature=1.0, micro_batch=64, processes=Processes()),
    }[stage]
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    with Peak() as peak:
        work()
    memory = planning.stage_memory(stage, scale, shape, lengths_of(groups), 1, False)
    assert memory.activations + memory.logits == pytest.approx(peak.peak, rel=CLOSE)


def test_a_micro_batch_of_tokens_is_planned_as_it_is_cut(nano, shape):
    cut = replace(nano, sft=replace(nano.sft, micro_batch_tokens=3000))
    lengths = lengths_of(make_groups())
    whole, small = (planning.stage_memory("sft", scale, shape, lengths, 1, False) for scale in (nano, cut))
    longest = lengths.prompt + nano.rl.max_new_tokens
    assert small.activations / whole.activations == pytest.approx(3000 / (MICRO_BATCH * longest))


def test_what_a_recipe_sees_instead_is_what_its_measurement_costs(nano, shape):
    lengths = Lengths(40, 54, 30, 60, 1.0, "")
    fewer = replace(nano, overrides={"base": {"evaluate": {"samples": 8, "shots": 0}}})
    zero_shot = costs.checkpoint_cost(nano, shape, lengths, ["rl", "sft"])
    eight = costs.checkpoint_cost(replace(nano, evaluate=replace(nano.evaluate, samples=8)), shape, lengths, ["rl"])
    assert costs.checkpoint_cost(fewer, shape, lengths, ["base"]) == eight
    assert costs.checkpoint_cost(fewer, shape, lengths, ["base", "rl", "sft"]).total == eight.total + zero_shot.total


def test_keys_and_values_of_the_embedded_engine(nano, model, shape, monkeypatch):
    engine, seen = TorchEngine(model, None, len(corpus.tokenizer(nano.questions.seed))), []
    step = engine._step

    def watched(token_b, cache):
        logits = step(token_b, cache)
        blocks = [b for layer in (*cache.blocks_k, *cache.blocks_v) for b in layer]
        prompts = [x for bucket in cache.buckets for x in (*bucket.keys, *bucket.values)]
        seen.append(sum(x.nbytes for x in (*blocks, *prompts)))
        return logits

    monkeypatch.setattr(engine, "_step", watched)
    rng = torch.Generator().manual_seed(0)
    prompts = [ids(rng, 40) for _ in range(8)]
    engine.generate(prompts, [list(range(16))] * 8, max_new_tokens=96, temperature=1.0)
    scale = replace(nano, rl=replace(nano.rl, questions_per_step=8, rollouts=16, max_new_tokens=96))
    lengths = Lengths(40, 54, 96, 96, 1.0, "")
    assert planning.stage_memory("rl", scale, shape, lengths, 1, False).cache == pytest.approx(max(seen), rel=CLOSE)


def test_memory_of_the_engines_is_bounded_as_planned():
    for engine in (TorchEngine, TransformersEngine):
        assert inspect.signature(engine).parameters["max_batch_tokens"].default == planning.BATCH_TOKENS


def test_fsdp_shards_the_states_and_nothing_else(study, shape):
    memory = planning.stage_memory("parallel", study.scale("paper"), shape, lengths_of(make_groups()), 8, True)
    states = memory.weights + memory.gradients + memory.adamw + memory.snapshots
    assert memory.total - memory.sharded(8) == pytest.approx(states * 7 / 8 - memory.weights)
    assert memory.snapshots == 2 * memory.weights and memory.adamw == 4 * memory.weights


def test_size_of_results_is_that_of_the_runs_that_are_there(nano):
    folders = list((ROOT / "results/nano/main").glob("p*/*/seed-*"))
    if not folders:
        pytest.skip("no run of scale nano is there yet")
    lengths = costs.find_lengths(nano, ROOT, "nano", "main")
    for folder in folders:
        measured = sum(file.stat().st_size for file in folder.iterdir())
        assert costs.results_bytes(folder.parent.name, nano, lengths) == pytest.approx(measured, rel=2 * CLOSE), folder


# ---- the study ----


def all_runs(study, name, seeds=None) -> list[Run]:
    if seeds:
        blocks = {scale: replace(block, seeds=tuple(seeds)) for scale, block in study.blocks.items()}
        study = replace(study, blocks=blocks)
    return [Run(name, "main", *cell) for cell in study.cells(name)]


def costs_of(study, runs, pretrained=False):
    scale = study.scale("paper")
    shape, lengths = planning.model_shape(scale), costs.find_lengths(scale, ROOT / "nowhere", "paper", "main")
    return costs.study_costs(runs, scale, shape, lengths, pretrained)


def test_a_suite_that_borrows_its_checkpoints_has_its_lender_pretrained(tmp_path):
    borrowing = {"checkpoints_of": "main", "checkpoints": ["p20"], "recipes": ["base"], "seeds": [0]}
    study = write_study(tmp_path, suites={"shots-0": borrowing | {"overrides": {"evaluate.shots": 0}}})
    cells, _ = list_cells(study, [Run("nano", "shots-0", "p20", "base", 0)])
    assert " pretrain --scale nano --suite main" in cells[1].command


def test_what_a_recipe_sees_instead_is_what_it_costs(study):
    scale = study.scale("paper")
    fewer = replace(scale, overrides={"rl": {"rl": {"steps": scale.rl.steps // 2}}})
    run = [Run("paper", "main", "p08", "rl", 0)]
    shape, lengths = planning.model_shape(scale), costs.find_lengths(scale, ROOT / "nowhere", "paper", "main")
    stages = [costs.study_costs(run, one, shape, lengths, False) for one in (scale, fewer)]
    whole, half = ({name: cost for name, _, cost in found}["rl"] for found in stages)
    assert half.training == whole.training / 2 and half.evaluation == whole.evaluation


def test_the_checkpoint_is_measured_once_for_all_recipes_and_seeds(study):
    name = "checkpoint, as it is"
    one, more = ({stage: (n, cost) for stage, n, cost in costs_of(study, all_runs(study, "paper", s))}
                 for s in ([0], [0, 1, 2]))  # fmt: skip
    assert one[name] == more[name] and more["rl"] == (3 * one["rl"][0], one["rl"][1])
    few = {stage: cost for stage, _, cost in costs_of(study, [Run("paper", "main", "p08", "rl", 0)])}
    assert 0 < few[name].evaluation < one[name][1].evaluation  # without the few-shot prompts of `base`
    child = {stage: cost for stage, _, cost in costs_of(study, [Run("paper", "main", "p08", "sft_rl", 0)])}
    assert child[name].total == 0  # its start is the end of `sft`


def test_pretraining_is_that_of_kaplan_with_attention_and_logits(study):
    scale = study.scale("paper")
    shape = planning.model_shape(scale)
    assert shape.parameters == 1_484_654_592
    cost = costs.pretraining_cost(scale, shape)
    without_embedding = shape.parameters - shape.vocabulary * shape.hidden
    attention = 12 * scale.model.layers * scale.model.hidden_size * scale.model.context
    assert cost.total == pytest.approx((6 * without_embedding + attention) * 50e9, rel=1e-3)
    assert [stage for stage, *_ in costs_of(study, all_runs(study, "paper"), True)][0] != "pretraining"


def test_hours_follow_peak_and_utilizations():
    cost = costs.Cost(rollouts=36e15, training=36e15, evaluation=36e15, general=36e15)
    assert cost.hours(replace(costs.GPU, tflops=1000, utilization=0.5, decode_utilization=0.1)) == costs.Cost(
        pytest.approx(0.1), pytest.approx(0.02), pytest.approx(0.1), pytest.approx(0.02)
    )


def test_lengths_are_those_of_the_logs_and_without_logs_of_the_questions(nano, study, tmp_path, monkeypatch):
    """Prompts of 40 tokens and solutions of 50; completions of 20 before the first step and of 30 at the second."""
    rows, batch = nano.rl.questions_per_step * nano.rl.rollouts, nano.sft.batch_size
    rl = {"recipe": "rl", "reward": 0.5, "frac_reward_zero_std": 0.25}
    log = pd.DataFrame(
        [
            rl | {"step": 1, "completions/mean_length": 20, "num_tokens": rows * 60},
            rl | {"step": 2, "completions/mean_length": 30, "num_tokens": rows * 70},
            {"recipe": "sft", "step": 1, "sft_tokens": batch * 90},
        ]
    )
    monkeypatch.setattr(costs.results, "load_training", lambda *_: log)
    (tmp_path / "results/nano/main/p08/rl/seed-0").mkdir(parents=True)
    (tmp_path / "results/nano/main/p08/rl/seed-0/training.parquet").touch()
    found = costs.find_lengths(nano, tmp_path, "nano", "main")
    assert found == Lengths(40, 50, 25, 20, 0.75, found.source) and "runs that are there" in found.source
    log = log.iloc[:0]  # `base` alone is there
    questions = costs.find_lengths(nano, tmp_path, "nano", "main")
    assert questions == costs.find_lengths(nano, tmp_path / "nowhere", "nano", "main")
    assert questions.completion <= questions.untrained == nano.evaluate.max_new_tokens
    assert "assumed" in costs.find_lengths(study.scale("paper"), tmp_path, "paper", "main").source


def test_the_report_names_all_stages_and_adds_up(capsys, tmp_path):
    study = write_study(tmp_path)
    assert cli.main(["plan", "--root", str(tmp_path), "--scale", "paper", "--gpus", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = {line.split("  ")[0]: line.split() for line in lines if "  " in line}
    for stage in ("pretraining", *RECIPES):
        assert stage in table
    start = next(i for i, line in enumerate(lines) if line.startswith("stage "))
    end = next(i for i, line in enumerate(lines) if "columns from" in line)
    everything = sum(float(line.split()[-1].replace(",", "")) for line in lines[start + 1 : end])
    study_row, reduced = table["study"], table["reduced study"]
    assert float(study_row[-2].replace(",", "")) == pytest.approx(everything, rel=0.01)
    assert float(study_row[-1]) == pytest.approx(everything / 24 / 4, rel=0.02)
    assert float(reduced[-2]) < float(study_row[-2]) and int(study_row[1]) == len(all_runs(study, "paper"))
    assert any(f"paper.rl.steps: {math.ceil(study.scale('paper').rl.steps / 4)}" in line for line in lines)
    assert any("FSDP2 over 4" in line for line in lines) and any(line.startswith("disk") for line in lines)
    assert lines[-1] == f"to compute: {len(all_runs(study, 'paper'))} runs of unknown length"  # before pretraining


def test_the_reduced_study_is_what_its_recipe_says(study, tmp_path):
    runs = all_runs(study, "paper", [0, 1])
    few, smaller, changed = costs.reduce_study(runs, study.scale("paper"))
    raw = read_study()
    for key, value in changed.items():
        if "." in key:
            *blocks, name = key.split(".")
            functools.reduce(dict.__getitem__, blocks, raw)[name] = value
        else:
            raw[key] = value
    again = write_study(tmp_path, **raw)
    assert again.scale("paper") == smaller and all_runs(again, "paper") == few
    assert len({run.checkpoint for run in few}) == 3 and len({run.seed for run in few}) == 1


def test_what_does_not_fit_comes_with_the_largest_micro_batch_that_does(study):
    scale = replace(study.scale("paper"), rl=replace(study.scale("paper").rl, micro_batch=512))
    shape, lengths = planning.model_shape(scale), costs.find_lengths(scale, ROOT / "nowhere", "paper", "main")

    def advice(machine):
        lines = cost_report._memory_lines(scale, shape, lengths, machine, True)
        return [line for line in lines if line.startswith("  rl does not fit")]

    def fits(size):
        memory = planning.stage_memory(
            "rl", replace(scale, rl=replace(scale.rl, micro_batch=size)), shape, lengths, 8, True
        )
        return min(memory.total, memory.sharded(8)) <= cost_report.FITS * 80e9

    (line,) = advice(costs.GPU)
    size = int(line.split("rl.micro_batch: ")[1].split()[0])
    assert fits(size) and not fits(2 * size)
    assert not advice(replace(costs.GPU, memory_gb=5000.0))
    assert "with any micro batch" in advice(replace(costs.GPU, memory_gb=10.0))[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--gpus", "-1"], "--gpus: -1 is not a whole number, 1 to 1,000,000"),
        (["--utilization", "1.5"], "--utilization: 1.5 is not a number, 0 to 1, not 0 itself"),
        (["--decode-utilization", "0"], "--decode-utilization: 0 is not a number, 0 to 1, not 0 itself"),
        (["--gpu-tflops", "0"], "--gpu-tflops: 0 is not a number, above 0"),
        (["--gpu-memory", "nan"], "--gpu-memory: nan is not a number, above 0"),
        (["--checkpoint", "p09"], "There is no checkpoint of paper, suite main 'p09'; accepted: p04, p08"),
    ],
)
def test_impossible_numbers_are_one_sentence(options, said, capsys):
    assert cli.main(["plan", "--root", str(ROOT), "--scale", "paper", *options]) == 2
    message = capsys.readouterr().err
    assert said in message and len(message.splitlines()) == 1


def test_the_shape_of_a_config_is_that_of_the_scale(nano, model, shape, tmp_path):
    model.config.save_pretrained(tmp_path / "tiny" / "step1")
    suite = PublicSuite("tiny", 10, {"p01": Revision("step1", 1)})
    assert planning.suite_shape(suite, "p01", tmp_path) == shape
    with pytest.raises(UserError, match=r"config.json of tiny, revision step2, could not be read .*hf download tiny"):
        planning.suite_shape(replace(suite, checkpoints={"p02": Revision("step2", 1)}), "p02", tmp_path)


SIZES = {"hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 512, "num_hidden_layers": 3}
OTHERS = [
    LlamaConfig(**SIZES, vocab_size=500, num_key_value_heads=2, tie_word_embeddings=True),
    GPTNeoXConfig(**SIZES, vocab_size=500),
    GPT2Config(n_embd=128, n_head=4, n_layer=3, vocab_size=500),
]


@pytest.mark.parametrize("config", OTHERS, ids=lambda config: config.model_type)
def test_a_public_suite_costs_what_its_own_model_does(config, tmp_path, capsys):
    config.save_pretrained(tmp_path / "other" / "step1")
    checkpoints = {"p01": {"revision": "step1", "tokens": 1}}
    about = {"model": "other", "total_tokens": 10, "checkpoints": checkpoints}
    study = write_study(tmp_path, suites={"other": about}, seeds=[0])
    shape = planning.suite_shape(study.suites["other"], "p01", tmp_path)
    other = AutoModelForCausalLM.from_config(config)
    ids_bt = torch.randint(3, 400, (2, 256))
    measured = flops(lambda: other(ids_bt, use_cache=False))
    assert planning.forward_flops(shape, 512, 256, 512) == pytest.approx(measured, rel=CLOSE)
    cache = other(ids_bt).past_key_values
    assert planning.cache_bytes(shape, 512, 4) == sum(
        x.nbytes for layer in cache.layers for x in (layer.keys, layer.values)
    )
    assert cli.main(["plan", "--root", str(tmp_path), "--scale", "paper", "--suite", "other"]) == 0
    told = capsys.readouterr().out
    assert f"{config.model_type}, {sum(p.numel() for p in other.parameters()):,} parameters: 3 layers" in told


# ---- the list of jobs ----


def list_cells(study, runs, root=ROOT, **more):
    return study_cells(runs, study, root, **more)


def known(study, *scales):
    return replace(study, scales=scales)


@pytest.mark.parametrize("scale", ["nano", "paper"])
def test_cells_come_after_what_they_need_and_once(study, scale):
    runs = all_runs(study, scale, [0, 1])
    blocks = {name: replace(block, seeds=(0, 1)) for name, block in study.blocks.items()}
    both = replace(known(study, "nano", "paper"), blocks=blocks)
    cells, remark = list_cells(both, runs)
    assert not remark
    ids = [cell.id for cell in cells]
    assert len(set(ids)) == len(ids) and len({cell.command for cell in cells}) == len(ids)
    for i, cell in enumerate(cells):
        assert set(cell.needs) <= set(ids[:i])
    by_id = {cell.id: cell for cell in cells}
    assert ids[:2] == ["data", "pretrain"] and ids[-1] == "commit"
    for run in runs:
        parent = TABLE[run.recipe].parent
        expected = f"{run.checkpoint}/{parent}/seed-{run.seed}" if parent else "pretrain"
        assert by_id[f"{run.checkpoint}/{run.recipe}/seed-{run.seed}"].needs == (expected,)
    notebooks = [name for name in ids if name.startswith("notebook/")]
    assert {"notebook/early_rl", "notebook/checkpoints"} < set(notebooks)
    assert set(by_id["notebook/claims"].needs) == set(notebooks) - {"notebook/claims"}
    assert set(by_id["site"].needs) == set(notebooks) and set(by_id["commit"].needs) == {*notebooks, "site"}
    assert len(by_id["notebook/early_rl"].needs) == len(runs)


def write_project(folder, **head):
    """params.yaml with a head of its own, and the pipeline."""
    shutil.copy(ROOT / "dvc.yaml", folder)
    return write_study(folder, **head)


def test_every_command_of_the_smoke_study_parses(tmp_path, monkeypatch, capsys):
    study = write_project(tmp_path, seeds=[0], more_seeds={"rl": {"p20": [1]}})
    monkeypatch.chdir(tmp_path)
    suite = ["--scale", "smoke", "--checkpoint", *study.scale("smoke").pretrain.save]
    assert cli.main(["cells", *suite, "--json"]) == 0
    cells = json.loads(capsys.readouterr().out)
    asked = []
    for cell in cells:
        words = shlex.split(cell["command"])
        assert words[:3] == ["python", "-m", "excursions"] and set(cell) == {"id", "command", "needs"}
        parsed = cli._parse(words[3:])
        assert parsed.scale == "smoke"
        if parsed.run is commands.train:
            asked += [Run("smoke", parsed.suite, *parsed.checkpoint, *parsed.recipe, *parsed.seed)]
    study = replace(study, checkpoints=study.scale("smoke").pretrain.save)
    assert Run("smoke", "main", "p20", "rl", 1) in asked and Run("smoke", "main", "p88", "rl", 1) not in asked
    assert sorted(asked, key=str) == sorted(all_runs(study, "smoke"), key=str)
    assert cli.main(["cells", *suite]) == 0
    plain = capsys.readouterr()
    assert plain.out.splitlines() == [cell["command"] for cell in cells]
    assert "params.yaml" in plain.err  # DVC does not know the scale


def test_launcher_and_root_reach_the_commands(study):
    runs = [Run("paper", "main", "p08", "rl", 0)]
    launcher = "accelerate launch --num_processes 8"
    cells, remark = list_cells(study, runs, Path("a b"), launcher=launcher)
    assert [cell.id for cell in cells] == ["data", "pretrain", "p08/rl/seed-0"] and "left out" in remark
    assert cells[0].command.startswith("python -m excursions data")
    for cell in cells[1:]:
        assert cell.command.startswith(f"{launcher} -m excursions ")
        assert cli._parse(shlex.split(cell.command)[6:]).root == Path("a b")


def test_a_public_suite_is_not_pretrained(study):
    suite = next(iter(study.suites))
    cells, _ = list_cells(study, [Run("paper", suite, "p01", r, 0) for r in ("sft_rl", "sft")])
    assert [(cell.id, cell.needs) for cell in cells] == [
        ("data", ()),
        ("p01/sft/seed-0", ("data",)),
        ("p01/sft_rl/seed-0", ("p01/sft/seed-0",)),
    ]


def test_a_folder_without_a_pipeline_says_so(study, tmp_path):
    with pytest.raises(UserError, match=r"dvc.yaml does not exist.*--root"):
        list_cells(study, all_runs(study, "paper"), tmp_path)


def test_dvc_takes_what_the_jobs_wrote(tmp_path):
    """The pipeline's own stages with made-up files in place of what jobs write; after the last cell none is stale."""
    small = write_project(tmp_path, checkpoints=["p08", "p88"], seeds=[0])
    for name, stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items():
        for path in (each if isinstance(each, str) else next(iter(each)) for each in stage["deps"] + stage["outs"]):
            for checkpoint in small.checkpoints:
                named = {"item.scale": "nano", "scales[0]": "nano", "item.checkpoint": checkpoint, "notebook": name}
                made = path
                for key, value in named.items():
                    made = made.replace("${" + key + "}", value)
                file = tmp_path / made
                file = file if file.suffix else file / "file"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(f"made up: {made}")
    runs = all_runs(small, "nano")
    cells, _ = list_cells(small, runs, tmp_path)
    done = shlex.split(cells[-1].command)
    assert done[:3] == ["python", "-m", "dvc"]
    for options in (["init", "--no-scm"], done[3:], ["status", "--json"]):
        command = [sys.executable, "-m", "dvc", *options]
        found = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert json.loads(found.stdout) == {}
