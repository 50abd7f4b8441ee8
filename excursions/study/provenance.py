"""How a run came about, for run.json: versions, commit, machine, memory. Nothing here may cost the run: what cannot be
found out is null."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "transformers", "numpy", "lm_eval", "excursions")


def versions() -> dict[str, str | None]:
    """Of the packages whose code takes part in a run."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a copy that was never installed
            found[name] = None
    return found


def machine() -> dict[str, str | int | None]:
    """What decides on the last bits of a result: processor, its kind, system."""
    return {"processor": _processor("model name"), "family": _processor("cpu family"), "model": _processor("model"),
            "cores": os.cpu_count(), "system": platform.system()}  # fmt: skip


def git_commit(root: Path) -> str | None:
    """The commit of the project's folder; None where there is no git, or no repository."""
    return _git(root, "rev-parse", "HEAD") or None


def is_dirty(root: Path) -> bool | None:
    """Whether the code or params.yaml differ from that commit; None where there is no git, or no repository."""
    found = _git(root, "status", "--porcelain", "--untracked-files=no", "--", "excursions", "params.yaml")
    return None if found is None else bool(found)


def peak_memory_mb() -> float:
    """Of this process."""
    # ru_maxrss is in kilobytes on Linux and in bytes on macOS
    unit = 1024 if sys.platform == "linux" else 1024 * 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)


def _git(root: Path, *command: str) -> str | None:
    try:
        found = subprocess.run(["git", *command], cwd=root, capture_output=True, text=True, timeout=60)
    except (OSError, ValueError, subprocess.SubprocessError):  # no git, output that is no text, no answer
        return None
    return found.stdout.strip() if found.returncode == 0 else None


def _processor(key: str) -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.split(":", 1)[1].strip() for line in lines if line.split(":")[0].strip() == key), None)
