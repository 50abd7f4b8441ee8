"""The command line: `excursions <command> --help`. A mistake of the user is one sentence and exit code 2."""

from __future__ import annotations

import argparse
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from excursions import __version__, arguments, commands
from excursions.keys import Range, nearest
from excursions.params import ENGINES, RECIPES, SEED, UserError

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


class Once(argparse.Action):
    """Keeps the value of an option; given twice, it is an error, and not the last value."""

    def __call__(self, parser, namespace, values, option_string=None):
        """Raises UserError the second time."""
        given = vars(namespace).setdefault("given", set())
        if option_string in given:
            raise UserError(f"{option_string} is given twice; it takes one value. `{parser.prog} --help` tells more.")
        given.add(option_string)
        setattr(namespace, self.dest, values)


class Parser(argparse.ArgumentParser):
    """Says a mistake as the commands do."""

    def __init__(self, **how) -> None:
        super().__init__(**how)
        self.register("action", None, Once)

    def error(self, message: str) -> NoReturn:
        """Raises UserError."""
        raise UserError(f"{message}. `{self.prog} --help` tells more.")


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        args = _parse(argv)
        arguments.check(args)
        args.run(args)
    except UserError as error:
        # of several processes, each that fails says so
        who = f" (process {os.environ['RANK']})" if os.environ.get("RANK", "0") != "0" else ""
        print(f"excursions{who}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = {*argv[:1]} & {"pretrain", "train", "try", "show"}  # these keep what they have done
        goes_on = "; the same command goes on where this one stopped" if kept else ""
        print(f"excursions: interrupted{goes_on}.", file=sys.stderr)
        return 130
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        print(f"excursions: {error}. What was on disk before is untouched; mend it and start again.", file=sys.stderr)
        return 2
    except Exception as error:
        if os.environ.get("EXCURSIONS_TRACEBACK"):
            raise
        print(f"excursions: {_unforeseen(error)}", file=sys.stderr)
        return 1
    return 0


def _unforeseen(error: Exception) -> str:
    """What to say of an error that no check has met: where it arose, and how to see more."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    said = " ".join(str(error).split())[:300] or "no message"
    return (
        f"unforeseen {type(error).__name__}: {said} ({Path(last.filename).name}, line {last.lineno}). Either a file is "
        "damaged in a way that is not checked, or this is a fault of the program; with EXCURSIONS_TRACEBACK=1 in the "
        "environment the same command shows all of it."
    )


def _parse(argv: list[str]) -> argparse.Namespace:
    """Raises UserError for what is no command, option or value, with what comes near it."""
    parser, by_name = _parser()
    if argv and not argv[0].startswith("-") and argv[0] not in by_name:
        raise UserError(f"There is no command '{argv[0]}'; accepted: {', '.join(by_name)}.{nearest(argv[0], by_name)}")
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        command = by_name[_name(args.run)]
        accepted = re.findall(r"--[a-z-]+", command.format_usage())
        raise UserError(f"`{command.prog}` takes no '{unknown[0]}'.{nearest(unknown[0], accepted)}")
    return args


def _name(function: Callable) -> str:
    """Of a command; `try` is a word of Python, so its function is `try_`."""
    return function.__name__.rstrip("_")


def _number(kind: type[int] | type[float], accepts: Range) -> Callable[[str], float]:
    """The type of an argument that is a number of a range."""

    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or value not in accepts:
            word = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text} is not {word}, {accepts}")
        return value

    return read


NATURAL, COUNT, THREADS = (_number(int, accepts) for accepts in (Range(0, 10**6), Range(1, 10**6), Range(1, 1024)))
POSITIVE, SHARE = _number(float, Range(0, above=True)), _number(float, Range(0, 1, above=True))


def _parser() -> tuple[Parser, dict[str, Parser]]:
    """The parser, and those of the commands by their names."""
    parser = Parser(prog="excursions", description="RL and SFT from checkpoints all along pretraining.")
    parser.add_argument("--version", action="version", version=f"excursions {__version__}")
    subparsers = parser.add_subparsers(metavar="command", required=True)

    def command(function: Callable, about: str, *examples: str, suite: bool = True, scale: bool = True) -> Parser:
        lines = "".join(f"\n  excursions {_name(function)} {example}".rstrip() for example in examples)
        added = subparsers.add_parser(
            _name(function), help=about, description=about, epilog=f"for example:{lines}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        added.set_defaults(run=function)
        added.add_argument("--root", type=Path, default=Path("."), help="the project's folder (default: this folder)")
        if scale:
            added.add_argument("--scale", default="nano", help="block of params.yaml (default: nano)")
        if suite:
            added.add_argument("--suite", default="main", help="suite of checkpoints (default: main)")
        return added

    def several(added: Parser, *names: str, about: str, **more) -> None:
        """An option with one value or more, which can be given again."""
        added.add_argument(*names, nargs="+", action="extend", default=[], help=about, **more)

    def which_runs(added: Parser) -> None:
        several(added, "--checkpoint", about="default: those of params.yaml", metavar="pNN")
        several(added, "--recipe", about=f"of {', '.join(RECIPES)}; default: those of params.yaml")
        several(added, "--seed", about="default: those of params.yaml", type=_number(int, SEED))

    def which_model(added: Parser) -> None:
        added.add_argument("--checkpoint", metavar="pNN", help="a checkpoint of the suite (default: its last)")
        added.add_argument("--model", metavar="FOLDER|NAME[@REVISION]", help="any Hugging Face model, instead")
        added.add_argument(
            "--recipe",
            dest="kept",
            metavar="RECIPE[/seed-K]",
            help="what it became by this recipe, kept in trained/ (default seed: 0)",
        )
        added.add_argument("--shots", type=NATURAL, default=0, help="worked examples in the prompt (default: 0)")
        added.add_argument(
            "--engine", choices=ENGINES, help="what samples (default: that of the scale; transformers for --model)"
        )
        added.add_argument("--threads", type=THREADS, help="on a CPU (default: OMP_NUM_THREADS, or else all cores)")

    added = command(
        commands.data,
        "Checks the data and the tokenizer, shows a prompt of each kind token by token, and writes what was counted.",
        "--scale smoke",
        "--scale paper --suite pythia-1b",
        "--report",
    )
    added.add_argument(
        "--report", action="store_true", help="measure the pretrained suite, too, and write docs/calibration.md"
    )
    added = command(
        commands.pretrain,
        "Pretrains a suite of checkpoints.",
        "--scale smoke",
        "--scale nano --suite larger --processes 2",
    )
    share = "share every batch among N processes (default: 1)"
    added.add_argument("--processes", type=THREADS, default=1, metavar="N", help=share)
    added = command(
        commands.train, "Computes the runs that are not there yet.", "--checkpoint p20 --recipe rl sft --seed 0 1"
    )
    which_runs(added)
    added.add_argument("--keep-model", action="store_true", help="keep the trained models, in trained/")
    added = command(
        commands.try_,
        "Computes a variant of a recipe beside the study, in tries/<name>/, and says before what it costs.",
        "--checkpoint p40 --recipe rl --set rl.learning_rate=2e-4 --name lr2",
        suite=False,
    )
    added.set_defaults(suite="main", keep_model=False)
    added.add_argument("--checkpoint", nargs=1, required=True, metavar="pNN", help="that it starts from")
    added.add_argument("--recipe", nargs=1, required=True, help=f"of {', '.join(RECIPES)}")
    several(added, "--seed", about="default: 0", type=_number(int, SEED))
    several(added, "--set", about="what it changes of the scale's block of params.yaml", metavar="BLOCK.KEY=VALUE")
    added.add_argument("--name", required=True, help="of its folder; with the same settings it goes on there")
    added = command(
        commands.compare,
        "Sets a try against the study's run of the same checkpoint, recipe and seed, paired on the questions.",
        "lr2",
        suite=False,
        scale=False,
    )
    added.add_argument("name", help="of the try")
    added = command(
        commands.watch,
        "Prints the steps of a run while it trains: reward, share of groups without signal, entropy, length.",
        "",
        "p40/rl/seed-0",
        "lr2",
        suite=False,
        scale=False,
    )
    added.add_argument("name", nargs="?", help="of a run or a try (default: the one that wrote last)")
    which_runs(
        command(
            commands.show,
            "Shows that runs whose code has changed come out as they were: their first steps again, not all of them.",
            "",
            "--checkpoint p20 --recipe rl",
        )
    )
    added = command(
        commands.evaluate,
        "Measures any model: pass@k on questions of the study, or on one benchmark's test set as the paper does.",
        "--checkpoint p40 --shots 2 --general",
        "--checkpoint p20 --recipe rl",
        "--model EleutherAI/pythia-1b@step3000 --benchmark gsm8k --shots 8 --samples 32 --keep a.jsonl",
        "--compare a.jsonl b.jsonl",
    )
    which_model(added)
    added.set_defaults(scale=None)  # the one that has the benchmark
    added.add_argument("--split", choices=("train", "validation", "test"), help="of the study (default: validation)")
    added.add_argument("--general", action="store_true", help="the six general benchmarks too")
    added.add_argument("--benchmark", help="the test set of this one, e.g. gsm8k of scale paper, instead")
    added.add_argument("--questions", type=COUNT, help="of a benchmark (default: 50; with --benchmark all)")
    added.add_argument("--samples", type=COUNT, help="of each question (default: evaluate.samples of the scale)")
    added.add_argument("--max-new-tokens", type=COUNT, help="default: evaluate.max_new_tokens of the scale")
    added.add_argument("--keep", type=Path, help="a file for prompts, completions and grades, as JSON lines")
    added.add_argument("--json", action="store_true", help="print JSON")
    added.add_argument(
        "--compare", nargs=2, type=Path, metavar="KEPT", help="two files of --keep in pairs; measures nothing"
    )
    added = command(
        commands.notebook,
        "Runs one notebook and writes its figures, claims and report.",
        "early_rl",
        "audit -p checkpoint=p56 recipe=parallel",
        suite=False,
    )
    added.add_argument("name", help="name of a notebook, e.g. early_rl")
    several(added, "-p", "--parameter", about="of its parameters cell", metavar="NAME=VALUE")
    command(
        commands.site,
        "Writes the pages of the site that are no notebook: the overview, the explorer, the samples.",
        "--scale nano",
        suite=False,
    )
    added = command(
        commands.claims,
        "Prints the claims with their measured effects and verdicts.",
        "--scale nano --json",
        suite=False,
    )
    added.add_argument("--json", action="store_true", help="as JSON")
    command(
        commands.verify,
        "Makes every figure, report and claim again by force and compares the bytes.",
        "",
        suite=False,
        scale=False,
    )
    added = command(
        commands.plan,
        "Prints what the study costs (FLOPs, hours, memory, disk), and which of its runs are there already.",
        "",
        "--scale paper --gpus 64",
    )
    which_runs(added)
    added.add_argument("--reduced", action="store_true", help="details of the reduced study, not of the whole")
    added.add_argument("--measure", action="store_true", help="do one training step of each recipe here, and time it")
    added.add_argument(
        "--gpu-tflops", type=POSITIVE, help="peak of one GPU (default: 989, an H100 in bf16; a core: 0.1)"
    )
    added.add_argument("--gpu-memory", type=POSITIVE, metavar="GB", help="of one GPU (default: 80)")
    added.add_argument("--gpus", type=COUNT, help="GPUs of a job (default: 8; at nano and smoke scale 1 core)")
    added.add_argument(
        "--utilization", type=SHARE, help="share of the peak in training and scoring (default: 0.4; a core: 0.45)"
    )
    added.add_argument(
        "--decode-utilization", type=SHARE, help="share of the peak in sampling (default: 0.1; a core: 0.25)"
    )
    added = command(
        commands.cells,
        "Lists the commands of the study in dependency order, one job a line, for a shell or a cluster.",
        '--scale paper --launcher "accelerate launch --num_processes 8" > jobs',
    )
    which_runs(added)
    added.add_argument(
        "--launcher", default="python", help='what starts a job, e.g. "accelerate launch --num_processes 8"'
    )
    added.add_argument("--json", action="store_true", help='as JSON: [{"id", "command", "needs": [ids]}]')
    added = command(
        commands.sample,
        "Prints completions of a question by a checkpoint, each with its grade.",
        "--checkpoint p88 --shots 2 -n 8",
    )
    which_model(added)
    added.add_argument("--question", help="id of a question (default: the first validation question)")
    added.add_argument("-n", type=COUNT, default=4, help="completions (default: 4)")
    added.add_argument(
        "--temperature", type=_number(float, Range(0, 100)), default=0.6, help="0 = greedy (default: 0.6)"
    )
    added = command(
        commands.export,
        "Writes the questions as JSONL and the results as CSV, for other tools.",
        "--scale nano --to export",
    )
    added.add_argument("--to", type=Path, default=Path("export"), help="folder (default: export)")
    added = command(
        commands.grade,
        "Grades one prediction, or the lines of a file.",
        "--pred 'so it is \\boxed{1/2}' --gold 0.5",
        "--jsonl predictions.jsonl",
        suite=False,
        scale=False,
    )
    added.add_argument("--pred", help="a final answer, or a whole solution")
    added.add_argument("--gold", help="the right answer")
    added.add_argument("--jsonl", type=Path, help='file of {"prediction", "gold"} lines; prints one 1/0 a line')
    added = command(
        commands.smoke,
        "Runs the whole pipeline at smoke scale in a temporary copy of the project.",
        "",
        suite=False,
        scale=False,
    )
    added.add_argument("--keep", type=Path, help="keep the copy in this folder (must not exist)")
    return parser, subparsers.choices


if __name__ == "__main__":
    sys.exit(main())
