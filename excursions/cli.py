"""The command line: `excursions <command> --help`. A mistake of the user is one sentence and exit code 2."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path

from excursions import params
from excursions.params import RECIPES, UserError

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    args = _parser().parse_args(argv)
    try:
        args.run(args)
    except UserError as error:
        # of several processes, each that fails says so
        who = f" (process {os.environ['RANK']})" if os.environ.get("RANK", "0") != "0" else ""
        print(f"excursions{who}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("excursions: interrupted; the same command goes on where this one stopped.", file=sys.stderr)
        return 130
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        print(f"excursions: {error}. What was on disk before is untouched; mend it and start again.", file=sys.stderr)
        return 2
    return 0


def data(args: argparse.Namespace) -> None:
    """Checks the data and writes what was counted."""
    from excursions.data.checks import check_data
    from excursions.files import write_json

    found = check_data(_scale(args))
    write_json(args.root / "results" / args.scale / "data.json", found)
    print(json.dumps(found, indent=1))


def pretrain(args: argparse.Namespace) -> None:
    """Pretrains the suite of checkpoints."""
    from excursions.models.processes import is_launched, leave, relaunch
    from excursions.training.pretrain import pretrain

    if args.suite in _study(args).public_suites:
        raise UserError(f"'{args.suite}' is a public suite of params.yaml; give your own pretraining another --suite.")
    if args.processes < 1:
        raise UserError(f"--processes is {args.processes}; accepted: 1 or more.")
    if args.processes > 1 and not is_launched():
        relaunch(args.processes)
    scratch = args.root / "scratch" / args.scale / args.suite
    pretrain(_scale(args), args.root / "checkpoints" / args.scale / args.suite, scratch)
    leave()


def train(args: argparse.Namespace) -> None:
    """Computes the runs that are not there yet."""
    from excursions.models.processes import leave
    from excursions.models.suites import prepare_suite
    from excursions.study.runs import train_runs

    study, wanted = _study(args), _runs(args)
    if args.suite in study.public_suites:
        prepare_suite(study, args.scale, args.suite, dict.fromkeys(run.checkpoint for run in wanted), args.root)
    train_runs(wanted, _scale(args), args.root)
    leave()


def evaluate(args: argparse.Namespace) -> None:
    """Measures any checkpoint folder: pass@k on the questions of a split, and the general benchmarks."""
    from excursions.evaluation.outcomes import asked_questions, few_shot_examples, measure_general, measure_outcomes
    from excursions.findings import statistics

    scale, model, tokenizer, engine = _loaded(args)
    shown = few_shot_examples(scale, args.shots)
    asked = asked_questions(scale, args.split, args.questions)
    if not asked:
        raise UserError(f"no questions to ask: --questions is {args.questions}; accepted: 1 or more.")
    rows, _ = measure_outcomes(engine, tokenizer, asked, shown, scale.questions, scale.evaluate)
    print(f"{args.split} questions, {args.shots}-shot, {scale.evaluate.samples} samples each")
    for benchmark, of_it in rows.groupby("benchmark"):
        ks = [k for k in (1, 8, 32) if k <= scale.evaluate.samples]
        shown_ks = (f"pass@{k} {statistics.pass_at_k(of_it.n, of_it.correct, k).mean() * 100:5.1f}%" for k in ks)
        print(f"{benchmark:14} {len(of_it):5} questions  " + "  ".join(shown_ks))
    if args.general:
        for row in measure_general(model, tokenizer, scale).itertuples():
            print(f"{row.benchmark:14} {row.n:5} items      accuracy {row.correct / row.n * 100:5.1f}%")


def notebook(args: argparse.Namespace) -> None:
    """Runs one notebook and writes its figures, claims and report."""
    import yaml

    from excursions.findings.notebook import run

    wrong = [pair for pair in args.parameter if "=" not in pair]
    if wrong:
        raise UserError(f"--parameter {wrong[0]}: accepted: name=value, e.g. checkpoint=p56.")
    given = dict(pair.split("=", 1) for pair in args.parameter)
    print(run(args.name, args.scale, args.root, {name: yaml.safe_load(value) for name, value in given.items()}))


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
    from excursions.study.runs import describe_plan

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
    from excursions.evaluation.outcomes import few_shot_examples, load_questions, measure_outcomes

    scale, _, tokenizer, engine = _loaded(args)
    questions = load_questions(scale)
    known = {q.id: q for split in vars(questions).values() for q in split}
    question = known[
        params.one_of(args.question, list(known), "question") if args.question else questions.validation[0].id
    ]
    how = replace(scale.evaluate, samples=args.n, temperature=args.temperature, kept_questions=1)
    shown = few_shot_examples(scale, args.shots)
    _, kept = measure_outcomes(engine, tokenizer, [question], shown, scale.questions, how)
    print(f"{kept[0]['prompt']}   [gold: {question.answer}]")
    for row in kept:
        print(f"{'right' if row['correct'] else 'wrong'} ({row['stop_reason']}): {row['completion']}")


def export(args: argparse.Namespace) -> None:
    """Writes the questions as JSONL and the results as CSV, for other tools."""
    from excursions.evaluation.outcomes import load_questions
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
    return _study(args).scale(args.scale)


def _runs(args: argparse.Namespace) -> list:
    """The runs named by --checkpoint, --recipe and --seed, each of them all of params.yaml by default."""
    from excursions.models.suites import suite_checkpoints
    from excursions.study.runs import Run

    study = _study(args)
    for name in args.recipe:
        params.one_of(name, RECIPES, "recipe")
    there = suite_checkpoints(study, args.scale, args.suite, args.root)
    checkpoints = args.checkpoint or (there if args.suite in study.public_suites else study.checkpoints)
    where = "" if args.checkpoint else " (`checkpoints` of params.yaml, or else --checkpoint, names them)"
    for name in checkpoints:
        params.one_of(name, there, f"checkpoint of {args.scale}, suite {args.suite}{where}")
    return [
        Run(args.scale, args.suite, checkpoint, recipe, seed)
        for checkpoint in checkpoints
        for recipe in args.recipe or study.recipes
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="excursions", description="RL and SFT from checkpoints all along pretraining."
    )
    commands = parser.add_subparsers(metavar="command", required=True)

    def command(function, suite: bool = True, scale: bool = True) -> argparse.ArgumentParser:
        about = function.__doc__.splitlines()[0]
        added = commands.add_parser(function.__name__, help=about, description=about)
        added.set_defaults(run=function)
        added.add_argument("--root", type=Path, default=Path("."), help="the project's folder (default: this folder)")
        if scale:
            added.add_argument("--scale", default="nano", help="block of params.yaml (default: nano)")
        if suite:
            added.add_argument("--suite", default="main", help="suite of checkpoints (default: main)")
        return added

    def which_runs(added: argparse.ArgumentParser) -> None:
        added.add_argument("--checkpoint", nargs="+", default=[], metavar="pNN", help="default: those of params.yaml")
        added.add_argument(
            "--recipe", nargs="+", default=[], help=f"of {', '.join(RECIPES)}; default: those of params.yaml"
        )
        added.add_argument("--seed", nargs="+", type=int, default=[], help="default: those of params.yaml")

    def which_model(added: argparse.ArgumentParser) -> None:
        added.add_argument("--checkpoint", metavar="pNN", help="a checkpoint of the suite (default: its last)")
        added.add_argument("--model", type=Path, help="any Hugging Face folder of a model, instead")
        added.add_argument("--shots", type=int, default=0, help="worked examples in the prompt (default: 0)")

    command(data, suite=False)
    added = command(pretrain)
    added.add_argument(
        "--processes", type=int, default=1, metavar="N", help="share every batch among N processes (default: 1)"
    )
    which_runs(command(train))
    added = command(evaluate)
    which_model(added)
    added.add_argument(
        "--split", choices=("train", "validation", "test"), default="validation", help="default: validation"
    )
    added.add_argument("--questions", type=int, default=50, help="questions per benchmark (default: 50)")
    added.add_argument("--general", action="store_true", help="the six general benchmarks too")
    added = command(notebook, suite=False)
    added.add_argument("name", help="name of a notebook, e.g. early_rl")
    added.add_argument("-p", "--parameter", nargs="+", default=[], metavar="NAME=VALUE", help="of its parameters cell")
    added = command(claims, suite=False)
    added.add_argument("--json", action="store_true", help="as JSON")
    added = command(plan)
    which_runs(added)
    added.add_argument("--reduced", action="store_true", help="details of the reduced study, not of the whole")
    added.add_argument("--gpu-tflops", type=float, help="peak of one GPU (default: 989, an H100 in bf16; a core: 0.1)")
    added.add_argument("--gpu-memory", type=float, metavar="GB", help="of one GPU (default: 80)")
    added.add_argument("--gpus", type=int, help="GPUs of a job (default: 8; at nano and smoke scale 1 core)")
    added.add_argument(
        "--utilization", type=float, help="share of the peak in training and scoring (default: 0.4; a core: 0.45)"
    )
    added.add_argument(
        "--decode-utilization", type=float, help="share of the peak in sampling (default: 0.1; a core: 0.25)"
    )
    added = command(cells)
    which_runs(added)
    added.add_argument(
        "--launcher", default="python", help='what starts a job, e.g. "accelerate launch --num_processes 8"'
    )
    added.add_argument("--json", action="store_true", help='as JSON: [{"id", "command", "needs": [ids]}]')
    added = command(sample)
    which_model(added)
    added.add_argument("--question", help="id of a question (default: the first validation question)")
    added.add_argument("-n", type=int, default=4, help="completions (default: 4)")
    added.add_argument("--temperature", type=float, default=0.6, help="0 = greedy (default: 0.6)")
    added = command(export)
    added.add_argument("--to", type=Path, default=Path("export"), help="folder (default: export)")
    added = command(grade, suite=False, scale=False)
    added.add_argument("--pred", help="a final answer, or a whole solution")
    added.add_argument("--gold", help="the right answer")
    added.add_argument("--jsonl", type=Path, help='file of {"prediction", "gold"} lines; prints one 1/0 a line')
    added = command(smoke, suite=False, scale=False)
    added.add_argument("--keep", type=Path, help="keep the copy in this folder (must not exist)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
