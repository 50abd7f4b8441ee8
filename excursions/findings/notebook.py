"""Runs one notebook through papermill and writes an HTML report, the same bytes every time.

The notebook in git stays without outputs; what it computes are files (figures, claims) and the report. The
report holds all code, tables and figures in one page that needs no network.
"""

from __future__ import annotations

import contextlib
import html
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import excursions
from excursions.files import whole_file
from excursions.params import UserError, one_of

PARAMETERS = "parameters"  # the tag of the cell whose values papermill replaces

CSS = """
body { max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222; background: white;
  font: 15px/1.55 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; }
h1, h2, h3 { line-height: 1.25; }
code, pre { font: 12.5px/1.45 ui-monospace, Menlo, Consolas, monospace; }
.input pre { background: #f6f7f9; border-left: 3px solid #c9d1dc; margin: 1em 0; padding: .6em .9em;
  overflow-x: auto; }
.output { overflow-x: auto; }
.figure svg { width: 100%; height: auto; }
table { border-collapse: collapse; margin: .8em 0; font-size: 13px; }
caption { text-align: left; color: #555; padding-bottom: .4em; }
th, td { padding: .25em .7em; border-bottom: 1px solid #e3e3e3; text-align: left; vertical-align: top; }
thead th { border-bottom: 1.5px solid #999; }
"""


def run(name: str, scale: str, root: Path | str = ".", parameters: Mapping[str, object] | None = None) -> Path:
    """Runs root/notebooks/<name>.ipynb and writes root/reports/<scale>/<name>.html; returns that path.

    parameters: further values for the notebook's parameters cell, for example {"checkpoint": "p40"}. Raises
    UserError for a notebook or parameter that does not exist, and when a cell fails; then the old report
    stays as it is.
    """
    root = Path(root).resolve()
    notebook = root / "notebooks" / f"{name}.ipynb"
    names = sorted(file.stem for file in notebook.parent.glob("*.ipynb"))
    if not names:
        raise UserError(f"{notebook.parent} has no notebooks. Run from the project's folder, or name it with --root.")
    one_of(name, names, "notebook")
    wanted = {"scale": scale, "root": ".."} | dict(parameters or {})
    executed = _execute(notebook, wanted)
    report = root / "reports" / scale / f"{name}.html"
    page = _page(executed, title=name.replace("_", " "))
    with whole_file(report) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return report


def _execute(notebook: Path, wanted: dict[str, object]):
    """The executed notebook, as papermill returns it."""
    with _without("rfc3987_syntax"):
        import papermill
    from nbclient.exceptions import DeadKernelError
    from traitlets.config import Config

    known = papermill.inspect_notebook(notebook)
    for key in wanted:  # papermill itself only warns
        one_of(key, tuple(known), f"parameter of the notebook {notebook.stem}")
    try:
        with _kernel_environment():
            return papermill.execute_notebook(
                notebook,
                None,
                parameters=wanted,
                kernel_name="python3",
                cwd=notebook.parent,
                progress_bar=False,
                start_timeout=600,  # seconds; a busy machine is slow, not broken
                config=Config({"KernelManager": {"transport": "ipc"}}),  # no open port
                shutdown_kernel="immediate",  # a kernel asked politely prints an error about its interruption
            )
    except papermill.PapermillExecutionError as error:
        last = (str(error.evalue).strip() or "no message").splitlines()[-1]
        where = error.source.strip().splitlines()[0] if error.source.strip() else ""
        raise UserError(
            f"notebook {notebook.stem}, code cell {error.exec_count} (`{where}`): {error.ename}: {last}"
        ) from None
    except DeadKernelError:
        raise UserError(
            f"notebook {notebook.stem}: its kernel died, perhaps for lack of memory. Run it again."
        ) from None


@contextlib.contextmanager
def _without(module: str) -> Iterator[None]:
    """Hides an optional module from what is imported meanwhile.

    rfc3987_syntax: jsonschema would check addresses with it; nothing here has any, and its import builds a
    parser for 1.6 s, a fifth of the time of a notebook.
    """
    before = sys.modules.get(module)
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]
        if before is not None:
            sys.modules[module] = before


@contextlib.contextmanager
def _kernel_environment() -> Iterator[None]:
    """What a kernel inherits: one thread, this package, this interpreter, nothing of the user's IPython."""
    with tempfile.TemporaryDirectory() as folder:
        package = str(Path(excursions.__file__).resolve().parents[1])
        ours = {
            "OMP_NUM_THREADS": "1",
            "IPYTHONDIR": folder,
            "JUPYTER_PREFER_ENV_PATH": "1",  # not a kernel of the same name at home
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # a debugger's warning that would be printed
            "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])),
        }
        before = {key: os.environ.get(key) for key in ours}
        os.environ.update(ours)
        try:
            yield
        finally:
            for key, value in before.items():
                if value is None:
                    del os.environ[key]
                else:
                    os.environ[key] = value


def _page(executed, title: str) -> str:
    """The executed notebook as one HTML page without times, paths and links to other servers."""
    from nbconvert import HTMLExporter
    from pygments.formatters import HtmlFormatter

    executed.metadata = {
        "kernelspec": executed.metadata.get("kernelspec", {}),
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(executed.cells):
        cell.metadata = {"tags": cell.metadata.get("tags", [])}
        cell.id = f"cell-{number}"  # papermill gives the cell it adds a random one
        if cell.cell_type == "code":
            cell.execution_count = None
    exporter = HTMLExporter(
        template_name="basic",
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
    )
    body, _ = exporter.from_notebook_node(executed)
    style = CSS + HtmlFormatter(style="default").get_style_defs(".highlight")
    head = f'<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n<style>{style}</style>'
    body = f"<body>\n{body.strip()}\n</body>"
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n</head>\n{body}\n</html>\n'
