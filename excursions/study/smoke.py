"""The whole pipeline at smoke scale, in a copy of the project that is thrown away: `make smoke`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from excursions import keys
from excursions.params import UserError

CHECKPOINTS = ["p20", "p88"]
STUDY = {"scales": ["smoke"], "checkpoints": CHECKPOINTS, "seeds": [0], "more_seeds": {"rl": {"p20": [1]}}}
GENERATED = ("results", "checkpoints", "figures", "reports", "claims", "CLAIMS.md", "dvc.lock")


def run_smoke(root: Path, keep: Path | None = None) -> Path:
    """Copies the project's files without what it has computed, sets `scales: [smoke]`, and runs `dvc repro` there.

    keep: where the copy goes; None means a temporary folder that is deleted at the end. Raises UserError if it fails.
    """
    started = time.time()
    if keep is not None and keep.exists():
        raise UserError(f"{keep} exists; name a folder that does not.")
    parent = Path(tempfile.mkdtemp(prefix="excursions-smoke-"))
    copy = (keep or parent / "excursions").absolute()
    try:
        listed = _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
        for name in filter(None, listed):
            if name.split("/")[0] not in GENERATED and (root / name).is_file():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / name, copy / name)
        params = with_head(keys.read_yaml(copy / "params.yaml"), STUDY)
        (copy / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
        _git(copy, "init", "--quiet")
        done = subprocess.run([sys.executable, "-m", "dvc", "repro"], cwd=copy, env=environment(copy))
        if done.returncode:
            raise UserError(f"the smoke run failed in {copy}; its last lines above say why (--keep FOLDER keeps it).")
        made = sorted(str(f.relative_to(copy)) for f in (copy / "figures").rglob("*.svg"))
        print(f"smoke run complete in {time.time() - started:.0f} s: {len(made)} figures ({', '.join(made)})")
        return copy
    finally:
        shutil.rmtree(parent, ignore_errors=True)


def with_head(raw: dict, head: dict) -> dict:
    """params.yaml with other top-level keys, and of its suites the public ones alone: ours name checkpoints of nano."""
    public = {name: suite for name, suite in raw["suites"].items() if "model" in suite}
    return raw | {"suites": public} | head


def environment(copy: Path) -> dict[str, str]:
    """Environment variables with which the stages of a copy run this interpreter and the copy's own code."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return os.environ | {"PATH": path, "PYTHONPATH": str(copy)}


def _git(folder: Path, *command: str) -> str:
    done = subprocess.run(["git", *command], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise UserError(
            f"`git {command[0]}` failed in {folder}: {done.stderr.strip()}. The smoke run needs a git checkout."
        )
    return done.stdout
