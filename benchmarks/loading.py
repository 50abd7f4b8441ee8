"""Seconds and memory of reading the results of a study, as the study grows: 63 runs (one seed) to 3,150 (50 seeds).

Each tree has 9 checkpoints x 7 recipes; a run asks 500 questions of each of two benchmarks before and after training
and 200 between (seven times), and 500 items of each of six general benchmarks. Each load is a process of its own that
imports what a notebook imports, so its memory is a notebook's. Writes loading.svg and loading.png into docs/.
"""

from __future__ import annotations

import itertools
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure

from excursions.files import write_json
from excursions.findings import plotting
from excursions.params import RECIPES
from excursions.results import tables as results

CHECKPOINTS = ("p04", "p08", "p12", "p20", "p24", "p28", "p40", "p56", "p88")
SEEDS = (1, 5)
LOADS = {
    "imports alone": "pass",
    "results before and after training": "results.load_outcomes(root, 'nano', between=False)",
    "results at all steps": "results.load_outcomes(root, 'nano')",
    "general benchmarks": "results.load_general(root, 'nano')",
    "what most figures read": "results.load_tables(root, 'nano', between=False)",
}
RUN = {"parameters": {}, "versions": {}, "git_commit": None, "machine": {}, "wall_seconds": 0.0}
RUN |= {"peak_memory_mb": 0.0, "fingerprint": "made up"}


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root, made = Path(folder), 0
        for seeds in SEEDS:
            write_seeds(root, range(made, seeds))
            made = seeds
            for what, statement in LOADS.items():
                seconds, mb = in_a_process(root, statement)
                rows.append({"runs": seeds * len(CHECKPOINTS) * len(RECIPES), "read": what, "s": seconds, "MB": mb})
                print("{runs:5} runs  {read:35} {s:6.1f} s CPU {MB:6.0f} MB".format(**rows[-1]), flush=True)
    plotting.save(drawn(pd.DataFrame(rows)), Path(__file__).parents[1] / "docs" / "loading")


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


def in_a_process(root: Path, statement: str) -> tuple[float, float]:
    """Seconds of CPU time that the statement takes, and the peak memory in MB of a process that does only this."""
    code = "from excursions.findings import figures, report\nfrom excursions.results import tables as results\n"
    code += f"from benchmarks.loading import measured\nroot = {str(root)!r}\nmeasured(lambda: {statement})"
    code = code.replace("lambda: pass", "lambda: None")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True
    )
    seconds, mb = done.stdout.split()
    return float(seconds), float(mb)


def measured(load: object) -> None:
    """Prints what `in_a_process` reads."""
    start = time.process_time()
    kept = load()
    seconds = time.process_time() - start
    unit = 1024 if sys.platform == "linux" else 1024 * 1024  # ru_maxrss is in kilobytes on Linux, in bytes on macOS
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, end="")
    del kept


@plotting.styled
def drawn(rows: pd.DataFrame) -> Figure:
    """Seconds and MB over the number of runs, one line for each load."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    for axes, (column, label) in zip(
        figure.subplots(1, 2), {"s": "CPU seconds", "MB": "peak memory (MB)"}.items(), strict=True
    ):
        for what, points in rows.groupby("read", sort=False):
            axes.plot(points["runs"], points[column], "o-", label=what)
        axes.set_xlabel("runs")
        axes.set_ylabel(label)
        axes.set_ylim(0)
    axes.legend(fontsize=7)
    return figure


if __name__ == "__main__":
    main()
