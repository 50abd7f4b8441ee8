"""The command line: `excursions <command> --help`. A mistake of the user is one sentence and exit code 2."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from excursions import commands
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="excursions", description="RL and SFT from checkpoints all along pretraining."
    )
    subparsers = parser.add_subparsers(metavar="command", required=True)

    def command(function, suite: bool = True, scale: bool = True) -> argparse.ArgumentParser:
        about = function.__doc__.splitlines()[0]
        added = subparsers.add_parser(function.__name__, help=about, description=about)
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

    command(commands.data, suite=False)
    added = command(commands.pretrain)
    added.add_argument(
        "--processes", type=int, default=1, metavar="N", help="share every batch among N processes (default: 1)"
    )
    added = command(commands.train)
    which_runs(added)
    added.add_argument("--keep-model", action="store_true", help="keep the trained models, in trained/")
    which_runs(command(commands.show))
    added = command(commands.evaluate)
    which_model(added)
    added.add_argument(
        "--split", choices=("train", "validation", "test"), default="validation", help="default: validation"
    )
    added.add_argument("--questions", type=int, default=50, help="questions per benchmark (default: 50)")
    added.add_argument("--general", action="store_true", help="the six general benchmarks too")
    added = command(commands.notebook, suite=False)
    added.add_argument("name", help="name of a notebook, e.g. early_rl")
    added.add_argument("-p", "--parameter", nargs="+", default=[], metavar="NAME=VALUE", help="of its parameters cell")
    command(commands.site, suite=False)
    added = command(commands.claims, suite=False)
    added.add_argument("--json", action="store_true", help="as JSON")
    added = command(commands.plan)
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
    added = command(commands.cells)
    which_runs(added)
    added.add_argument(
        "--launcher", default="python", help='what starts a job, e.g. "accelerate launch --num_processes 8"'
    )
    added.add_argument("--json", action="store_true", help='as JSON: [{"id", "command", "needs": [ids]}]')
    added = command(commands.sample)
    which_model(added)
    added.add_argument("--question", help="id of a question (default: the first validation question)")
    added.add_argument("-n", type=int, default=4, help="completions (default: 4)")
    added.add_argument("--temperature", type=float, default=0.6, help="0 = greedy (default: 0.6)")
    added = command(commands.export)
    added.add_argument("--to", type=Path, default=Path("export"), help="folder (default: export)")
    added = command(commands.grade, suite=False, scale=False)
    added.add_argument("--pred", help="a final answer, or a whole solution")
    added.add_argument("--gold", help="the right answer")
    added.add_argument("--jsonl", type=Path, help='file of {"prediction", "gold"} lines; prints one 1/0 a line')
    added = command(commands.smoke, suite=False, scale=False)
    added.add_argument("--keep", type=Path, help="keep the copy in this folder (must not exist)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
