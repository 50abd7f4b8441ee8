"""Runs the benchmarks, each in a process of its own, and writes what they found to docs/: `make bench`.

docs/benchmarks.json holds what each found on each kind of machine (cpu, gpu); a run replaces what it measures, with
names only these: `python benchmarks/table.py sampling growth`. docs/benchmarks.md and its figures are made from
it.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import matplotlib
import pandas as pd
import torch
from matplotlib.figure import Figure
from measuring import ON_GPU

HERE, DOCS = Path(__file__).parent, Path(__file__).parents[1] / "docs"
STORE = DOCS / "benchmarks.json"
matplotlib.rcParams.update({"svg.hashsalt": "benchmarks", "svg.fonttype": "path"})
SCRIPTS = {
    "cpu": ("sampling", "any_model", "grpo_step", "pretraining", "evaluation", "growth", "loading"),
    "gpu": ("sampling", "grpo_step"),
}
# Measured only when asked for by name, by the Python of an environment of its own (`make bench-vllm`).
APART = {"vllm_sampling": HERE.parent / ".venv-vllm" / "bin" / "python"}
LIBRARIES = ("torch", "transformers", "trl", "lm-eval")
# prints the script's table, and its peak memory as the last line of what it writes
WITH_PEAK = (
    "import resource, runpy, sys; sys.argv = sys.argv[1:]; sys.path.insert(0, {folder!r});"
    "runpy.run_path(sys.argv[0], run_name='__main__');"
    "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
)
HOW = {
    "cpu": "Each line's two sides were measured in turn in one process on one thread, in CPU seconds. `floor`: what "
    "the products with the weights alone take at the rate of a 1024 x 1024 product in fp32 in the same process. vLLM "
    "computes in a process of its own, so that line is of seconds of the clock.",
    "gpu": "Each line's two sides were measured in turn in one process on one GPU, in seconds of the clock, in "
    "bfloat16. `floor`: what the products with the weights alone take at the rate of an 8192 x 8192 product in it.",
}


def main() -> None:
    """Measures, stores, writes table and figure."""
    found = json.loads(STORE.read_text(encoding="utf-8")) if STORE.is_file() else {}
    kind = "gpu" if ON_GPU else "cpu"
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    about = {"machine": machine(), "versions": f"Python {platform.python_version()}, {versions}"}
    before = found.get(kind, {})
    if sys.argv[1:] and before and {**before, **about} != before:
        sys.exit(f"{STORE} is of another machine or of other versions; without names everything is measured again.")
    measured = before.get("measured", {}) if sys.argv[1:] else {}
    for script in sys.argv[1:] or SCRIPTS[kind]:
        rows, memory = run(script)
        measured = measured | {script: [row | {"memory": memory} for row in rows]}
        found[kind] = about | {"measured": measured}
        STORE.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    (DOCS / "benchmarks.md").write_text(page(found), encoding="utf-8")
    for name, rows in drawn(found).items():
        figure = DRAWN[name][2](pd.DataFrame(rows))
        figure.savefig(DOCS / f"benchmarks_{name}.svg", metadata={"Date": None})


def run(script: str) -> tuple[list[dict], float]:
    """The rows of a benchmark, and its peak memory in GB, the peer's included."""
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.json"
        code = WITH_PEAK.format(folder=str(HERE))
        command = [str(APART.get(script, sys.executable)), "-c", code, str(HERE / f"{script}.py"), str(rows)]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            sys.exit(f"{script} failed:\n{done.stderr}")
        return json.loads(rows.read_text(encoding="utf-8")), int(done.stderr.split()[-1]) / 2**20


def machine() -> str:
    """The name of the GPU, or of the processor."""
    if ON_GPU:
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.machine())


def page(found: dict) -> str:
    """docs/benchmarks.md."""
    parts = ["# Speed\n\nMade by `make bench` from docs/benchmarks.json.\n"]
    for kind, about in sorted(found.items()):
        rows = []
        names = [name for name in (*SCRIPTS[kind], *APART) if name not in DRAWN]
        for row in (row for name in names for row in about["measured"].get(name, ())):
            cells = [_number(row.get(name)) for name in ("ours", "peer", "ratio", "floor")]
            cells += [row.get("peer_name", ""), row.get("of it", ""), _number(row.get("memory"))]
            rows.append(f"| {' | '.join([row['job'], *cells])} |\n")
        parts.append(
            f"\n## On a {kind.upper()}\n\nMachine: {about['machine']}. {about['versions']}. {HOW[kind]}\n\n"
            "| job | ours | peer | ratio | floor | peer is | of it | peak memory, GB |\n"
            "|---|---|---|---|---|---|---|---|\n"
        )
        parts += rows
    for name, rows in drawn(found).items():
        heading, columns, _ = DRAWN[name]
        table = pd.DataFrame(rows)[columns].to_markdown(index=False, floatfmt=".2f")
        parts.append(f"\n## {heading}\n![{heading}](benchmarks_{name}.svg)\n\n{table}\n")
    return "".join(parts)


def drawn(found: dict) -> dict[str, list[dict]]:
    """The rows of the benchmarks that have a figure, as far as they were measured."""
    measured = found.get("cpu", {}).get("measured", {})
    return {name: measured[name] for name in DRAWN if name in measured}


def draw_growth(growth: pd.DataFrame) -> Figure:
    """One panel an axis: rollout and update stacked, the floor as a line across."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    panels = figure.subplots(1, 3)
    for panel, (axis, rows) in zip(panels, growth.groupby("axis", sort=False), strict=True):
        names = rows["value"].astype(str)
        panel.bar(names, rows["rollout"], label="rollout", color="0.75")
        panel.bar(names, rows["update"], bottom=rows["rollout"], label="update", color="0.45")
        panel.plot(names, rows["floor"], "k_", markersize=30, label="floor")
        panel.set(xlabel=axis, yscale="linear")
    panels[0].set_ylabel("seconds of a GRPO step")
    panels[0].legend(frameon=False)
    return figure


def draw_loading(loading: pd.DataFrame) -> Figure:
    """Seconds and memory over the number of runs, one line for each thing that is read."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    panels = figure.subplots(1, 2)
    for panel, (column, label) in zip(panels, {"s": "CPU seconds", "MB": "peak memory, MB"}.items(), strict=True):
        for what, rows in loading.groupby("read", sort=False):
            panel.plot(rows["runs"], rows[column], "o-", label=what)
        panel.set(xlabel="runs", ylabel=label, ylim=(0, None))
    panels[0].legend(frameon=False, fontsize=7)
    return figure


DRAWN = {
    "growth": ("How a GRPO step grows, in seconds", ["axis", "value", "rollout", "update", "floor"], draw_growth),
    "loading": ("How reading the results grows", ["runs", "read", "s", "MB"], draw_loading),
}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


if __name__ == "__main__":
    main()
