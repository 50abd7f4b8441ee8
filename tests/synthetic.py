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
TOTAL_TOKENS = 40_000_000
START = -4.0  # the checkpoint 0-shot
SKILL = {"base": -3.2, "rl": -1.2, "sft": -2.5, "sft_gold": -1.6, "sft_rl": -1.4, "sft_gold_rl": -0.8, "parallel": -1.8}
# What a recipe does to the spread of questions (smaller: likelier answers, fewer different ones) and to other skills.
SPREAD = {"rl": 3.0, "sft_rl": 4.0, "sft_gold_rl": 3.5}
COST = {"sft": 0.1, "sft_gold": 0.2, "sft_rl": 0.1, "sft_gold_rl": 0.2, "parallel": 0.03}
PARENTS = {"sft_rl": "sft", "sft_gold_rl": "sft_gold"}
RUN = {
    "parameters": {"rl": {"questions_per_step": 32, "rollouts": 16}},
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
    suite: str = "main",
    steps: Sequence[int] = (0, 10, 20),
    shift: float = 0.0,
    rollouts: int = 16,
    items: int = 50,
) -> Path:
    """Writes results/nano/<suite> and its suite.json under root; returns root. shift: added to the skill of recipes."""
    tokens = {name: TOTAL_TOKENS * int(name[1:]) // 100 for name in checkpoints}
    folder = root / "checkpoints" / "nano" / suite
    folder.mkdir(parents=True)
    about = {"parameters": PARAMETERS, "tokens": tokens, "total_tokens": TOTAL_TOKENS}
    (folder / "suite.json").write_text(json.dumps(about))
    run = RUN | {"parameters": {"rl": RUN["parameters"]["rl"] | {"rollouts": rollouts}}}
    for name in checkpoints:
        for recipe in recipes:
            for seed in seeds:
                who = {"scale": "nano", "suite": suite, "checkpoint": name, "tokens": tokens[name]}
                who |= {"recipe": recipe, "seed": seed}
                own = list(steps) if recipe != "base" else [0]
                rng = np.random.default_rng([tokens[name], RECIPES.index(recipe), seed, len(suite)])
                results.write_run(
                    results.run_folder(root, "nano", suite, name, recipe, seed),
                    _outcomes(rng, who, own, questions, samples, shift),
                    _general(rng, who, items),
                    _log(rng, who, own),
                    [],
                    run,
                )
    return root


def _outcomes(rng, who: dict, steps: list[int], questions: int, samples: int, shift: float) -> pd.DataFrame:
    recipe, grown = who["recipe"], who["tokens"] / TOTAL_TOKENS
    begin = SKILL["base"] if recipe == "base" else SKILL[PARENTS[recipe]] if recipe in PARENTS else START
    luck = rng.normal(0, 0.25 * (1 - grown)) + shift
    parts = []
    for step in steps:
        asked = questions if step in (0, steps[-1]) else max(questions // 2, 1)  # fewer between first and last step
        done = step / steps[-1] if steps[-1] else 1.0
        fresh = step == 0 and recipe not in PARENTS  # one and the same model for all recipes from a checkpoint
        draw = np.random.default_rng([who["tokens"], int(recipe == "base")]) if fresh else rng
        for benchmark, easier in (("easy", 1), ("hard", -1)):
            skill = begin + (SKILL[recipe] - begin) * done**0.5 + (0 if fresh else luck * done) + easier + 4 * grown
            spread = 2 + (SPREAD.get(recipe, 2) - 2) * done
            share = 1 / (1 + np.exp(-(skill + spread * np.linspace(-1, 1, asked))))
            correct = draw.binomial(samples, share)
            rows = {"step": step, "benchmark": benchmark, "n": samples, "correct": correct}
            rows["valid"] = draw.binomial(correct, min(0.25 + 0.7 * grown**0.5, 1))
            parts.append(pd.DataFrame(rows).assign(question_id=[f"{benchmark}-{i:04d}" for i in range(asked)]))
    return pd.concat(parts).assign(**who)


def _general(rng, who: dict, items: int) -> pd.DataFrame:
    share = 0.3 + 0.5 * who["tokens"] / TOTAL_TOKENS - COST.get(who["recipe"], 0)
    index = pd.MultiIndex.from_product([GENERAL, [f"item-{i}" for i in range(items)]], names=["benchmark", "item_id"])
    easiness = np.tile(np.random.default_rng(0).random(items), len(GENERAL))  # of an item, for all models
    noise = rng.random(len(index)) * 0.2 - 0.1
    return index.to_frame(index=False).assign(correct=(easiness + noise < share).astype(int), **who)


def _log(rng, who: dict, steps: list[int]) -> pd.DataFrame:
    step = np.arange(1, steps[-1] + 1)
    done = step / max(steps[-1], 1)
    reward = (0.1 + 0.5 * done**0.5) * who["tokens"] / TOTAL_TOKENS + rng.normal(0, 0.02, len(step))
    entropy = 0.4 - 0.25 * done**0.5 + rng.normal(0, 0.01, len(step))
    return pd.DataFrame({"step": step, "reward": reward.clip(0, 1), "entropy": entropy}).assign(**who)
