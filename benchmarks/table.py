"""Runs every benchmark in a process of its own and writes docs/benchmarks.md and docs/benchmarks.svg: `make bench`."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

HERE, DOCS = Path(__file__).parent, Path(__file__).parents[1] / "docs"
SCRIPTS = ("sampling", "grpo_step", "pretraining", "evaluation")
LIBRARIES = ("torch", "transformers", "trl", "lm-eval")
# prints the script's table, and its peak memory as the last line of what it writes
WITH_PEAK = (
    "import resource, runpy, sys; sys.argv = sys.argv[1:]; sys.path.insert(0, {folder!r});"
    "runpy.run_path(sys.argv[0], run_name='__main__');"
    "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
)


def run(script: str) -> tuple[list[dict], float]:
    """The rows of a benchmark, and its peak memory in GB, the peer's included."""
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.json"
        code = WITH_PEAK.format(folder=str(HERE))
        command = [sys.executable, "-c", code, str(HERE / f"{script}.py"), str(rows)]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            sys.exit(f"{script} failed:\n{done.stderr}")
        return json.loads(rows.read_text(encoding="utf-8")), int(done.stderr.split()[-1]) / 2**20


def main() -> None:
    """Writes the table and the figure."""
    lines = []
    for script in SCRIPTS:
        rows, memory = run(script)
        for row in rows:
            cells = [_number(row.get(name)) for name in ("ours", "peer", "ratio", "floor")]
            about = [row.get("peer_name", ""), row.get("of it", ""), f"{memory:.1f}"]
            lines.append(f"| {' | '.join([row['job'], *cells, *about])} |")
    growth = pd.DataFrame(run("growth")[0])
    draw(growth)
    machine = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    (DOCS / "benchmarks.md").write_text(
        f"""# Speed

Made by `make bench`; each line's two sides were measured in turn in one process on one thread, in CPU seconds.
Machine: {machine}. Python {platform.python_version()}, {versions}.

`floor`: what the products with the weights alone take at the rate of a 1024 x 1024 product in the same process.

| job | ours | peer | ratio | floor | peer is | of it | peak memory, GB |
|---|---|---|---|---|---|---|---|
{chr(10).join(lines)}

## How a GRPO step grows
![seconds of a GRPO step](benchmarks.svg)

{growth.to_markdown(index=False, floatfmt=".2f")}
""",
        encoding="utf-8",
    )


def draw(growth: pd.DataFrame) -> None:
    """One panel an axis: rollout and update stacked, the floor as a line across."""
    plt.rcParams.update({"svg.hashsalt": "benchmarks", "svg.fonttype": "path"})
    figure, panels = plt.subplots(1, 3, figsize=(9, 3), layout="constrained")
    for panel, (axis, rows) in zip(panels, growth.groupby("axis", sort=False), strict=True):
        names = rows["value"].astype(str)
        panel.bar(names, rows["rollout"], label="rollout", color="0.75")
        panel.bar(names, rows["update"], bottom=rows["rollout"], label="update", color="0.45")
        panel.plot(names, rows["floor"], "k_", markersize=30, label="floor")
        panel.set(xlabel=axis, yscale="linear")
    panels[0].set_ylabel("seconds of a GRPO step")
    panels[0].legend(frameon=False)
    figure.savefig(DOCS / "benchmarks.svg", metadata={"Date": None})


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


if __name__ == "__main__":
    main()
