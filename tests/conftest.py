"""Shared fixtures."""

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
DATASETS_CACHE = tempfile.TemporaryDirectory(prefix="excursions-datasets-")  # removed when the tests end
os.environ.setdefault("HF_DATASETS_CACHE", DATASETS_CACHE.name)
torch.set_num_threads(1)
ROOT = Path(__file__).parents[1]


LONGEST = ("test_pipeline", "test_processes", "test_figures", "test_site", "test_hub")


def pytest_collection_modifyitems(items: list) -> None:
    """The files that take longest come first: of two processes none then waits for the other's last file."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of public test data, which is not part of the project."""
    places = [Path(p) for p in (os.environ.get("EXCURSIONS_SHARED"), ROOT.parent / "shared") if p]
    for place in places:
        if (place / "data").is_dir():
            return place
    pytest.skip(f"no public test data: looked for a folder with data/ at {', '.join(map(str, places))}")


@pytest.fixture(scope="session")
def smoke():
    """The smoke block of params.yaml, even smaller."""
    from excursions import params

    scale = params.load(ROOT / "params.yaml").scale("smoke")
    few = replace(scale.evaluate, samples=4, max_new_tokens=12, general=4)
    return replace(scale, evaluate=few, questions=replace(scale.questions, test=3), sft=replace(scale.sft, epochs=2))


@pytest.fixture(scope="session")
def suite(tmp_path_factory, smoke) -> Path:
    """A project folder that holds a pretrained smoke suite."""
    from excursions.training.pretrain import pretrain

    root = tmp_path_factory.mktemp("project")
    pretrain(smoke, root / "checkpoints" / "smoke" / "main", root / "scratch" / "smoke" / "main")
    return root


@pytest.fixture(scope="session")
def hub_project(tmp_path_factory, shared) -> Path:
    """A project folder at hub scale: public text in data/, a suite with random weights, params.yaml (scale paper)."""
    from hub_project import make_project

    return make_project(tmp_path_factory.mktemp("hub") / "project", shared)


@pytest.fixture(scope="session")
def hub_scale(hub_project, shared):
    """The scale of `hub_project`: questions.source is hub, its files are local, its sizes those of a test."""
    from hub_project import make_scale

    return make_scale(hub_project, shared)
