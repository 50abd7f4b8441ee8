"""docs/calibration.md: what the study's settings were chosen by, made from the runs of the suites `cal-*`.

Those runs have a seed that is not reported and are measured on validation questions. A setting is chosen on the mean of
both benchmarks' validation pass@1, never on pass@32 nor on a difference of recipes.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from excursions.data.loading import questions_digest
from excursions.files import read_json, whole_file, write_json
from excursions.findings.statistics import pass_at_k
from excursions.params import OwnSuite, Study, UserError
from excursions.results import tables
from excursions.study.criteria import KS, criteria
from excursions.training import pretrain
from excursions.tree import suite_folder

PREFIX = "cal-"
PLATEAU = 1.0  # points of pass@1 that the last quarter of RL may still bring
HEAD = """# Calibration

Made by `excursions data --scale {scale} --report`. What was tried before stands in [log.md](log.md).

## What the pretrained suite must be

Measured on validation questions, {samples} samples at T = {temperature}, and on {general} items of each general
benchmark, before any recipe is run.

{criteria}

## What was tried of each update

Validation questions, 0-shot, seeds that are not reported. pass@1 / 8 / 32 in percent; `mean` is the mean pass@1 of both
benchmarks, by which a setting is chosen, among runs of one number of steps; where runs differ in it, at a step that all
of them were measured at (the next table has those in between). `derived`: the share of right answers whose steps hold.

{grid}

## Along reinforcement learning

Mean pass@1 of both benchmarks by the share of the run that is done, and what its last quarter brought (RL counts as at
its plateau when that is less than {plateau:g} point).

{curves}
"""


def write_report(study: Study, scale_name: str, root: Path) -> Path:
    """Writes docs/calibration.md. The criteria are kept in docs/calibration.json, and measured anew only where suite or
    questions have changed."""
    scale = study.scale(scale_name)
    folder = suite_folder(root, scale_name, "main")
    measured = calibration_runs(study, scale_name, root)  # before the minutes that the criteria take
    kept = root / "docs" / "calibration.json"
    key = {"suite": pretrain.fingerprint(scale), "questions": questions_digest(scale), "shots": scale.evaluate.shots}
    found = read_json(kept) or {}
    if found.get("key") != key:
        rows = criteria(scale, folder).to_dict(orient="records")
        found = {"key": key, "rows": [row | {"met": "yes" if row["met"] else "no"} for row in rows]}
        write_json(kept, found)
    text = HEAD.format(
        scale=scale_name,
        samples=scale.evaluate.samples,
        temperature=scale.evaluate.temperature,
        general=scale.evaluate.general,
        criteria=_table(pd.DataFrame(found["rows"])),
        grid=_table(grid(measured)),
        curves=_table(curves(measured)),
        plateau=PLATEAU,
    )
    with whole_file(root / "docs" / "calibration.md") as part:
        part.write_text(text, encoding="utf-8")
    return root / "docs" / "calibration.md"


def calibration_runs(study: Study, scale_name: str, root: Path) -> pd.DataFrame:
    """Counts per question of the runs of all suites `cal-*` that there are, with `changed`: the overrides.

    Raises UserError where no such suite has runs.
    """
    found = []
    for name, suite in study.suites.items():
        if name.startswith(PREFIX) and isinstance(suite, OwnSuite) and (root / "results" / scale_name / name).is_dir():
            keys = {
                f"{block}.{key}": value
                for block, part in (suite.overrides or {}).items()
                for key, value in part.items()
            }
            changed = [
                f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
                for key, value in keys.items()
                if not key.startswith("evaluate.")
            ]
            said = ", ".join(changed) or "as in the study"
            found.append(tables.load_outcomes(root, scale_name, name).assign(changed=said))
    if not found:
        raise UserError(
            f"No suite {PREFIX}* of params.yaml has results at scale {scale_name}. "
            f"`excursions train --scale {scale_name} --suite NAME` computes those of one suite."
        )
    return pd.concat(found, ignore_index=True)


def grid(outcomes: pd.DataFrame) -> pd.DataFrame:
    """A row per run and end: what was changed, and what it solves before and after."""
    rows = []
    for run, part in outcomes.groupby(["recipe", "checkpoint", "changed"], sort=False, observed=True):
        for step in (part["step"].min(), part["step"].max()):
            here = part[part["step"] == step]
            solved = {role: _passed(rows_of) for role, rows_of in here.groupby("benchmark", sort=True, observed=True)}
            told = {role: " / ".join(f"{value:.1f}" for value in by_k) for role, by_k in solved.items()}
            mean = sum(by_k[0] for by_k in solved.values()) / len(solved)
            derived = here["valid"].sum() / max(1, here["correct"].sum())
            rows.append([*run, step, *told.values(), f"{mean:.1f}", f"{derived:.2f}"])
    names = sorted(outcomes["benchmark"].astype(str).unique())
    return pd.DataFrame(rows, columns=["recipe", "checkpoint", "changed", "step", *names, "mean", "derived"])


def curves(outcomes: pd.DataFrame) -> pd.DataFrame:
    """A row per run of `rl`: mean pass@1 at each evaluated share of it, and the rise over the last quarter."""
    rows = []
    rl = outcomes[outcomes["recipe"] == "rl"]
    for run, part in rl.groupby(["checkpoint", "changed"], sort=False, observed=True):
        by_step = part.groupby(["step", "benchmark"], observed=True).apply(lambda rows: _passed(rows)[0])
        mean = by_step.groupby(level="step").mean()
        last = mean.index.max()
        before = mean[mean.index <= 0.75 * last].iloc[-1]
        along = " ".join(f"{value:.1f}" for value in mean)
        rows.append([*run, last, along, f"{mean.iloc[-1] - before:+.1f}"])
    return pd.DataFrame(rows, columns=["checkpoint", "changed", "steps", "mean pass@1", "last quarter"])


def _passed(rows: pd.DataFrame) -> list[float]:
    n, correct = rows["n"].to_numpy(), rows["correct"].to_numpy()
    return [100 * float(pass_at_k(n, correct, k).mean()) for k in KS]


def _table(frame: pd.DataFrame) -> str:
    rows = [frame.columns, ["---"] * len(frame.columns), *frame.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)
