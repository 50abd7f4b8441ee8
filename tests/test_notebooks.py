"""The notebooks keep the house rules, and running one gives the same files every time, wherever and beside whatever."""

import json
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import papermill
import pytest
from synthetic import make_study

from excursions.findings import claims, notebook, report
from excursions.findings.kernel import execute
from excursions.params import UserError

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PIPELINE = ("checkpoints", *claims.FIGURES, "phase_map", "combination", "claims")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project folder with the notebooks and a small made-up study."""
    root = make_study(tmp_path_factory.mktemp("project"))
    shutil.copytree(ROOT / "notebooks", root / "notebooks")
    return root


def test_every_result_has_its_notebook():
    assert {path.stem for path in NOTEBOOKS} == {*PIPELINE, "00_start_here", "audit", "explore", "suite"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_thin_and_stored_without_outputs(path):
    found = nbformat.read(path, as_version=4)
    nbformat.validate(found)
    assert (found.nbformat, found.nbformat_minor) == (4, 5)
    assert found.metadata.kernelspec.name == "python3"
    assert len({cell.id for cell in found.cells}) == len(found.cells)
    assert found.cells[0].source.startswith("# ")
    code = [cell for cell in found.cells if cell.cell_type == "code"]
    assert code[0].metadata.tags == ["parameters"] and 'root = ".."' in code[0].source
    for cell in code:
        assert cell.outputs == [] and cell.execution_count is None
        lines = cell.source.splitlines()
        assert len(lines) <= 12
        assert not any(line.lstrip().startswith(("def ", "class ", "async def ")) for line in lines)
    known = papermill.inspect_notebook(path)
    assert known["scale"]["default"] == '"nano"' and known["root"]["default"] == '".."'


def test_running_twice_gives_the_same_bytes(project):
    name = "sharpening_or_expansion"
    made = [f"figures/nano/{name}.svg", f"figures/nano/{name}.png", f"claims/nano/{name}.json"]
    made.append(str(notebook.run(name, "nano", project).relative_to(project)))
    assert made[-1] == f"reports/nano/{name}.html"
    first = {file: (project / file).read_bytes() for file in made}
    notebook.run(name, "nano", project)
    assert {file: (project / file).read_bytes() for file in made} == first
    stored = (ROOT / "notebooks" / f"{name}.ipynb").read_bytes()
    assert (project / "notebooks" / f"{name}.ipynb").read_bytes() == stored
    page = first[made[-1]].decode()
    assert len(page) < 1_000_000
    assert "<svg" in page and "Chinchilla" in page and "rl-expands" in page
    assert str(project) not in page and "Traceback (most" not in page
    assert not any(f'{name}="http' in page for name in ("src", "href"))  # it needs no network


def _write_notebook(folder: Path, name: str, *sources: str) -> Path:
    """A notebook in folder/notebooks whose first cell holds the parameters."""
    tags = {"tags": ["parameters"]}
    cells = [
        nbformat.v4.new_code_cell(source, metadata={} if number else tags) for number, source in enumerate(sources)
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    (folder / "notebooks").mkdir(exist_ok=True)
    path = folder / "notebooks" / f"{name}.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    return path


def test_six_notebooks_run_at_once_in_a_kernel_that_nothing_of_the_user_reaches(tmp_path, monkeypatch):
    stray = tmp_path / "stray" / "kernels" / "python3"
    stray.mkdir(parents=True)
    spec = {"argv": ["false"], "display_name": "stray", "language": "python"}
    (stray / "kernel.json").write_text(json.dumps(spec))
    startup = tmp_path / "stray" / "profile_default" / "startup" / "00.py"
    startup.parent.mkdir(parents=True)
    startup.write_text("print('stray')")
    for name in ("JUPYTER_PATH", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, str(tmp_path / "stray"))
    monkeypatch.setattr(sys, "executable", os.path.relpath(sys.executable))  # as with a relative folder in PATH
    for name, value in {"HOME": "/dev/null", "MPLBACKEND": "agg", "PYTHONOPTIMIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    shown = "import sys, matplotlib\nprint(n, __debug__, sys.executable, matplotlib.get_backend())"
    path = _write_notebook(tmp_path, "six", "n = 0", shown)
    with ThreadPoolExecutor(6) as pool:
        executed = list(pool.map(lambda n: execute(path, {"n": n}), range(6)))
    for n, found in enumerate(executed):
        (output,) = found.cells[-1].outputs
        assert output.text.split() == [
            str(n),
            "True",
            os.path.abspath(sys.executable),
            "module://matplotlib_inline.backend_inline",
        ]


def test_names_are_escaped_in_attributes(tmp_path):
    figure = pytest.importorskip("matplotlib.figure").Figure()
    shown = report.show(figure, tmp_path, "nano", 'suite_"onload="x').data
    assert 'aria-label="suite &quot;onload=&quot;x"' in shown


def test_a_suite_has_a_report_of_its_own_and_a_name(tmp_path):
    _write_notebook(tmp_path, "early_rl", 'scale = "nano"\nroot = ".."\nsuite = "main"', "suite")
    claims.claims_file(tmp_path, "nano", "early_rl").parent.mkdir(parents=True)
    shutil.copy(claims.claims_file(ROOT, "nano", "early_rl"), claims.claims_file(tmp_path, "nano", "early_rl"))
    pages = [notebook.run("early_rl", "nano", tmp_path, {"suite": name}) for name in ("tiny", "main")]
    assert [page.name for page in pages] == ["early_rl_tiny.html", "early_rl.html"]
    # the claims are of the study itself
    assert ["rl-matches-sft-rl-early" in page.read_text() for page in pages] == [False, True]


def test_a_failing_cell_is_named_and_the_old_report_stays(tmp_path):
    _write_notebook(
        tmp_path,
        "early_rl",
        'scale = "nano"\nroot = ".."',
        "from excursions.params import UserError\nraise UserError('results/x is gone')",
    )
    page = tmp_path / "reports" / "nano" / "early_rl.html"
    page.parent.mkdir(parents=True)
    page.write_text("old")
    with pytest.raises(UserError, match="early_rl, code cell 3 .*from excursions.*UserError: results/x is gone"):
        notebook.run("early_rl", "nano", tmp_path)
    assert page.read_text() == "old"
