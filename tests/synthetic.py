"""A results tree with made-up curves in the form of real ones, for tests of figures and notebooks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from excursions.params import RECIPES
from excursions.results import tables as results

PARAMETERS = 900_000
TOTAL_TOKENS = 14_000_000
SKILL = {
    "base": -4,
    "rl": -2,
    "sft": -2.5,
    "sft_gold": -1.8,
    "sft_rl": -2,
    "sft_gold_rl": -1.5,
    "parallel": -2,
}
RUN = {
    "parameters": {},
    "versions": {},
    "git_commit": None,
    "machine": {},
    "wall_seconds": 1.0,
    "peak_memory_mb": 1.0,
    "fingerprint": "made up",
}
GENERAL = ("lambada", "hellaswag", "arc_easy", "arc_challenge", "piqa", "openbookqa")


def make_study(
    root: Path,
    checkpoints: Sequence[str] = ("p20", "p88"),
    recipes: Sequence[str] = RECIPES,
    seeds: Sequence[int] = (0,),
    questions: int = 12,
    samples: int = 32,
) -> Path:
    """Writes results/nano/main and the suite's suite.json under root; returns root."""
    tokens = {name: TOTAL_TOKENS * int(name[1:]) // 100 for name in checkpoints}
    suite = root / "checkpoints" / "nano" / "main"
    suite.mkdir(parents=True)
    about = {"parameters": PARAMETERS, "tokens": tokens, "total_tokens": TOTAL_TOKENS}
    (suite / "suite.json").write_text(json.dumps(about))
    for name in checkpoints:
        for recipe in recipes:
            for seed in seeds:
                _write_run(root, name, tokens[name], recipe, seed, questions, samples)
    return root


def _write_run(root: Path, name: str, tokens: int, recipe: str, seed: int, questions: int, samples: int) -> None:
    rng = np.random.default_rng([tokens, RECIPES.index(recipe), seed])
    identity = {
        "scale": "nano",
        "suite": "main",
        "checkpoint": name,
        "tokens": tokens,
        "recipe": recipe,
        "seed": seed,
    }
    last = 0 if recipe == "base" else 20
    outcomes = []
    for step in sorted({0, last // 2, last}):
        asked = questions if step in (0, last) else questions // 2  # fewer between the first and the last step
        for benchmark, easier in (("easy", 1), ("hard", -1)):
            skill = (SKILL[recipe] if step == last else -4) + easier + 4 * tokens / TOTAL_TOKENS
            share = 1 / (1 + np.exp(-(skill + np.linspace(-2, 2, asked))))
            rows = {
                "step": step,
                "benchmark": benchmark,
                "n": samples,
                "correct": rng.binomial(samples, share),
            }
            rows["valid"] = rng.binomial(rows["correct"], 0.2 + 0.7 * tokens / TOTAL_TOKENS)
            outcomes.append(pd.DataFrame(rows).assign(question_id=[f"{benchmark}-{i}" for i in range(asked)]))
    share = 0.3 + 0.5 * tokens / TOTAL_TOKENS
    items = pd.MultiIndex.from_product([GENERAL, [f"item-{i}" for i in range(50)]], names=["benchmark", "item_id"])
    general = items.to_frame(index=False).assign(correct=rng.binomial(1, share, len(items)))
    log = pd.DataFrame({"step": range(1, last + 1), "reward": rng.random(last)})
    results.write_run(
        results.run_folder(root, "nano", "main", name, recipe, seed),
        pd.concat(outcomes).assign(**identity),
        general.assign(**identity),
        log.assign(**identity),
        [],
        RUN,
    )
