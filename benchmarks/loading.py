"""Seconds and memory of reading the results of a study, as the study grows: 63 runs (one seed) to 3,150 (50 seeds).

Each tree has 9 checkpoints x 7 recipes; a run asks 500 questions of each of two benchmarks before and after training
and 200 between (seven times), and 500 items of each of six general benchmarks. Each load is a process of its own that
imports what a notebook imports, so its memory is a notebook's.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from measuring import report

from excursions.files import write_json
from excursions.params import RECIPES
from excursions.results import tables as results

CHECKPOINTS = ("p04", "p08", "p12", "p20", "p24", "p28", "p40", "p56", "p88")
SEEDS = (1, 10, 50)
LOADS = {
    "imports alone": "None",
    "results before and after training": "results.load_outcomes(root, 'nano', between=False)",
    "results at all steps": "results.load_outcomes(root, 'nano')",
    "general benchmarks": "results.load_general(root, 'nano')",
    "what most figures read": "(lambda t: (t.outcomes, t.general))(results.load_tables(root, 'nano', between=False))",
}
CODE = """
import time
from excursions.findings import figures, report
from excursions.results import tables as results
root = {root!r}
start = time.process_time()
kept = {expression}
seconds = time.process_time() - start
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))  # of this process alone
print(seconds, peak.split()[1])
"""
RUN = {"parameters": {}, "versions": {}, "git_commit": None, "machine": {}, "wall_seconds": 0.0}
RUN |= {"peak_memory_mb": 0.0, "fingerprint": "made up"}


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root, made = Path(folder), 0
        for seeds in SEEDS:
            write_seeds(root, range(made, seeds))
            made = seeds
            for what, expression in LOADS.items():
                seconds, mb = in_a_process(root, expression)
                rows.append({"runs": seeds * len(CHECKPOINTS) * len(RECIPES), "read": what, "s": seconds, "MB": mb})
    report(rows)


def write_seeds(root: Path, seeds: range) -> None:
    """All runs of these seeds: one with counts drawn at random, the others its copies under their own names."""
    sizes = [500, *[200] * 7, 500]
    outcomes = pd.DataFrame(
        [
            (step, benchmark, f"{benchmark}-{q:04d}", 32)
            for step, size in enumerate(sizes)
            for benchmark in ("easy", "hard")
            for q in range(size)
        ],
        columns=["step", "benchmark", "question_id", "n"],
    )
    rng = np.random.default_rng(0)
    outcomes["correct"] = rng.binomial(32, rng.beta(0.5, 1, len(outcomes)))
    outcomes["valid"] = rng.binomial(outcomes["correct"], 0.8)
    items = pd.MultiIndex.from_product([list("abcdef"), range(500)], names=["benchmark", "item_id"])
    general = items.to_frame(index=False).astype(str).assign(correct=rng.binomial(1, 0.5, len(items)))
    tokens = {name: int(name[1:]) * 400_000 for name in CHECKPOINTS}
    about = {"parameters": 900_000, "total_tokens": 40_000_000, "tokens": tokens}
    write_json(root / "checkpoints" / "nano" / "main" / "suite.json", about)
    who = {"scale": "nano", "suite": "main", "checkpoint": "p04", "tokens": tokens["p04"], "recipe": "base", "seed": 0}
    first = results.run_folder(root, *(who[name] for name in ("scale", "suite", "checkpoint", "recipe", "seed")))
    results.write_run(first, outcomes.assign(**who), general.assign(**who), pd.DataFrame(), [], RUN)
    tables = {file.name: pq.read_table(file, partitioning=None) for file in first.glob("*.parquet")}
    for checkpoint, recipe, seed in itertools.product(CHECKPOINTS, RECIPES, seeds):
        folder = results.run_folder(root, "nano", "main", checkpoint, recipe, seed)
        folder.mkdir(parents=True, exist_ok=True)
        own = {"checkpoint": checkpoint, "tokens": tokens[checkpoint], "recipe": recipe, "seed": seed}
        for name, table in tables.items():
            for column, value in own.items():
                table = table.set_column(table.column_names.index(column), column, pa.array([value] * len(table)))
            pq.write_table(table, folder / name, compression="zstd")


def in_a_process(root: Path, expression: str) -> tuple[float, float]:
    """Seconds of CPU time that the expression takes, and the peak memory in MB of a process that does only this."""
    code = CODE.format(root=str(root), expression=expression)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, kilobytes = done.stdout.split()
    return float(seconds), int(kilobytes) / 1024


if __name__ == "__main__":
    main()
