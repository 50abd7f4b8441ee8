"""The log of a run while it goes on, a JSON line for each step, and following it: `excursions watch`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

from excursions.files import whole_file
from excursions.params import UserError, one_of

# metric, and its name in a line
SHOWN = {"reward": "reward", "frac_reward_zero_std": "no signal", "entropy": "entropy",
         "completions/mean_length": "length", "sft_loss": "loss"}  # fmt: skip


class Log:
    """scratch/.../log.jsonl of one run: `step`, `steps` (of the whole run) and the step's metrics."""

    def __init__(self, folder: Path, steps: int, before: list[dict]) -> None:
        """before: the steps that a resumed run has done; what was written after them is dropped."""
        self.file, self.steps = folder / "log.jsonl", steps
        with whole_file(self.file) as file:
            file.write_text("".join(map(self._line, before)), encoding="utf-8")

    def add(self, row: dict) -> None:
        """One step more."""
        with self.file.open("a", encoding="utf-8") as file:
            file.write(self._line(row))

    def _line(self, row: dict) -> str:
        return json.dumps({"step": row["step"], "steps": self.steps} | row) + "\n"


def find_log(root: Path, name: str | None) -> Path:
    """The log that was written to last, of the study and its tries; name: of those with it in their path, as lr2 or
    p56/rl/seed-0. Raises UserError without one."""
    logs = [*root.glob("scratch/*/*/*/*/seed-*/log.jsonl"), *root.glob("tries/*/scratch/*/*/*/*/seed-*/log.jsonl")]
    if not logs:
        raise UserError(f"No run has trained in {root}; `excursions train` or `excursions try` starts one.")
    logs.sort(key=lambda file: file.stat().st_mtime, reverse=True)
    path = {file: f"/{file.parent.relative_to(root).as_posix()}/" for file in logs}
    named = [file for file in logs if name is None or f"/{name}/" in path[file]]
    if not named:
        one_of(str(name), dict.fromkeys("/".join(file.parent.parts[-3:]) for file in logs), "run with a log")
    return named[0]


def follow(file: Path, wait: float = 1.0) -> Iterator[str]:
    """A line for each step, those that are there and then the new ones, until the last step; each step once, though a
    run that is killed and resumed does some again. wait: seconds between two looks."""
    last = length = 0
    while True:
        for line in file.read_bytes().splitlines(keepends=True):
            step, steps, shown = (
                _step(file, line) if line.endswith(b"\n") else (0, 0, "")
            )  # the last may be half written
            if steps and steps != length:  # the run was started again, with another number of steps
                last, length = 0, steps
            if step > last:
                last = step
                yield shown
                if last == steps:
                    return
        time.sleep(wait)


def _step(file: Path, line: bytes) -> tuple[int, int, str]:
    """Of a line of a log: its step, the number of all, and what to show. Raises UserError for what is none."""
    try:
        row = json.loads(line.decode())
        shown = "  ".join(f"{label} {row[name]:.3g}" for name, label in SHOWN.items() if row.get(name) is not None)
        return int(row["step"]), int(row["steps"]), f"step {row['step']}/{row['steps']}  {shown}"
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        raise UserError(f"{file}: {line[:80]!r} is not a step of a log; `rm {file}` forgets it.") from None
