"""What the notebooks show besides figures: the tables behind them, every number with its interval.

Nothing here is estimated: tables come from `curves` and `reference`.
"""

from __future__ import annotations

import html
from pathlib import Path

import pandas as pd
from IPython.display import HTML
from matplotlib.figure import Figure

from excursions.findings import plotting
from excursions.findings.claims import Claim, claims_table
from excursions.findings.curves import FROM_0_TO_1

NAMES = {
    "recipe": lambda recipe: plotting.LOOKS[recipe].label,
    "other": lambda recipe: plotting.LOOKS[recipe].label,
    "k": lambda k: f"pass@{k}",
    "chinchilla": lambda multiple: f"{multiple:.2f}×",
    "seed": lambda seed: f"{seed:.0f}",
    "weight of RL": lambda weight: "0 to 1" if weight == FROM_0_TO_1 else f"{weight:g}",
}
HEADERS = {
    "chinchilla": "× optimal",
    "tokens_b": "tokens, B",
    "seed_kind": "seed",
    "rl_step": "RL step",
    "other": "against",
}


def show(figure: Figure, root: Path | str, scale: str, name: str, suite: str = "main") -> HTML:
    """Saves a figure as figures/<scale>/<name>.svg and .png, of another suite <name>_<suite>; and shows the SVG."""
    name = name if suite == "main" else f"{name}_{suite}"
    path = Path(root) / "figures" / scale / name
    plotting.save(figure, path)
    svg = path.with_name(f"{name}.svg").read_text(encoding="utf-8")
    image = svg[svg.index("<svg") :]
    said = figure.texts[0].get_text() if figure.texts else name.replace("_", " ")  # its title: what it shows, in words
    title = html.escape(" ".join(said.split()), quote=True)
    width = round(figure.get_figwidth() * 96)
    style = f"max-width: {width}px"
    return HTML(f'<div class="figure" role="img" aria-label="{title}" style="{style}">{image}</div>')


def table(rows: pd.DataFrame, index: list[str], columns: list[str], caption: str) -> HTML:
    """A tidy table of estimates as HTML, each cell "estimate [low, high]", in the order of the rows.

    rows: columns estimate, ci_low, ci_high (percent or points; estimate alone will do), and those of index
    and columns. Single seeds are left out, unless `seed` is one of those.
    """
    if "seed" in rows.columns:
        rows = rows[rows["seed"].notna() == ("seed" in [*index, *columns])]
    if rows.empty:
        return HTML(f"<p>{html.escape(caption)}: nothing measured.</p>")
    shown = rows.assign(shown=[_interval(row) for row in rows.to_dict("records")])
    for column in {*index, *columns} & {*NAMES}:
        shown[column] = shown[column].map(NAMES[column])
    wide = shown.set_index([*index, *columns])["shown"].unstack(columns, sort=False, fill_value="")
    wide.columns.names = [None] * len(columns)
    wide.index.names = [HEADERS.get(name, name) for name in wide.index.names]
    return frame(wide, caption)


def frame(rows: pd.DataFrame, caption: str, look: str = "") -> HTML:
    """Any table as HTML. look: a class of the site's style sheet."""
    made = rows.to_html(border=0, classes=look, float_format=lambda value: f"{value:.3g}", na_rep="", justify="left")
    return HTML(made.replace("<thead>", f"<caption>{html.escape(caption)}</caption><thead>", 1))


def verdicts(claims: list[Claim]) -> HTML:
    """The claims, what was measured here, and what the same check gives on the published numbers."""
    rows = claims_table(claims)
    rows.insert(2, "seeds", [claim.n_seeds for claim in claims])
    rows["measured on"] = [claim.note for claim in claims]
    caption = "Effects in percentage points with 95% intervals; the rule of each verdict is in CLAIMS.md"
    return frame(rows, caption, "verdicts")


def _interval(row: dict) -> str:
    if pd.isna(row.get("ci_low")):
        return f"{row['estimate']:z.1f}"
    return f"{row['estimate']:z.1f}\N{NO-BREAK SPACE}[{row['ci_low']:z.1f},\N{NO-BREAK SPACE}{row['ci_high']:z.1f}]"
