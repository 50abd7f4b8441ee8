"""Runs every cell of a scale on a Ray cluster, each as one task with GPUs of one node; many cells run at once.

Edit nothing, but three things must hold: the project's folder with its .venv is at the same path on every node, Ray is
in that .venv (pip install "ray[default]"), and the cluster was started from it (`ray start`). Use, on one of its nodes:

    .venv/bin/python launch/ray_cells.py --scale paper --gpus 8

or from elsewhere: ray job submit --address http://HEAD:8265 -- FOLDER/.venv/bin/python FOLDER/launch/ray_cells.py ...

Without a cluster, this machine is one. Other options go to `excursions cells` (--suite, --checkpoint, --recipe,
--seed). A cell that fails stops those that need it and no others. The same command again keeps what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHOWN = 15  # last lines of a failed cell's log


def main() -> int:
    """Runs the cells; returns the exit code: 0 if all are done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--scale", default="paper", help="block of params.yaml (default: paper)")
    parser.add_argument("--gpus", type=int, default=8, help="GPUs of a training cell; 0: on one CPU core (default: 8)")
    args, others = parser.parse_known_args()
    try:
        import ray
    except ImportError:
        print('Ray is not installed here: pip install "ray[default]"', file=sys.stderr)
        return 2
    launcher = "python"
    if args.gpus:
        launcher = f"accelerate launch --config_file launch/node.yaml --num_processes {args.gpus}"
    command = [sys.executable, "-m", "excursions", "cells", "--json", "--scale", args.scale, "--launcher", launcher]
    listed = subprocess.run([*command, *others], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if listed.returncode:
        return listed.returncode

    ray.init()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `ray job stop` is like Ctrl-C
    largest = max(node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"])
    if args.gpus > largest:
        print(f"No node has {args.gpus} GPUs now (the most: {largest:g}); cells wait for one.", flush=True)
    task, outcomes = ray.remote(run_cell), {}
    for cell in json.loads(listed.stdout):
        gpus = args.gpus if cell["command"].startswith(launcher) else 0
        log = ROOT / "scratch" / "logs" / args.scale / f"{cell['id']}.log"
        placed = task.options(name=cell["id"], num_gpus=gpus, num_cpus=max(1, gpus))
        outcomes[cell["id"]] = placed.remote(cell["command"], log, *[outcomes[name] for name in cell["needs"]])
    names, waiting, failed = {outcome: name for name, outcome in outcomes.items()}, list(outcomes.values()), 0
    try:
        while waiting:
            (outcome,), waiting = ray.wait(waiting)
            try:
                code, text = ray.get(outcome)
            except ray.exceptions.RayError as error:  # its node or its worker is gone, after Ray's own retries
                code, text = 1, str(error).strip().splitlines()[-1]
            failed += code != 0
            print(f"{'FAILED' if code else 'done'}  {names[outcome]}: {text}", flush=True)
    except KeyboardInterrupt:
        print("Interrupted; ending the cells that run.", file=sys.stderr)
        for outcome in waiting:
            ray.cancel(outcome)
        ray.wait(waiting, num_returns=len(waiting), timeout=60)
        return 130
    if failed:
        print(f"{failed} of {len(names)} cells are not done.", file=sys.stderr)
    return min(1, failed)


def run_cell(command: str, log: Path, *needed: tuple[int, str]) -> tuple[int, str]:
    """Runs a command on the node where Ray puts it; returns its exit code and what to say of it.

    needed: what this function returned for the cells that had to be done before.
    """
    if any(code for code, _ in needed):
        return 1, "not started, a cell that it needs is not done"
    started = time.time()
    log.parent.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = os.environ | {"PATH": path}
    with log.open("w") as file:
        process = subprocess.Popen(shlex.split(command), cwd=ROOT, env=environment, stdout=file, stderr=file)
        try:
            while (code := process.poll()) is None:
                time.sleep(1)  # and not process.wait(), which Ray's cancelling does not reach
        finally:  # a launcher that is told to end ends its processes; killed it would leave them
            process.terminate()
            process.wait()
    text = f"{time.time() - started:.0f} s, log in {log}"
    if code:
        last = log.read_text(encoding="utf-8", errors="replace").splitlines()[-SHOWN:]
        text = "\n    ".join([f"exit code {code}, {text}", *last])
    return code, text


if __name__ == "__main__":
    sys.exit(main())
