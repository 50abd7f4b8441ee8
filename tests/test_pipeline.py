"""The whole pipeline at smoke scale: `dvc repro` in a copy of the project, notebooks included."""

import json
import subprocess
import sys
from pathlib import Path

import yaml

from excursions.findings.claims import FIGURES
from excursions.params import RECIPES
from excursions.study.smoke import CHECKPOINTS, environment, run_smoke

ROOT = Path(__file__).parents[1]


def test_smoke_runs_everything_and_a_second_time_nothing(tmp_path):
    copy = run_smoke(ROOT, tmp_path / "copy")
    made = [
        out for stage in yaml.safe_load((copy / "dvc.lock").read_text())["stages"].values() for out in stage["outs"]
    ]
    for file in (copy / out["path"] for out in made):
        assert file.is_dir() or file.stat().st_size > 1, file
        if file.suffix in (".svg", ".png", ".html"):
            assert file.stat().st_size > 1000, file
        if file.parent.parent.name == "claims":
            assert isinstance(json.loads(file.read_text()), list)
    assert {path.stem for path in (copy / "claims/smoke").iterdir()} == set(FIGURES)
    assert "smoke" in (copy / "CLAIMS.md").read_text()
    for checkpoint in CHECKPOINTS:
        for recipe in RECIPES:
            assert (copy / "results/smoke/main" / checkpoint / recipe / "seed-0/run.json").is_file()
    assert (copy / "results/smoke/main/p20/rl/seed-1/run.json").is_file()
    audit = [sys.executable, "-m", "excursions", "notebook", "audit", "--scale", "smoke"]
    audit += ["-p", "recipe=sft_rl"]
    done = subprocess.run(audit, cwd=copy, env=environment(copy), capture_output=True, text=True)
    *verdicts, report = done.stdout.splitlines()
    assert done.returncode == 0 and Path(report).is_file(), done.stderr
    assert len(verdicts) > 3 and all(line.startswith("PASS ") for line in verdicts)
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
