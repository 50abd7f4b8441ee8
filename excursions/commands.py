"""What each command does; what it is for stands in its help, in `cli`.

Heavy imports stand inside the functions; what the arguments name is looked up before, in `arguments`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, replace

from excursions import params
from excursions.arguments import asked_scale, loaded, named_checkpoint, named_runs, scale_of
from excursions.params import UserError
from excursions.study import tries


def data(args: argparse.Namespace) -> None:
    from excursions.data.checks import check_data
    from excursions.data.loading import load_questions
    from excursions.data.prompts import check_round_trip, describe_prompts
    from excursions.data.questions import build_prompt
    from excursions.data.source import open_source
    from excursions.files import write_json
    from excursions.models.suites import prepare_suite
    from excursions.tokens import read_tokenizer

    if args.report and args.suite != "main":
        raise UserError(f"--report is of the study itself, the suite main; found: --suite {args.suite}.")
    study, scale, suite = args.study, scale_of(args), args.study.checkpoint_suite(args.suite)
    found, questions = check_data(scale), load_questions(scale)
    if suite in study.public_suites:
        first = next(iter(study.public_suites[suite].checkpoints))
        tokenizer = read_tokenizer(str(prepare_suite(study, args.scale, suite, [first], args.root)[first]))
    else:
        tokenizer = open_source(scale).tokenizer()
    texts = [text for q in questions.train[:100] for text in (q.text, *q.solutions[:1])]
    check_round_trip(tokenizer, [*texts, build_prompt(texts[0], [], scale.questions)])
    print(describe_prompts(tokenizer, questions, scale.questions, scale.evaluate.shots), file=sys.stderr)
    if args.suite == "main":
        write_json(args.root / "results" / args.scale / "data.json", found)
    print(json.dumps(found, indent=1))  # alone on standard output
    if args.report:
        _report(args)


def _report(args: argparse.Namespace) -> None:
    """Apart from `data`, as the stage of that name does not run it and so does not depend on its code."""
    from excursions.study.calibration import write_report

    print(write_report(args.study, args.scale, args.root))


def pretrain(args: argparse.Namespace) -> None:
    from excursions.models.launch import is_launched, leave, relaunch
    from excursions.study.pretraining import pretrain_suite

    if args.suite in args.study.public_suites:
        raise UserError(f"'{args.suite}' is a public suite of params.yaml; give your own pretraining another --suite.")
    if (lender := args.study.checkpoint_suite(args.suite)) != args.suite:
        raise UserError(
            f"the runs of suite '{args.suite}' start from the checkpoints of '{lender}' (checkpoints_of in "
            f"params.yaml); there is nothing to pretrain but `--suite {lender}`."
        )
    if args.processes > 1 and not is_launched():
        relaunch(args.processes)
    pretrain_suite(scale_of(args), args.root, args.scale, args.suite)
    leave()


def train(args: argparse.Namespace) -> None:
    from excursions.models.launch import leave
    from excursions.study.pool import train_runs
    from excursions.study.run import kept_models, trained

    study, wanted = args.study, named_runs(args)
    keep = trained(wanted) if args.keep_model else kept_models(wanted, study)
    if args.keep_model and not keep:
        raise UserError("--keep-model keeps trained models, and base trains none; name another --recipe.")
    make_ready(args, [run.checkpoint for run in wanted])
    train_runs(wanted, scale_of(args), args.root, keep)
    leave()


def make_ready(args: argparse.Namespace, checkpoints: Iterable[str]) -> None:
    """The checkpoints that a suite borrows, or that others have pretrained, are where its runs look for them."""
    from excursions.models.suites import lend_suite, prepare_suite

    lender = args.study.checkpoint_suite(args.suite)
    if lender in args.study.public_suites:
        prepare_suite(args.study, args.scale, lender, dict.fromkeys(checkpoints), args.root)
    if lender != args.suite:
        lend_suite(args.root, args.scale, lender, args.suite)


def try_(args: argparse.Namespace) -> None:
    study_root, planned = args.root, args.planned
    args.root, args.study = planned.folder, planned.write()
    print(tries.cost_line(named_runs(args), scale_of(args), study_root), flush=True)
    train(args)
    print(f"`excursions compare {args.name}` sets {args.root} against the study")


def compare(args: argparse.Namespace) -> None:
    from excursions.findings.compare import report

    print(report(args.root, args.name))


def watch(args: argparse.Namespace) -> None:
    from excursions.study import live

    file = live.find_log(args.root, args.name)
    print(file.parent)
    for line in live.follow(file):
        print(line, flush=True)


def show(args: argparse.Namespace) -> None:
    from excursions.study.equality import show_runs
    from excursions.study.run import status

    scale, runs = scale_of(args), named_runs(args)
    changed = [run for run in runs if status(run, scale, args.root) == "code changed"]
    unequal = show_runs(changed, scale, args.root)
    print(f"{len(changed) - len(unequal)} of {len(changed)} runs whose code changed are equal and stamped so")
    if unequal:
        raise UserError(f"{len(unequal)} runs are to be computed again: `excursions train`, or `dvc repro`.")


def evaluate(args: argparse.Namespace) -> None:
    for file in args.compare or ():  # before the imports, which take seconds
        if not file.is_file():
            raise UserError(
                f"{file} could not be read: there is no such file; `excursions evaluate --keep` writes one."
            )
    from excursions.evaluation import protocol

    if not (args.compare or args.benchmark):
        _evaluate_split(args)
        return
    found = protocol.compare(*args.compare) if args.compare else _evaluate_by_protocol(args)
    print(json.dumps(found, indent=1) if args.json else "\n".join(protocol.describe(found)))


def _evaluate_by_protocol(args: argparse.Namespace) -> dict:
    from excursions.evaluation.protocol import measure, protocol_exam
    from excursions.models.processes import Processes

    scale = asked_scale(args)
    exam = protocol_exam(scale, args.benchmark, args.shots, args.questions, scale.evaluate)
    _, tokenizer, engine = loaded(args)
    name = args.model or f"{args.suite} {named_checkpoint(args)}"
    return measure(exam, name, engine, tokenizer, Processes(), args.keep)


def _evaluate_split(args: argparse.Namespace) -> None:
    import numpy as np
    import pandas as pd

    from excursions.data.loading import few_shot_examples
    from excursions.data.source import open_source

    few_shot_examples(scale_of(args), args.shots)  # more than there are is told before these are imported
    from excursions.evaluation.outcomes import make_exam, measure_general, measure_outcomes
    from excursions.evaluation.protocol import shares
    from excursions.models.processes import Processes

    scale, split = asked_scale(args), args.split or "validation"
    model, tokenizer, engine = loaded(args)
    exam = make_exam(scale, split, args.questions or 50, args.shots)
    rows = pd.DataFrame(measure_outcomes(exam, engine, tokenizer, Processes())[0])
    print(f"{split} questions, {args.shots}-shot, {scale.evaluate.samples} samples each; Wilson's 95% intervals")
    for benchmark, of_it in rows.groupby("benchmark"):
        found = shares(of_it.n.to_numpy(), of_it.correct.to_numpy())
        shown = (f"{name} {p['estimate']:5.1f}% [{p['low']:.1f}, {p['high']:.1f}]" for name, p in found.items())
        print(f"{benchmark:14} {len(of_it):5} questions  " + "  ".join(shown))
    if args.general:
        items = measure_general(model, tokenizer, open_source(scale).general(), Processes())
        for benchmark, of_it in items.groupby("benchmark", sort=False):
            share = shares(np.ones(len(of_it), int), of_it.correct.to_numpy())["pass@1"]
            interval = f"[{share['low']:.1f}, {share['high']:.1f}]"
            print(f"{benchmark:14} {len(of_it):5} items      accuracy {share['estimate']:5.1f}% {interval}")


def notebook(args: argparse.Namespace) -> None:
    from excursions.findings.notebook import run

    print(run(args.name, args.scale, args.root, args.parameters))


def site(args: argparse.Namespace) -> None:
    from excursions.findings.site import write_site

    print("\n".join(map(str, write_site(args.root, args.scale))))


def claims(args: argparse.Namespace) -> None:
    from excursions.findings.claims import load_claims, print_claims

    found = load_claims(args.root, args.scale)
    if args.json:
        print(json.dumps([claim.row() for claim in found], indent=1))
    else:
        print_claims(found)


def verify(args: argparse.Namespace) -> None:
    from excursions.study.verify import verify

    files, changed = verify(args.root, params.load(args.root / "params.yaml").scales)
    print("\n".join([*changed, f"{len(files) - len(changed)} of {len(files)} byte-identical"]))
    if changed:
        sys.exit(1)


def plan(args: argparse.Namespace) -> None:
    from excursions.models.suites import checkpoint_folder
    from excursions.study.cost_report import describe_costs
    from excursions.study.costs import find_machine
    from excursions.study.plan import describe_plan, measure_steps, prompts_line
    from excursions.study.planning import model_shape, suite_shape

    study, scale, runs = args.study, scale_of(args), named_runs(args)
    lender = study.checkpoint_suite(args.suite)
    public = study.public_suites.get(lender)
    shape = model_shape(scale) if public is None else suite_shape(public, runs[0].checkpoint, args.root)
    machine = find_machine(
        scale,
        tflops=args.gpu_tflops,
        utilization=args.utilization,
        decode_utilization=args.decode_utilization,
        memory_gb=args.gpu_memory,
        count=args.gpus,
    )
    pretrained = public is not None or lender != args.suite
    print("\n".join(describe_costs(runs, scale, shape, args.root, machine, pretrained, args.reduced)))
    print(prompts_line(scale, checkpoint_folder(args.root, args.scale, lender, runs[0].checkpoint, download=False)))
    try:
        print("\n".join(describe_plan(runs, scale, args.root)))
    except UserError as error:  # of checkpoints that are gone, which results are there for
        print(f"which runs are there is not known: {error}")
    if args.measure:
        make_ready(args, [runs[0].checkpoint])
        print("\n".join(measure_steps(runs, scale, args.root)))


def cells(args: argparse.Namespace) -> None:
    from excursions.study.cells import study_cells

    found, remark = study_cells(named_runs(args), args.study, args.root, args.launcher)
    if args.json:
        print(json.dumps([asdict(cell) for cell in found], indent=1))
    else:
        print("\n".join(cell.command for cell in found))
    if remark:
        print(f"excursions: {remark}", file=sys.stderr)


def sample(args: argparse.Namespace) -> None:
    from excursions.data.loading import few_shot_examples, load_questions
    from excursions.data.source import open_source

    scale = scale_of(args)
    questions = load_questions(scale)
    known = {q.id: q for split in vars(questions).values() for q in split}
    question = known[
        params.one_of(args.question, list(known), "question") if args.question else questions.validation[0].id
    ]
    shown, steps = few_shot_examples(scale, args.shots), open_source(scale).check_steps()
    # what is not there is told before these are imported
    from excursions.evaluation.outcomes import Exam, measure_outcomes
    from excursions.models.processes import Processes

    _, tokenizer, engine = loaded(args)
    how = replace(scale.evaluate, samples=args.n, temperature=args.temperature, kept_samples=args.n)
    exam = Exam((question,), shown, scale.questions, how, frozenset([question.id]), steps)
    _, kept = measure_outcomes(exam, engine, tokenizer, Processes())
    print(f"{kept[0]['prompt']}   [gold: {question.answer}]")
    for row in kept:
        print(f"{'right' if row['correct'] else 'wrong'} ({row['stop_reason']}): {row['completion']}")


def export(args: argparse.Namespace) -> None:
    from excursions.data.loading import load_questions
    from excursions.files import whole_file
    from excursions.findings import estimates
    from excursions.results import tables as results

    scale, written = scale_of(args), []
    for split, rows in vars(load_questions(scale)).items():
        written.append(f"questions_{split}.jsonl")
        with whole_file(args.to / written[-1]) as file:
            file.write_text("".join(json.dumps(asdict(q)) + "\n" for q in rows), encoding="utf-8")
    tables = {
        "outcomes": results.load_outcomes(args.root, args.scale, args.suite),
        "general": results.load_general(args.root, args.scale, args.suite),
        "training": results.load_training(args.root, args.scale, args.suite),
    }
    tables["pass_at_k"] = estimates.pass_at_k_table(estimates.last_step(tables["outcomes"]))
    for name, table in tables.items():
        written.append(f"{name}.csv")
        with whole_file(args.to / written[-1]) as file:
            table.to_csv(file, index=False)
    print(f"wrote {', '.join(sorted(written))} to {args.to}")


def grade(args: argparse.Namespace) -> None:
    from excursions.grading.grade import grade_jsonl, is_correct

    if args.jsonl:
        for correct in grade_jsonl(args.jsonl):
            print(int(correct))
    elif args.pred is None or args.gold is None:
        raise UserError("grade needs --pred and --gold, or --jsonl FILE.")
    else:
        print(int(is_correct(args.pred, args.gold)))


def smoke(args: argparse.Namespace) -> None:
    from excursions.study.smoke import run_smoke

    run_smoke(args.root, args.keep)
