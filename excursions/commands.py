"""What each command does. Heavy imports stand inside the functions: a mistake in the arguments costs no time."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace

from excursions import params
from excursions.params import RECIPES, UserError


def data(args: argparse.Namespace) -> None:
    """Checks the data and writes what was counted."""
    from excursions.data.checks import check_data
    from excursions.files import write_json

    found = check_data(_scale(args))
    write_json(args.root / "results" / args.scale / "data.json", found)
    print(json.dumps(found, indent=1))


def pretrain(args: argparse.Namespace) -> None:
    """Pretrains the suite of checkpoints."""
    from excursions.models.launch import is_launched, leave, relaunch
    from excursions.study.pretraining import pretrain_suite

    if args.suite in _study(args).public_suites:
        raise UserError(f"'{args.suite}' is a public suite of params.yaml; give your own pretraining another --suite.")
    if args.processes < 1:
        raise UserError(f"--processes is {args.processes}; accepted: 1 or more.")
    if args.processes > 1 and not is_launched():
        relaunch(args.processes)
    pretrain_suite(_scale(args), args.root, args.scale, args.suite)
    leave()


def train(args: argparse.Namespace) -> None:
    """Computes the runs that are not there yet."""
    from excursions.models.launch import leave
    from excursions.models.suites import lend_suite, prepare_suite
    from excursions.study.one_run import kept_models
    from excursions.study.pool import train_runs

    study, wanted = _study(args), _runs(args)
    if args.suite in study.public_suites:
        prepare_suite(study, args.scale, args.suite, dict.fromkeys(run.checkpoint for run in wanted), args.root)
    elif (of := study.checkpoint_suite(args.suite)) != args.suite:
        lend_suite(args.root, args.scale, of, args.suite)
    keep = set(wanted) if args.keep_model else kept_models(wanted, study.keep_models)
    train_runs(wanted, _scale(args), args.root, keep)
    leave()


def show(args: argparse.Namespace) -> None:
    """Shows that runs whose code has changed come out as they were: their first steps again, not all of them."""
    from excursions.study.equality import show_runs
    from excursions.study.run import status

    scale, runs = _scale(args), _runs(args)
    changed = [run for run in runs if status(run, scale, args.root) == "code changed"]
    unequal = show_runs(changed, scale, args.root)
    print(f"{len(changed) - len(unequal)} of {len(changed)} runs whose code changed are equal and stamped so")
    if unequal:
        raise UserError(f"{len(unequal)} runs are to be computed again: `excursions train`, or `dvc repro`.")


def evaluate(args: argparse.Namespace) -> None:
    """Measures any checkpoint folder: pass@k on the questions of a split, and the general benchmarks."""
    import pandas as pd

    from excursions.data.source import open_source
    from excursions.evaluation.outcomes import make_exam, measure_general, measure_outcomes
    from excursions.findings import statistics
    from excursions.models.processes import Processes

    if args.questions < 1:
        raise UserError(f"--questions is {args.questions}; accepted: 1 or more.")
    scale, model, tokenizer, engine = _loaded(args)
    exam = make_exam(scale, args.split, args.questions, args.shots)
    rows = pd.DataFrame(measure_outcomes(exam, engine, tokenizer, Processes())[0])
    print(f"{args.split} questions, {args.shots}-shot, {scale.evaluate.samples} samples each")
    for benchmark, of_it in rows.groupby("benchmark"):
        ks = [k for k in (1, 8, 32) if k <= scale.evaluate.samples]
        shown_ks = (f"pass@{k} {statistics.pass_at_k(of_it.n, of_it.correct, k).mean() * 100:5.1f}%" for k in ks)
        print(f"{benchmark:14} {len(of_it):5} questions  " + "  ".join(shown_ks))
    if args.general:
        items = measure_general(model, tokenizer, open_source(scale).general(), Processes())
        for benchmark, of_it in items.groupby("benchmark", sort=False):
            print(f"{benchmark:14} {len(of_it):5} items      accuracy {of_it.correct.mean() * 100:5.1f}%")


def notebook(args: argparse.Namespace) -> None:
    """Runs one notebook and writes its figures, claims and report."""
    import yaml

    from excursions.findings.notebook import run

    wrong = [pair for pair in args.parameter if "=" not in pair]
    if wrong:
        raise UserError(f"--parameter {wrong[0]}: accepted: name=value, e.g. checkpoint=p56.")
    given = dict(pair.split("=", 1) for pair in args.parameter)
    print(run(args.name, args.scale, args.root, {name: yaml.safe_load(value) for name, value in given.items()}))


def site(args: argparse.Namespace) -> None:
    """Writes the pages of the site that are no notebook: the overview, the explorer, the samples."""
    from excursions.findings.site import write_site

    print("\n".join(map(str, write_site(args.root, args.scale))))


def claims(args: argparse.Namespace) -> None:
    """Prints the claims with their measured effects and verdicts."""
    from excursions.findings.claims import load_claims, print_claims

    found = load_claims(args.root, args.scale)
    if args.json:
        print(json.dumps([claim.row() for claim in found], indent=1))
    else:
        print_claims(found)


def plan(args: argparse.Namespace) -> None:
    """Prints what the study costs (FLOPs, hours, memory, disk), and which of its runs are there already."""
    from excursions.study.costs import describe_costs, find_machine
    from excursions.study.plan import describe_plan

    study, scale, runs = _study(args), _scale(args), _runs(args)
    machine = find_machine(
        scale,
        tflops=args.gpu_tflops,
        utilization=args.utilization,
        decode_utilization=args.decode_utilization,
        memory_gb=args.gpu_memory,
        count=args.gpus,
    )
    print("\n".join(describe_costs(runs, scale, args.root, machine, args.suite in study.public_suites, args.reduced)))
    try:
        print("\n".join(describe_plan(runs, scale, args.root)))
    except UserError as error:  # of checkpoints that are gone, which results are there for
        print(f"which runs are there is not known: {error}")


def cells(args: argparse.Namespace) -> None:
    """Lists the commands of the study in dependency order, one job a line, for a shell or a cluster."""
    from excursions.study.cells import study_cells

    found, remark = study_cells(_runs(args), _study(args), args.root, args.launcher)
    if args.json:
        print(json.dumps([asdict(cell) for cell in found], indent=1))
    else:
        print("\n".join(cell.command for cell in found))
    if remark:
        print(f"excursions: {remark}", file=sys.stderr)


def sample(args: argparse.Namespace) -> None:
    """Prints completions of a question by a checkpoint, each with its grade."""
    from excursions.data.loading import few_shot_examples, load_questions
    from excursions.data.source import open_source
    from excursions.evaluation.outcomes import Exam, measure_outcomes
    from excursions.models.processes import Processes

    scale, _, tokenizer, engine = _loaded(args)
    questions = load_questions(scale)
    known = {q.id: q for split in vars(questions).values() for q in split}
    question = known[
        params.one_of(args.question, list(known), "question") if args.question else questions.validation[0].id
    ]
    how = replace(scale.evaluate, samples=args.n, temperature=args.temperature, kept_samples=args.n)
    shown, steps = few_shot_examples(scale, args.shots), open_source(scale).check_steps()
    exam = Exam((question,), shown, scale.questions, how, frozenset([question.id]), steps)
    _, kept = measure_outcomes(exam, engine, tokenizer, Processes())
    print(f"{kept[0]['prompt']}   [gold: {question.answer}]")
    for row in kept:
        print(f"{'right' if row['correct'] else 'wrong'} ({row['stop_reason']}): {row['completion']}")


def export(args: argparse.Namespace) -> None:
    """Writes the questions as JSONL and the results as CSV, for other tools."""
    from excursions.data.loading import load_questions
    from excursions.files import whole_file
    from excursions.findings import estimates
    from excursions.results import tables as results

    scale = _scale(args)
    for split, rows in vars(load_questions(scale)).items():
        with whole_file(args.to / f"questions_{split}.jsonl") as file:
            file.write_text("".join(json.dumps(asdict(q)) + "\n" for q in rows), encoding="utf-8")
    tables = {
        "outcomes": results.load_outcomes(args.root, args.scale, args.suite),
        "general": results.load_general(args.root, args.scale, args.suite),
        "training": results.load_training(args.root, args.scale, args.suite),
    }
    tables["pass_at_k"] = estimates.pass_at_k_table(estimates.last_step(tables["outcomes"]))
    for name, table in tables.items():
        with whole_file(args.to / f"{name}.csv") as file:
            table.to_csv(file, index=False)
    print(f"wrote {', '.join(sorted(f.name for f in args.to.iterdir()))} to {args.to}")


def grade(args: argparse.Namespace) -> None:
    """Grades one prediction, or the lines of a file."""
    from excursions.grading.grade import grade_jsonl, is_correct

    if args.jsonl:
        print("\n".join(str(int(correct)) for correct in grade_jsonl(args.jsonl)))
    elif args.pred is None or args.gold is None:
        raise UserError("grade needs --pred and --gold, or --jsonl FILE.")
    else:
        print(int(is_correct(args.pred, args.gold)))


def smoke(args: argparse.Namespace) -> None:
    """Runs the whole pipeline at smoke scale in a temporary copy of the project."""
    from excursions.study.smoke import run_smoke

    run_smoke(args.root, args.keep)


def _study(args: argparse.Namespace) -> params.Study:
    return params.load(args.root / "params.yaml")


def _scale(args: argparse.Namespace) -> params.Scale:
    return _study(args).scale(args.scale, getattr(args, "suite", "main"))


def _runs(args: argparse.Namespace) -> list:
    """The runs named by --checkpoint, --recipe and --seed, each of them all of params.yaml by default."""
    from excursions.models.suites import suite_checkpoints
    from excursions.study.run import Run

    study = _study(args)
    for name in args.recipe:
        params.one_of(name, RECIPES, "recipe")
    there = suite_checkpoints(study, args.scale, args.suite, args.root)
    about = study.suites.get(args.suite, study)
    checkpoints = args.checkpoint or list(about.checkpoints)
    where = "" if args.checkpoint else " (`checkpoints` of params.yaml, or else --checkpoint, names them)"
    for name in checkpoints:
        params.one_of(name, there, f"checkpoint of {args.scale}, suite {args.suite}{where}")
    return [
        Run(args.scale, args.suite, checkpoint, recipe, seed)
        for checkpoint in checkpoints
        for recipe in args.recipe or getattr(about, "recipes", study.recipes)
        for seed in args.seed or study.seeds_of(recipe, checkpoint, args.suite)
    ]


def _loaded(args: argparse.Namespace) -> tuple:
    """The scale, and the model of --model or --checkpoint with its tokenizer and an engine that samples from it."""
    from excursions.models.model import load_model, one_thread
    from excursions.models.suites import prepare_suite, suite_checkpoints
    from excursions.rollout.engines import start_engine

    one_thread()
    study, scale = _study(args), _scale(args)
    folder = args.model
    if folder is None:
        there = suite_checkpoints(study, args.scale, args.suite, args.root)
        name = params.one_of(args.checkpoint or there[-1], there, f"checkpoint of {args.scale}, suite {args.suite}")
        if args.suite in study.public_suites:
            folder = prepare_suite(study, args.scale, args.suite, [name], args.root)[name]
        else:
            folder = args.root / "checkpoints" / args.scale / args.suite / name
    model, tokenizer = load_model(folder)
    return scale, model, tokenizer, start_engine(scale.engine, model, tokenizer)
