"""Runs one notebook and writes its report, a page of the site that holds all code, tables and figures.

The same notebook and results give the same bytes: what papermill stamps into a notebook (times, paths) is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from excursions.findings.kernel import execute
from excursions.params import UserError

if TYPE_CHECKING:
    from nbformat import NotebookNode

# Pygments' names of styles for the two colour schemes.
CODE_STYLES = {"light": "default", "dark": "github-dark"}
WIDGET = "application/vnd.jupyter.widget-view+json"  # shown without the text in its place, which a page would show
ANSWER = re.compile(r'<p class="answer">.*?</p>', re.S)
FIGURE = re.compile(r'<div [^>]*class="figure"[^>]*>\s*<svg.*?</svg>\s*</div>', re.S)


def run(name: str, scale: str, root: Path | str = ".", parameters: Mapping[str, object] | None = None) -> Path:
    """Runs root/notebooks/<name>.ipynb and writes root/reports/<scale>/<name>.html; returns that path.

    parameters: further values for the notebook's parameters cell, for example {"checkpoint": "p40"}; the report of a
    suite is named after it, <name>_<suite>.html. `arguments` has looked them up. Raises UserError when a cell fails;
    then the old report stays as it is. What the last cell prints is printed, and where a line of it begins with FAIL,
    UserError is raised with the report in place.
    """
    root, parameters = Path(root).resolve(), dict(parameters or {})
    suite = parameters.get("suite", "main")
    file, given = root / "notebooks" / f"{name}.ipynb", {"scale": scale, "root": ".."} | parameters
    executed = execute(file, given, meanwhile=_import_ahead)
    from excursions.findings import pages

    lead, body = _lead(_body(executed))
    report = root / "reports" / scale / (f"{name}.html" if suite == "main" else f"{name}_{suite}.html")
    pages.write_page(
        "report.html.j2",
        report,
        scale=scale,
        body=[Markup(part) for part in body.partition("</h1>")],  # what the page answers comes right after its title
        lead=[Markup(part) for part in lead],
        code_style=Markup(_code_style()),
        contents=[(Markup(at), Markup(heading)) for at, heading in re.findall(r'<h2 id="([^"]+)">([^<]+)', body)],
        found=pages.claims_of(root, scale, name) if suite == "main" else [],  # claims are of the study itself
        by_result=pages.by_result(root, scale) if name == "claims" else {},
    )
    told = "".join(output.text for output in executed.cells[-1].get("outputs", []) if output.output_type == "stream")
    print(told, end="")
    if failed := [line for line in told.splitlines() if line.startswith("FAIL")]:
        raise UserError(f"notebook {name}: {len(failed)} of its checks failed; {report} shows how.")
    return report


def _import_ahead() -> None:
    """What makes the page takes seconds to import, as long as a kernel takes to start on a core of its own."""
    from nbconvert import HTMLExporter  # noqa: F401
    from pygments.formatters import HtmlFormatter  # noqa: F401

    from excursions.findings import pages  # noqa: F401


def _body(executed: NotebookNode) -> str:
    """The cells as HTML, without times, paths and numbers of execution."""
    from nbconvert import HTMLExporter

    from excursions.findings import pages

    for number, cell in enumerate(executed.cells):
        cell.id = f"cell-{number}"  # papermill gives the cell it adds a random one
        if cell.cell_type == "code":  # a page has no kernel to run a widget
            cell.outputs = [output for output in cell.outputs if set(output.get("data", ())) != {WIDGET}]
    exporter = HTMLExporter(
        template_name="report",
        extra_template_basedirs=[str(pages.FOLDER)],
        preprocessors=["nbconvert.preprocessors.ClearMetadataPreprocessor"],
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        anchor_link_text="#",
    )
    body, _ = exporter.from_notebook_node(executed)
    return body.strip()


def _lead(body: str) -> tuple[list[str], str]:
    """The sentences that `headlines.answer` made and the first figure, taken out of the body of a page; of a page that
    answers nothing, nothing."""
    answer = ANSWER.search(body)
    if answer is None:
        return [], body
    body = body.replace(answer[0], "", 1)
    figure = FIGURE.search(body)
    return [answer[0], figure[0] if figure else ""], body.replace(figure[0], "", 1) if figure else body


def _code_style() -> str:
    from pygments.formatters import HtmlFormatter

    light, dark = (HtmlFormatter(style=style).get_style_defs(".highlight") for style in CODE_STYLES.values())
    return f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}"
