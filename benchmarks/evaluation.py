"""Seconds of the general benchmarks, against the harness's own scoring, and the share of a cell that measuring takes.

The model is nano's with random weights; 50 items a benchmark. The share counts what a cell of `rl` does at nano scale:
its steps, the evaluations before, between and after them, and the general benchmarks, each timed on a part.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import torch
from measuring import interleaved, report, seconds

from excursions import params
from excursions.data.general import BENCHMARKS
from excursions.data.source import open_source
from excursions.evaluation import general
from excursions.evaluation.outcomes import make_exam, measure_outcomes
from excursions.models.model import load_model
from excursions.models.processes import Processes
from excursions.recipes import RECIPES
from excursions.rollout.engines import start_engine
from excursions.training.recipes import Start
from excursions.training.rl import rl_update

ITEMS, QUESTIONS, STEPS = 50, 20, 3
CHECKPOINT = Path("checkpoints/nano/main/p88")


def main() -> None:
    torch.set_num_threads(1)
    scale = params.load(Path(__file__).parents[1] / "params.yaml").scale("nano")
    model, tokenizer = load_model(CHECKPOINT)
    few = replace(scale, evaluate=replace(scale.evaluate, general=ITEMS))
    tasks = open_source(few).general()
    general.evaluate_general(model, tokenizer, tasks)  # what is read once: the harness, the tasks
    jobs = {
        "ours": lambda: general.evaluate_general(model, tokenizer, tasks),
        "peer": lambda: with_harness(model, tokenizer, tasks),
    }
    found = interleaved(jobs, rounds=2)
    processes = Processes()
    model = processes.place(model)
    engine = start_engine(scale.engine, model, tokenizer)
    exam = make_exam(scale, "test", QUESTIONS, 0)
    question = seconds(lambda: measure_outcomes(exam, engine, tokenizer, processes)) / len(exam.asked)
    update, _ = rl_update(Start(RECIPES["rl"], model, tokenizer, engine, scale, 0, processes))
    update(1)
    started = time.process_time()
    for step in range(2, STEPS + 2):
        update(step)
    training = scale.rl.steps * (time.process_time() - started) / STEPS
    asked = 2 * (2 * scale.questions.test + scale.evaluate.between * scale.evaluate.questions_between)
    measuring = asked * question + found["ours"] * scale.evaluate.general / ITEMS
    report(
        [
            {
                "job": f"six general benchmarks, nano, {ITEMS} items each, s",
                "peer_name": "lm-evaluation-harness HFLM",
                "ours": found["ours"],
                "peer": found["peer"],
                "ratio": found["peer"] / found["ours"],
            },
            {
                "job": f"a cell of rl, nano, {scale.rl.steps} steps, s",
                "ours": training + measuring,
                "of it": f"{measuring / (training + measuring):.2f} measuring ({question:.2f} s a question)",
            },
        ]
    )


def with_harness(model, tokenizer, tasks) -> None:
    """The same with the harness's own passes through the model, one a choice."""
    model._supports_attention_backend = False  # as for a model whose attention cannot be replaced
    try:
        assert len(general.evaluate_general(model, tokenizer, tasks)) == ITEMS * len(BENCHMARKS)
    finally:
        del model._supports_attention_backend


if __name__ == "__main__":
    main()
