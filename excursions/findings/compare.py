"""A try against the study's run of the same checkpoint, recipe and seed: pass@k at the last step, paired on the
questions, each of which both ask with the same sample seeds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from excursions import params, tree
from excursions.data.loading import load_questions
from excursions.data.source import open_source
from excursions.files import read_json
from excursions.findings import curves, estimates, plotting
from excursions.params import Study, UserError
from excursions.results import schemas, tables

NOTE = "Intervals of 95%, paired on the questions; from one seed they do not hold for other training runs."


def report(root: Path, name: str) -> str:
    """The comparison as text; draws it to tries/<name>/compare.svg and .png. Raises UserError as `compare`."""
    table, differ = compare(root, name)
    file = tree.try_folder(root, name) / "compare"
    plotting.save(draw(table, f"{name}: {differ}", NOTE), file)
    shown = table.to_string(index=False, float_format="{:.2f}".format)
    return f"{name}: {differ}\n{shown}\n{NOTE}\n{file}.svg"


def compare(root: Path, name: str) -> tuple[pd.DataFrame, str]:
    """A table with columns benchmark, k, n_questions, try, study (percent), estimate, ci_low, ci_high (points, try
    minus study); and what differs in the settings. Raises UserError for a try or a run that is not there."""
    names = [path.parent.name for path in sorted(root.glob("tries/*/params.yaml"))]
    folder = tree.try_folder(root, params.one_of(name, names, "try"))
    study = params.load(folder / "params.yaml")
    scale, rows, differ = study.scales[0], [], ""
    for cell in study.cells(scale):
        found = {}
        for arm, home in (("try", folder), ("study", root)):
            run = tree.run_folder(home, scale, "main", *cell)
            found[arm] = read_json(run / "run.json", schemas.RUN)
            if found[arm] is None:
                raise UserError(f"{run} has no results; `{_command(home, scale, *cell)}` computes them.")
            rows.append(estimates.last_step(tables.load_files([run], "outcomes")).assign(arm=arm))
        differ = _difference(*(_flat(found[arm]["parameters"]) for arm in ("try", "study")))
    table = pd.concat(rows).astype({"benchmark": str})
    _check_pairs(table, study, params.load(root / "params.yaml"), f"{name} ({differ})")
    points = []
    for benchmark, group in table.groupby("benchmark"):
        for k in (k for k in tables.KS if k <= group["n"].min()):
            values = estimates.per_question(group, k, ["arm", "seed"])
            a, b = values.loc["try"], values.loc["study"]
            means = {"try": 100 * a.to_numpy().mean(), "study": 100 * b.to_numpy().mean()}
            counts = {"benchmark": benchmark, "k": k, "n_questions": values.shape[1]}
            points.append(counts | means | curves.difference(a, b))
    return pd.DataFrame(points), differ


def _check_pairs(table: pd.DataFrame, own: Study, study: Study, name: str) -> None:
    """Raises UserError if a try was asked other questions than the study: there are no pairs."""
    asked = [set(rows["question_id"]) for _, rows in table.groupby("arm")]
    common = set.intersection(*asked)
    scales = [of.scale(own.scales[0]).of(own.recipes[0]) for of in (own, study)]
    texts = []
    if open_source(scales[1]).made_here:  # where questions are not made here, their ids come from their texts
        for scale in scales:
            pools = vars(load_questions(scale)).values()
            texts.append({q.id: (q.text, q.answer) for pool in pools for q in pool if q.id in common})
    if common not in asked or texts and texts[0] != texts[1]:  # the first questions alone are pairs, too
        raise UserError(
            f"the try {name} was asked other questions than the study, so that the two cannot be paired; accepted: a "
            "change that leaves the questions as they are."
        )


def _command(home: Path, scale: str, checkpoint: str, recipe: str, seed: int) -> str:
    at = "" if home == Path(".") else f" --root {home}"
    return f"excursions train{at} --scale {scale} --checkpoint {checkpoint} --recipe {recipe} --seed {seed}"


def _flat(parameters: Mapping[str, Mapping]) -> dict[str, object]:
    return {f"{block}.{key}": value for block, of_it in parameters.items() for key, value in of_it.items()}


def _difference(a: dict, b: dict) -> str:
    """'rl.learning_rate 0.0002 (study: 0.0004)', or that nothing differs."""
    changed = [key for key in {**a, **b} if a.get(key) != b.get(key)]
    return ", ".join(f"{key} {a.get(key)} (study: {b.get(key)})" for key in changed) or "no setting differs"


@plotting.styled
def draw(table: pd.DataFrame, title: str, note: str) -> Figure:
    """The differences with their intervals, a panel for each benchmark."""
    benchmarks = list(table["benchmark"].unique())
    heading = plotting.Band("pass@k, try minus study, in points", False, len(benchmarks))
    figure, (panels,) = plotting.page(title, note, [heading], width=7)
    for axes, benchmark in zip(panels, benchmarks, strict=True):
        of_it = table[table["benchmark"] == benchmark]
        places = range(len(of_it))
        axes.vlines(places, of_it["ci_low"], of_it["ci_high"], color=plotting.GREY, lw=1.5)
        axes.plot(places, of_it["estimate"], "o", color="#111111")
        axes.set_xticks(places, [f"@{k}" for k in of_it["k"]])
        axes.set_xlim(-0.5, len(of_it) - 0.5)
        axes.set_xlabel(benchmark)
    plotting.share_y(panels, "points", from_zero=False)
    return figure
