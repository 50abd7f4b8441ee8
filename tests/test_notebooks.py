"""The notebooks keep the house rules, and running one gives the same files every time."""

import shutil
from pathlib import Path

import nbformat
import papermill
import pytest
from synthetic import make_study

from excursions.findings import claims, notebook
from excursions.params import UserError

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PIPELINE = ("checkpoints", *claims.FIGURES, "claims")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project folder with the notebooks and a small made-up study."""
    root = make_study(tmp_path_factory.mktemp("project"))
    shutil.copytree(ROOT / "notebooks", root / "notebooks")
    return root


def test_every_result_has_its_notebook():
    assert {path.stem for path in NOTEBOOKS} == {*PIPELINE, "audit", "explore", "suite"}


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
    made.append(str(notebook.run(name, "nano", project, {"checkpoint": "p20"}).relative_to(project)))
    assert made[-1] == f"reports/nano/{name}.html"
    first = {file: (project / file).read_bytes() for file in made}
    notebook.run(name, "nano", project, {"checkpoint": "p20"})
    assert {file: (project / file).read_bytes() for file in made} == first
    stored = (ROOT / "notebooks" / f"{name}.ipynb").read_bytes()
    assert (project / "notebooks" / f"{name}.ipynb").read_bytes() == stored
    page = first[made[-1]].decode()
    assert len(page) < 1_000_000
    assert "<svg" in page and "Chinchilla" in page and "rl-expands" in page
    assert str(project) not in page and "Traceback (most" not in page
    assert not any(f'{name}="http' in page for name in ("src", "href"))  # it needs no network


def test_mistakes_are_told_with_what_is_accepted(project, tmp_path):
    with pytest.raises(UserError, match="no notebook 'early_lr'.*claims.*Did you mean 'early_rl'"):
        notebook.run("early_lr", "nano", project)
    with pytest.raises(UserError, match="no parameter.*'chekpoint'.*scale, root, checkpoint.*'checkpoint'"):
        notebook.run("sharpening_or_expansion", "nano", project, {"chekpoint": "p20"})
    with pytest.raises(UserError, match="no notebooks"):
        notebook.run("early_rl", "nano", tmp_path)


def test_a_failing_cell_is_named_and_the_old_report_stays(tmp_path):
    cells = [
        nbformat.v4.new_code_cell('scale = "nano"\nroot = ".."', metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("from excursions.params import UserError\nraise UserError('results/x is gone')"),
    ]
    (tmp_path / "notebooks").mkdir()
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    written = nbformat.v4.new_notebook(cells=cells, metadata=kernel)
    nbformat.write(written, tmp_path / "notebooks" / "early_rl.ipynb")
    report = tmp_path / "reports" / "nano" / "early_rl.html"
    report.parent.mkdir(parents=True)
    report.write_text("old")
    with pytest.raises(UserError, match="early_rl, code cell 3 .*from excursions.*UserError: results/x is gone"):
        notebook.run("early_rl", "nano", tmp_path)
    assert report.read_text() == "old"
