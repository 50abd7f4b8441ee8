"""Submits every cell of a scale to SLURM, each as a job that waits for the jobs it needs; SLURM does the rest.

Edit: the #SBATCH lines of launch/slurm_job.sh. The project's folder is on a file system that all nodes share. Use, on a
login node with the environment active:

    python launch/slurm_submit.py --scale paper --nodes 1 --gpus-per-node 8

Other options go to `excursions cells` (--suite, --checkpoint, --recipe, --seed). Jobs behind one that fails are
cancelled. When none is left, the same command submits all cells again, and those that are there already end at once.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
JOB = str(ROOT / "launch" / "slurm_job.sh")


def main() -> int:
    """Submits; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--scale", default="paper", help="block of params.yaml (default: paper)")
    parser.add_argument("--nodes", type=int, default=1, help="nodes of a training cell (default: 1)")
    parser.add_argument("--gpus-per-node", type=int, default=8, help="GPUs of each of them (default: 8)")
    args, others = parser.parse_known_args()
    cells = [sys.executable, "-m", "excursions", "cells", "--json", "--scale", args.scale]
    listed = _run([*cells, "--launcher", shlex.quote(JOB), *others])
    if listed.returncode:
        return listed.returncode

    jobs: dict[str, str] = {}  # id of a cell -> id of its job
    for cell in json.loads(listed.stdout):
        log = ROOT / "scratch" / "logs" / args.scale / f"{cell['id']}-%j.log"
        log.parent.mkdir(parents=True, exist_ok=True)  # without its folder a job fails and says nothing
        options = [f"--job-name={args.scale}/{cell['id']}", f"--output={log}"]
        words = shlex.split(cell["command"])
        if words[0] == JOB:
            options += [f"--nodes={args.nodes}", f"--gpus-per-node={args.gpus_per_node}"]
        else:
            options, words = [*options, "--nodes=1"], [JOB, *words]
        needs = [jobs[name] for name in cell["needs"]]
        if needs:
            options += [f"--dependency=afterok:{':'.join(needs)}", "--kill-on-invalid-dep=yes"]
        try:
            sent = _run(["sbatch", "--parsable", *options, *words])
        except FileNotFoundError:
            print("sbatch was not found: run this on a login node of a SLURM cluster.", file=sys.stderr)
            return 2
        if sent.returncode:
            queued = f" Queued already: scancel {' '.join(jobs.values())}" if jobs else ""
            print(f"sbatch refused {cell['id']}, see above.{queued}", file=sys.stderr)
            return sent.returncode
        jobs[cell["id"]] = sent.stdout.strip().split(";")[0]  # "job" or "job;cluster"
        print(f"job {jobs[cell['id']]}  {cell['id']}" + (f"  after {' '.join(needs)}" if needs else ""))
    return 0


def _run(command: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


if __name__ == "__main__":
    sys.exit(main())
