"""Which runs of the study are there, and how long the others will take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from excursions.files import read_json
from excursions.params import Scale
from excursions.study.run import Run, status

MINUTES_TO_SHOW = 0.5  # that a run equals its results, at nano scale


def describe_plan(wanted: Sequence[Run], scale: Scale, root: Path) -> list[str]:
    """One line per run: there, to be shown equal (its code changed), or to compute with the minutes that runs of its
    recipe took; and their sum."""
    lines, minutes, unknown, changed = [], 0.0, 0, 0
    took: dict[str, list[float]] = {}
    for file in (root / "results" / wanted[0].scale).glob("*/*/*/seed-*/run.json"):
        found = read_json(file)
        if found is not None and isinstance(found.get("wall_seconds"), int | float):
            took.setdefault(file.parts[-3], []).append(found["wall_seconds"] / 60)
    for run in wanted:
        known = took.get(run.recipe)
        # the file first: a run that is not there says nothing about a checkpoint that may be still to be downloaded
        found = status(run, scale, root) if (run.folder(root) / "run.json").is_file() else "to compute"
        if found == "there":
            lines.append(f"{run.name:28} there")
        elif found == "code changed":
            changed += 1
            lines.append(f"{run.name:28} there, but its code changed: `excursions show` does its first steps again")
        elif known:
            minutes += sum(known) / len(known)
            lines.append(f"{run.name:28} to compute, about {sum(known) / len(known):.1f} minutes")
        else:
            unknown += 1
            lines.append(f"{run.name:28} to compute, no run of its recipe to judge the time by")
    parts = [f"about {minutes / scale.workers:.0f} minutes with {scale.workers} workers"] if minutes else []
    parts += [f"{unknown} runs of unknown length"] if unknown else []
    lines.append(f"to compute: {' and '.join(parts) or 'nothing'}")
    if changed:
        lines.append(f"to show equal: {changed} runs, about {changed * MINUTES_TO_SHOW:.0f} minutes")
    return lines
