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
LEFT_OUT = (".venv", ".venv-vllm", ".git", "scratch", "tries", "trained")
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
        for name in _files(root):
            if name.split("/")[0] not in GENERATED and (root / name).is_file():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / name, copy / name)
        if not (copy / "params.yaml").is_file():
            raise UserError(
                f"{root / 'params.yaml'} does not exist. Run from the project's folder, or name it: --root."
            )
        params = with_head(keys.read_yaml(copy / "params.yaml"), STUDY)
        (copy / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
        without_git(copy)
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
    public = {name: suite for name, suite in (raw.get("suites") or {}).items() if "model" in suite}
    return raw | {"suites": public} | head


def environment(copy: Path) -> dict[str, str]:
    """Environment variables with which the stages of a copy run this interpreter and the copy's own code."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return os.environ | {"PATH": path, "PYTHONPATH": str(copy)}


def without_git(root: Path) -> None:
    """Tells DVC that a folder is no git repository, if so (a copy, an unpacked archive): it would refuse to work."""
    if not (root / ".git").exists():
        subprocess.run([sys.executable, "-m", "dvc", "config", "--local", "core.no_scm", "true"], cwd=root, check=True)


def _files(root: Path) -> list[str]:
    """The project's files: what git tracks or would; without git all but environments, state and what is hidden."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if (root / ".git").exists() and shutil.which("git"):
        found = subprocess.run(listing, cwd=root, text=True, capture_output=True)
        if found.returncode == 0:
            return [name for name in found.stdout.split("\0") if name]
    names = [file.relative_to(root) for file in root.rglob("*") if file.is_file()]
    hidden = [name for name in names if name.parts[0] in LEFT_OUT or "__pycache__" in name.parts]
    return sorted(
        str(name) for name in {*names} - {*hidden} if name.parts[:2] not in ((".dvc", "cache"), (".dvc", "tmp"))
    )
