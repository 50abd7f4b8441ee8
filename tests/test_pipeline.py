"""The whole pipeline at smoke scale: `dvc repro` in a copy of the project, notebooks included."""

import json
import subprocess
import sys
from pathlib import Path

import yaml

from excursions.params import RECIPES
from excursions.study.smoke import CHECKPOINTS, environment, run_smoke

ROOT = Path(__file__).parents[1]


def test_smoke_runs_everything_and_a_second_time_nothing(tmp_path):
    copy = run_smoke(ROOT, tmp_path / "copy")
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    notebooks = [name for name in stages if name not in ("data", "pretrain", "train", "claims")]
    for name in notebooks:
        for file in (f"figures/smoke/{name}.svg", f"figures/smoke/{name}.png", f"reports/smoke/{name}.html"):
            assert (copy / file).stat().st_size > 1000, file
        if name != "checkpoints":
            assert isinstance(json.loads((copy / f"claims/smoke/{name}.json").read_text()), list)
    assert "smoke" in (copy / "CLAIMS.md").read_text()
    for checkpoint in CHECKPOINTS.strip("[]").split(", "):
        for recipe in RECIPES:
            assert (copy / "results/smoke/main" / checkpoint / recipe / "seed-0/run.json").is_file()
    assert (copy / "results/smoke/main/p20/rl/seed-1/run.json").is_file()
    audit = [sys.executable, "-m", "excursions", "notebook", "audit", "--scale", "smoke"]
    audit += ["-p", "recipe=sft_rl"]
    done = subprocess.run(audit, cwd=copy, env=environment(copy), capture_output=True, text=True)
    assert done.returncode == 0 and Path(done.stdout.strip()).is_file(), done.stderr
    svg = copy / "figures/smoke/early_rl.svg"
    before = svg.read_bytes()
    svg.unlink()
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "repro"], cwd=copy, env=environment(copy), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert svg.read_bytes() == before
    assert "Stage 'early_rl@smoke' is cached" in done.stdout or "Running stage 'early_rl@smoke'" in done.stdout
    assert "Running stage 'train" not in done.stdout and "Running stage 'pretrain" not in done.stdout
