"""What others publish and cite the project by agrees with the project, and names nothing that is not there."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest
import yaml

import excursions

ROOT = Path(__file__).parents[1]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
ZENODO = json.loads((ROOT / ".zenodo.json").read_text(encoding="utf-8"))


def test_citation_and_archive_are_of_this_version():
    assert CITATION["version"] == ZENODO["version"] == excursions.__version__
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", str(CITATION["date-released"]))
    assert CITATION["title"] == ZENODO["title"] and CITATION["license"] == ZENODO["license"] == "MIT"
    (paper,) = CITATION["preferred-citation"]["identifiers"]
    (related,) = ZENODO["related_identifiers"]
    assert paper["value"] == related["identifier"] == "arXiv:2606.04272"


def test_workflows_use_what_is_there():
    workflows = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / ".github/workflows").glob("*.yml")}
    assert set(workflows) == {"ci", "pages"}
    for text in workflows.values():
        assert yaml.safe_load(text)["jobs"]
    (command,) = re.findall(r"run: bash (\S+)", workflows["ci"])
    assert (ROOT / command).is_file()
    (copied,) = re.findall(r"cp -r (.+) site", workflows["pages"])
    assert all((ROOT / name).exists() for name in copied.split())


def test_badges_lead_to_the_published_copy_and_are_replaced_the_next_time(tmp_path):
    spec = importlib.util.spec_from_file_location("badges", ROOT / ".github/badges.py")
    badges = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(badges)
    (tmp_path / "notebooks").mkdir()
    for name in ("README.md", badges.NOTEBOOK, "CITATION.cff"):
        shutil.copy(ROOT / name, tmp_path / name)
    for repository in ("first/one", "o-ne/ano.ther"):
        badges.write(tmp_path, repository)
        readme = (tmp_path / "README.md").read_text(encoding="utf-8")
        assert readme.index("badges") < readme.index("**When, during pretraining")
        found = re.findall(r"^\[!\[\w+\]\((\S+)\)\]\((\S+)\)$", readme, re.MULTILINE)
        assert len(found) == 4 and all(url.startswith("https://") for pair in found for url in pair)
        targets = [target for _, target in found]
        assert sum(repository in target for target in targets) == 3 and (ROOT / badges.NOTEBOOK).is_file()
        assert all(target.endswith(badges.NOTEBOOK) for target in targets[2:])
        address = f"https://github.com/{repository}"
        assert yaml.safe_load((tmp_path / "CITATION.cff").read_text(encoding="utf-8")) == CITATION | {
            "repository-code": address
        }
        notebook = nbformat.read(tmp_path / badges.NOTEBOOK, as_version=4)
        assert f'    address = "{address}"\n' in notebook.cells[3].source
    for wrong in ("", "name", "https://github.com/a/b", "a/b c"):
        with pytest.raises(SystemExit, match="accepted: owner/name"):
            badges.write(tmp_path, wrong)


def test_pages_are_published_with_all_that_they_link_to():
    (copied,) = re.findall(r"cp -r (.+) site", (ROOT / ".github/workflows/pages.yml").read_text(encoding="utf-8"))
    templates = [path.read_text(encoding="utf-8") for path in (ROOT / "excursions/findings/pages").rglob("*.j2")]
    templates.append((ROOT / "excursions/findings/pages/explorer.js").read_text(encoding="utf-8"))
    linked = {name for text in templates for name in re.findall(r"\.\./\.\./([\w.]+)", text)}
    assert linked and linked <= set(copied.split())


def test_the_container_makes_what_the_makefile_has():
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"&& make ([\w./-]+)", text) + re.findall(r'"make", "(\w+)"', text)
    assert targets == [".venv/.installed", "repro"]
    for target in targets:
        assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), target
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert {".venv", ".venv-vllm", "scratch"} <= set(ignored) and ".git" not in ignored
