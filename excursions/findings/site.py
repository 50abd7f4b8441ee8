"""Makes the pages of the site that are no notebook: the overview, the explorer, the samples. See pages for their look.

Everything in them comes from the tables, the claims and the kept completions of one scale; the same files give the same
bytes.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from markupsafe import Markup

from excursions import params, recipes
from excursions.data.nano.problems import checked_steps
from excursions.files import whole_file
from excursions.findings import checks, curves, estimates, explorer, headlines, measures, pages
from excursions.findings.claims import Claim
from excursions.findings.sentences import CHECKS
from excursions.results import tables as results

BLOCK = re.compile(r"(<!-- what came out, written by `excursions site` -->\n).*?(\n<!-- to here -->)", re.S)


def write_site(root: Path | str, scale: str) -> list[Path]:
    """Writes reports/<scale>/index.html, explorer.html, samples.html and what they load; returns the paths. The lines
    of the first scale of params.yaml stand in README.md too.

    Raises UserError where the results or params.yaml cannot be read.
    """
    root = Path(root)
    study = params.load(root / "params.yaml")
    block = study.scale(scale)
    tables = results.load_tables(root, scale)
    cells = tables.outcomes[explorer.RUN].drop_duplicates()
    folder = root / "reports" / scale
    by_result = pages.by_result(root, scale)
    shared = {
        "recipes": {recipe.name: [recipe.label, recipe.color] for recipe in recipes.RECIPES.values()},
        "multiples": _multiples(tables),
    }
    charted = shared | {
        "scale": scale,
        "roles": {role: name for name, role in results.ROLES.items() if name in set(tables.outcomes["benchmark"])},
        "series": explorer.all_series(root, tables),
        "claims": {claim.id: _rows_behind(claim) for found in by_result.values() for claim in found},
        "runs": cells.astype({"seed": int}).to_numpy().tolist(),
    }
    made_here = block.questions.source == "nano"  # the steps of others cannot be checked
    kept = explorer.kept_samples(root, scale, cells, block.questions, checked_steps if made_here else None)
    figures = [
        name
        for name in ("claims", *pages.PAGES)
        if (root / "figures" / scale / f"{name}.svg").is_file() and (name == "claims" or name in by_result)
    ]
    lines = what_came_out(tables)
    if scale == study.scales[0]:
        write_into_readme(root / "README.md", lines)
    written: dict[str, dict] = {
        "index": {"by_result": by_result, "figures": figures, "lines": lines},
        "explorer": {"data": _embedded(charted)},
        "samples": {"data": _embedded(shared | kept)},
    }
    for name, values in written.items():
        pages.write_page(f"{name}.html.j2", folder / f"{name}.html", scale=scale, **values)
    with whole_file(folder / "vega.min.js") as temporary:
        temporary.write_bytes((pages.FOLDER / "vega.min.js").read_bytes())
    return [folder / f"{name}.html" for name in written] + [folder / "vega.min.js"]


def what_came_out(tables: results.Tables) -> list[str]:
    """One sentence a result: the first of what its notebook opens with."""
    pairs = [("rl", "base"), ("rl", "sft"), ("rl", "sft_gold"), ("sft_rl", "sft")]
    pairs += [("parallel", other) for other in ("rl", "sft", "sft_rl")]
    changes, general = curves.gains(tables, pairs), curves.general_gains(tables)
    return [
        " ".join([headlines.early_rl(changes)[0], headlines.reward_gaming(curves.gaming(tables))[0]]),
        headlines.scarce_demonstrations(changes)[0],
        headlines.sharpening_or_expansion(changes)[0],
        headlines.general_capabilities(general)[0],
        headlines.parallel_averaging(changes, general)[0],
    ]


def write_into_readme(file: Path, lines: list[str]) -> None:
    """Puts the lines between the marks in README.md; a README without marks, or none, stays as it is."""
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    block = "\n".join(f"{number}. {line}" for number, line in enumerate(lines, 1))
    changed = BLOCK.sub(lambda found: f"{found[1]}\n{block}\n{found[2]}", text)
    if changed != text:
        with whole_file(file) as temporary:
            temporary.write_text(changed, encoding="utf-8")


def _multiples(tables: results.Tables) -> dict[str, dict[str, float]]:
    """suite -> checkpoint -> its tokens in multiples of Chinchilla-optimal, along pretraining."""
    suites = sorted(tables.parameters, key=lambda suite: (suite != "main", suite))  # the study itself first
    found: dict[str, dict[str, float]] = {suite: {} for suite in suites}
    rows = tables.outcomes[["suite", "checkpoint", "tokens"]].drop_duplicates().sort_values("tokens")
    for suite, checkpoint, tokens in rows.itertuples(index=False):
        found[suite][checkpoint] = round(estimates.chinchilla(tokens, tables.parameters[suite]), 4)
    return found


def _rows_behind(claim: Claim) -> dict[str, object]:
    """Which rows of the explorer a claim is measured on: what is chosen there, and the suites."""
    (check,) = (check for check in CHECKS if check.id == claim.id)
    parsed = [checks.parse(formula) for formula in check.contrasts]
    arms = [arm for _, signs in parsed for arm in signs]
    gaming = check.measured is measures.invalid_along_training
    by_seed = check.along_training or check.measured in (measures.seed_spread, measures.alike_in_reward)
    k = 1 if gaming else parsed[0][0]
    return {
        "claim": claim.claim,
        "page": claim.figure,
        "axis": "steps" if check.along_training else "tokens",
        "checkpoint": claim.contrasts[0].points[0].checkpoint if check.along_training and claim.contrasts else "",
        "seed": "each" if by_seed else "all",
        "measure": explorer.NOT_DERIVED if gaming else explorer.GENERAL if k is None else explorer.SOLVED,
        "role": check.benchmark,
        "k": k or 0,
        "recipes": [name for name in recipes.RECIPES if name in {recipe for _, recipe in arms}],
        "suites": list(dict.fromkeys(suite for suite, _ in arms)),
    }


def _embedded(data: dict) -> Markup:
    """JSON that may stand in a <script> element: no text in it can end the element."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))
