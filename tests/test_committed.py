"""What is committed is what this code computes: fingerprints, the suite, and the first step of one run."""

import subprocess
import sys
from pathlib import Path

import pytest

from excursions import params
from excursions.evaluation.outcomes import make_exam, measure_outcomes
from excursions.findings import estimates, site
from excursions.models.model import load_model
from excursions.models.processes import Processes
from excursions.results import tables as results
from excursions.rollout.engines import start_engine
from excursions.study.run import Run, status
from excursions.training import pretrain
from excursions.training.recipes import training

ROOT = Path(__file__).parents[1]
STUDY = params.load(ROOT / "params.yaml")
NANO = STUDY.scale("nano")


def test_every_run_of_the_study_is_there_and_current():
    wanted = [Run("nano", "main", *cell) for cell in STUDY.cells("nano")]
    assert wanted and {run.name: found for run in wanted if (found := status(run, NANO, ROOT)) != "there"} == {}


def test_the_suite_is_that_of_params_yaml():
    suite = results.load_suite(ROOT, "nano")
    assert suite["fingerprint"] == pretrain.fingerprint(NANO)
    for name in NANO.pretrain.save:
        model, _ = load_model(ROOT / "checkpoints/nano/main" / name)
        assert sum(p.numel() for p in model.parameters()) == suite["parameters"]


def test_tables_are_complete_and_hold_the_contract():
    outcomes, general = results.load_outcomes(ROOT, "nano"), results.load_general(ROOT, "nano")
    first, last = outcomes[outcomes.step == 0], estimates.last_step(outcomes)
    for table in (first, last):
        sizes = table.groupby(["checkpoint", "recipe", "seed", "benchmark"]).size()
        assert (sizes == NANO.questions.test).all()
    assert (outcomes.n == NANO.evaluate.samples).all() and outcomes.correct.between(0, outcomes.n).all()
    assert (general.groupby(["checkpoint", "recipe", "seed"]).size() == 6 * NANO.evaluate.general).all()
    difference = results.load_training(ROOT, "nano")["sampling/sampling_logp_difference/max"]
    assert difference.max() < 1e-2  # what is sampled is what is scored


def test_the_lines_of_the_readme_are_computed():
    lines = site.what_came_out(results.load_tables(ROOT, "nano"))
    said = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(lines) == 5 and "\n".join(f"{number}. {line}" for number, line in enumerate(lines, 1)) in said


def test_the_kept_models_solve_what_their_runs_say():
    """The kept weights are rounded to the precision of the checkpoints, so a few samples go another way."""
    folders = sorted((ROOT / "trained/nano/main").glob("*/*/seed-*"))
    if not folders:
        pytest.skip("no trained model is kept: see keep_models in params.yaml")
    exam = make_exam(NANO, "test", 12, 0)
    for folder in folders:
        run = Run("nano", "main", folder.parts[-3], folder.parts[-2], int(folder.name.removeprefix("seed-")))
        model, tokenizer = load_model(folder)
        rows, _ = measure_outcomes(exam, start_engine(NANO.engine, model, tokenizer), tokenizer, Processes())
        last = estimates.last_step(results.load_files([run.folder(ROOT)], "outcomes")).set_index("question_id")
        gaps = [abs(row["correct"] - last.loc[row["question_id"], "correct"]) / row["n"] for row in rows]
        assert sum(gaps) / len(gaps) < 0.03, (run.name, gaps)
        assert (folder / "README.md").is_file()


def test_base_is_not_saturated_at_the_last_checkpoint():
    """The difficulty of the questions leaves room above the base model."""
    table = estimates.pass_at_k_table(estimates.last_step(results.load_outcomes(ROOT, "nano")))
    base = table[(table.recipe == "base") & (table.checkpoint == STUDY.checkpoints[-1]) & (table.k == 32)]
    solved = base.set_index("benchmark").estimate
    assert solved["easy"] < 80 and solved["hard"] < 60


def test_the_first_step_of_rl_comes_out_again():
    """Another processor rounds otherwise and may draw a few other tokens, hence the tolerance."""
    runs = [Run("nano", "main", *cell) for cell in STUDY.cells("nano") if cell[1] == "rl"]
    if not runs:
        pytest.skip("params.yaml names no run of rl yet")
    run = runs[-1]
    log = results.load_training(ROOT, "nano")
    logged = log[(log.checkpoint == run.checkpoint) & (log.recipe == "rl") & (log.seed == run.seed)].iloc[0]
    model, tokenizer = load_model(run.checkpoint_folder(ROOT))
    here = Processes()
    model = here.place(model)
    engine = start_engine(NANO.engine, here.plain(model), tokenizer)
    metrics = training("rl", model, tokenizer, engine, NANO, run.seed, here).update(1)
    assert metrics["reward"] == pytest.approx(logged["reward"], abs=0.02)
    assert metrics["completions/mean_length"] == pytest.approx(logged["completions/mean_length"], rel=0.03)
    assert metrics["entropy"] == pytest.approx(logged["entropy"], rel=0.03)


def test_that_nothing_is_to_do_is_found_out_without_importing_what_would_do_it():
    asked = ["train", "--root", str(ROOT), "--checkpoint", "p20", "--recipe", "base", "rl", "sft_rl"]
    code = f"import sys; from excursions.cli import main; main({asked}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["11 of 11 runs are there already, 0 to compute", "False"]
