"""The launch files, as far as they go without a GPU, SLURM and Ray: launchers are real, clusters are stand-ins."""

import json
import os
import re
import runpy
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from study_file import write_study

from excursions.data.nano import corpus
from excursions.models.model import build_model, save_model
from excursions.params import RECIPES
from excursions.recipes import RECIPES as TABLE

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
# What the launched processes say of themselves, and of the weights they load: the second must not load zeros.
SAY = """
import json, sys
from pathlib import Path
from excursions.models.launch import leave
from excursions.models.processes import Processes
processes, weights = Processes(), []
for folder in sys.argv[1:]:
    from excursions.models.model import load_model
    weights += [p.detach().double().abs().sum().item() for p in load_model(Path(folder))[0].parameters()]
said = processes.join([[processes.describe(), sum(weights)]])
if processes.is_main:
    print(json.dumps(said), flush=True)
leave()
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with launch/, an environment, programs of a cluster in bin/ and the script say.py."""
    shutil.copytree(LAUNCH, tmp_path / "launch")
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    write_study(tmp_path, seeds=[0])
    activate = tmp_path / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.write_text(f'PATH="{Path(sys.executable).parent}:$PATH"\n')
    (tmp_path / "bin").mkdir()
    (tmp_path / "say.py").write_text(SAY)
    return tmp_path


def program(folder: Path, name: str, text: str) -> None:
    """A stand-in for a program, found before the real one."""
    (folder / "bin" / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
    (folder / "bin" / name).chmod(0o755)


def run(folder: Path, command: list, **variables: str) -> subprocess.CompletedProcess:
    """Runs a command there, and shows what it wrote if the test fails."""
    path = os.pathsep.join([str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    code = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    given = {"PATH": path, "PYTHONPATH": code, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | variables
    done = subprocess.run(command, cwd=folder, env=os.environ | given, capture_output=True, text=True, timeout=300)
    print(done.stdout, done.stderr)
    return done


def said(done: subprocess.CompletedProcess) -> list:
    assert done.returncode == 0
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("["))
    return json.loads(line)


def test_one_node(folder, smoke):
    tokenizer = corpus.tokenizer(smoke.questions.seed)
    save_model(build_model(smoke.model, tokenizer, seed=0), tokenizer, folder / "model", "float32")
    state = load_file(folder / "model" / "model.safetensors")
    weights = pytest.approx(sum(w.double().abs().sum().item() for w in state.values()))
    command = "accelerate launch --config_file launch/node.yaml --num_processes 2 --mixed_precision no say.py model"
    about = {"count": 2, "sharded": True, "device": "cpu", "mixed_precision": "no"}
    assert said(run(folder, command.split())) == [[about, weights]] * 2


def free_port() -> int:
    """One of those that slurm_job.sh makes of the id of a job."""
    for port in range(20000, 30000):
        with socket.socket() as tried:
            try:
                tried.bind(("", port))
                return port
            except OSError:
                continue
    pytest.skip("no free port")


def slurm_job(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """The job script on two nodes with one GPU each, which are both this machine."""
    program(folder, "scontrol", "printf '127.0.0.1\\n127.0.0.2\\n'")
    start = 'for node in 0 1; do SLURM_NODEID=$node "${@:2}" & all+=($!); done'
    program(folder, "srun", f'{start}\nfor one in "${{all[@]}}"; do wait -n || {{ kill "${{all[@]}}"; exit 1; }}; done')
    job = {"SLURM_JOB_ID": str(free_port() - 20000), "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": "2",
           "SLURM_GPUS_ON_NODE": "1", "SLURM_CPUS_PER_TASK": "1"}  # fmt: skip
    return run(folder, ["bash", "launch/slurm_job.sh", *arguments], **job)


def test_slurm_job_joins_its_nodes(folder):
    about = {"count": 2, "sharded": True, "device": "cpu", "mixed_precision": "bf16"}
    assert said(slurm_job(folder, "-m", "say")) == [[about, 0]] * 2


def test_slurm_job_fails_with_its_command(folder):
    done = slurm_job(folder, "python", "-c", "print('one process'); raise SystemExit(3)")
    assert (done.stdout, done.returncode) == ("one process\n", 3)


SBATCH = """
number=$(($(ls jobs | wc -l) + 1))
[ "$number" -le "${JOBS:-99}" ] || { echo "no more jobs" >&2; exit 7; }
printf '%s\\n' "$@" > "jobs/$number"
echo "$number;cluster"
"""


def submit(folder: Path, *options: str, **variables: str) -> subprocess.CompletedProcess:
    """Submits smoke scale to a stand-in that writes the arguments of job n to jobs/n."""
    program(folder, "sbatch", SBATCH)
    (folder / "jobs").mkdir()
    return run(folder, [sys.executable, "launch/slurm_submit.py", "--scale", "smoke", *options], **variables)


def test_slurm_jobs_wait_for_what_they_need(folder):
    assert submit(folder, "--nodes", "2", "--checkpoint", "p20", "p88").returncode == 0
    jobs = {}
    for file in (folder / "jobs").iterdir():
        arguments = file.read_text().splitlines()
        script = arguments.index(str(folder / "launch" / "slurm_job.sh"))
        options = dict(option.removeprefix("--").partition("=")[::2] for option in arguments[:script])
        jobs[file.name] = (options, arguments[script + 1 :])
    number = {options["job-name"].removeprefix("smoke/"): job for job, (options, _) in jobs.items()}
    assert len(number) == len(jobs) >= 2 + 2 * 7

    def needs(name: str) -> set[str]:
        waits = jobs[number[name]][0].get("dependency", "afterok")
        kind, *ids = waits.split(":")
        assert kind == "afterok"
        return set(ids)

    assert needs("data") == set()
    assert needs("pretrain") == {number["data"]}
    for checkpoint in ("p20", "p88"):
        cell = {recipe: f"{checkpoint}/{recipe}/seed-0" for recipe in RECIPES}
        for recipe in RECIPES:
            before = cell[TABLE[recipe].parent] if TABLE[recipe].parent else "pretrain"
            assert needs(cell[recipe]) == {number[before]}

    options, words = jobs[number["p88/sft_rl/seed-0"]]
    assert (options["nodes"], options["gpus-per-node"]) == ("2", "8")
    assert words[:3] == ["-m", "excursions", "train"]
    assert re.search("--checkpoint p88 --recipe sft_rl --seed 0", " ".join(words))
    options, words = jobs[number["data"]]
    assert options["nodes"] == "1" and "gpus-per-node" not in options
    assert words[:4] == ["python", "-m", "excursions", "data"]
    for options, _ in jobs.values():
        assert Path(options["output"]).parent.is_dir()  # else SLURM ends the job without a word


def test_slurm_submission_that_stops_half_way(folder):
    code = folder / "excursions" / "__main__.py"  # in place of the project's
    code.parent.mkdir()
    (code.parent / "__init__.py").touch()
    cells = [{"id": name, "command": "true", "needs": []} for name in "abc"]
    code.write_text(f"print({json.dumps(json.dumps(cells))})")
    done = submit(folder, JOBS="2")
    assert done.returncode == 7
    assert "no more jobs" in done.stderr and "refused c" in done.stderr and "scancel 1 2" in done.stderr
    code.write_text("raise SystemExit(2)")
    shutil.rmtree(folder / "jobs")
    assert submit(folder).returncode == 2
    assert not list((folder / "jobs").iterdir())


def test_ray_is_missing(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(sys, "argv", ["ray_cells.py"])
    assert runpy.run_path(str(LAUNCH / "ray_cells.py"))["main"]() == 2
    assert 'pip install "ray[default]"' in capsys.readouterr().err


def test_ray_cell_tells_its_end_and_waits_for_none_that_failed(tmp_path):
    run_cell = runpy.run_path(str(LAUNCH / "ray_cells.py"))["run_cell"]
    log = tmp_path / "p20" / "rl.log"
    code, text = run_cell("python -c 'import sys; print(7 * 6); sys.exit(3)'", log)
    assert code == 3 and "42" in text and str(log) in text
    assert log.read_text() == "42\n"
    assert run_cell("python -c ''", log, (0, ""), (3, text))[0] == 1
    assert log.read_text() == "42\n"  # it did not run
    assert run_cell("python -c ''", log, (0, ""), (0, ""))[0] == 0
