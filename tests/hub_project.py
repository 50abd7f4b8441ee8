"""A tiny project at hub scale for tests: real GSM8K and MATH text, in the files and schemas of the public data sets."""

from __future__ import annotations

import gzip
import json
from dataclasses import asdict, replace
from pathlib import Path

import yaml
from general_copies import hub_rows, write_copies
from study_file import read_study
from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast

from excursions import params
from excursions.models.model import build_model, count_parameters, save_model

ROOT = Path(__file__).parents[1]
CHECKPOINTS = {
    "p08": 8_000,
    "p88": 88_000,
}  # pretraining tokens the suite says they have seen; their weights are random
QUESTIONS = 24  # of GSM8K in the training file
CODE = "Let's use Python.\n<llm-code>\n{0}\n</llm-code>\n<llm-code-output>\n{0}\n</llm-code-output>\nSo \\boxed{{{0}}}."


def make_scale(root: Path, shared: Path) -> params.Scale:
    """The paper block of params.yaml, with the sizes of a test and the files that `make_project` writes."""
    study = params.load(ROOT / "params.yaml")
    smoke, paper, data = study.scale("smoke"), study.scale("paper"), root / "data"
    return replace(
        smoke,
        model=replace(smoke.model, hidden_size=64, layers=2, heads=2, intermediate_size=64, context=512),
        pretrain=replace(smoke.pretrain, tokens=512 * 2 * 5, batch_size=2, save=tuple(CHECKPOINTS), dtype="float32"),
        questions=replace(paper.questions, train_easy=8, train_hard=4, validation=2, test=4, solutions=3),
        hub=params.Hub(
            tokenizer=str(data / "tokenizer"),
            stream=str(data / "stream.jsonl"),
            stream_config=None,
            train=str(data / "openmathinstruct1.jsonl"),
            easy_train=str(data / "gsm8k_train.jsonl"),
            easy_test=str(data / "gsm8k_test.jsonl"),
            hard_train=str(data / "math_train.jsonl"),
            hard_test=str(data / "math_test.jsonl"),
            general=str(data / "general"),
        ),
        rl=replace(smoke.rl, steps=2, questions_per_step=4, rollouts=4, max_new_tokens=16),
        sft=replace(smoke.sft, batch_size=4),
        evaluate=replace(smoke.evaluate, samples=4, max_new_tokens=16, shots=2, questions_between=2, general=4),
        engine=replace(smoke.engine, name="torch"),
    )


def make_project(root: Path, shared: Path) -> Path:
    """Writes data/, checkpoints/paper/main/ and params.yaml (whose paper block is `make_scale`) under root."""
    scale, data = make_scale(root, shared), root / "data"
    data.mkdir(parents=True)
    easy_train, easy_test = read(shared, "gsm8k/train.jsonl.gz"), read(shared, "gsm8k/test.jsonl.gz")
    write(data / "openmathinstruct1.jsonl", instruct_rows(shared))
    write(data / "gsm8k_train.jsonl", easy_train[:400])  # holds the examples of few-shot prompts
    write(data / "gsm8k_test.jsonl", [row for row in easy_test if len(row["question"]) < 130][:6])
    write(data / "math_train.jsonl", math_train_rows(shared))
    short = [row for row in read(shared, "math/math500.jsonl.gz") if len(row["problem"]) < 90]
    write(data / "math_test.jsonl", short[:6])
    write(data / "stream.jsonl", [{"id": i, "text": row["answer"]} for i, row in enumerate(easy_train[1000:1400])])

    write_copies(hub_rows(shared), data / "general")
    tokenizer = make_tokenizer(row["question"] + "\n" + row["answer"] for row in easy_train[:2000])
    tokenizer.save_pretrained(data / "tokenizer")
    suite = root / "checkpoints" / "paper" / "main"
    for seed, name in enumerate(CHECKPOINTS):
        model = build_model(scale.model, tokenizer, seed)
        save_model(model, tokenizer, suite / name, scale.pretrain.dtype)
    about = {"parameters": count_parameters(model), "tokens": CHECKPOINTS, "total_tokens": 100_000}
    (suite / "suite.json").write_text(json.dumps(about))
    write_params(root, scale)
    return root


def write_params(root: Path, scale: params.Scale) -> None:
    """The project's params.yaml with `scale` as its paper block and that scale to run, for commands in `root`."""
    paper = json.loads(json.dumps(asdict(scale)))
    raw = read_study(scales=["paper"], checkpoints=list(CHECKPOINTS), seeds=[0], paper=paper)
    (root / "params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")


def instruct_rows(shared: Path) -> list[dict]:
    """Rows in the schema of OpenMathInstruct-1: per question several correct solutions, a repeated one, one that calls
    the interpreter and a false one for GSM8K; for MATH what a model really wrote."""
    rows = []
    for row in sorted(read(shared, "gsm8k/train.jsonl.gz")[400:], key=lambda row: len(row["answer"]))[:QUESTIONS]:
        steps, answer = row["answer"].split("\n#### ")
        right = f"{steps}\nThe answer is \\boxed{{{answer}}}."
        solutions = [right, f"Let us think step by step.\n{right}", f"We work it out.\n{right}", right]
        about = {"question": row["question"], "expected_answer": answer, "dataset": "gsm8k"}
        rows += [instruct(**about, solution=solution) for solution in solutions]
        rows.append(instruct(**about, solution=CODE.format(answer), error=""))
        rows.append(instruct(**about, solution=f"{steps}\nSo \\boxed{{{answer}7}}.", predicted=f"{answer}7"))
    for row in read(shared, "math_model_solutions/nemo_skills_math_train50.jsonl.gz"):
        if len(row["problem"]) < 160 and len(row["solution"]) < 500:
            about = {"question": row["problem"], "expected_answer": row["gold"], "dataset": "math"}
            rows.append(
                instruct(**about, solution=row["solution"], predicted=row["prediction"], correct=row["is_correct"])
            )
    return rows


def instruct(
    question: str,
    expected_answer: str,
    dataset: str,
    solution: str,
    predicted: str | None = None,
    correct: bool | None = None,
    error: str = "<not_executed>",
) -> dict:
    """One row of OpenMathInstruct-1; correct unless something else is predicted."""
    return {
        "question": question,
        "expected_answer": expected_answer,
        "predicted_answer": expected_answer if predicted is None else predicted,
        "error_message": error,
        "is_correct": predicted is None if correct is None else correct,
        "generation_type": "without_reference_solution",
        "dataset": dataset,
        "generated_solution": solution,
    }


def math_train_rows(shared: Path) -> list[dict]:
    """25 problems of MATH train in the schema of EleutherAI/hendrycks_math."""
    rows = {row["id"]: row for row in read(shared, "math_model_solutions/nemo_skills_math_train50.jsonl.gz")}
    return [
        {"problem": row["problem"], "level": row["level"], "type": row["type"], "solution": row["gold_solution"]}
        for row in rows.values()
    ]


def make_tokenizer(texts) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of 1024 tokens."""
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(texts, vocab_size=1024, special_tokens=["<pad>", "<eos>"], show_progress=False)
    return PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer, pad_token="<pad>", eos_token="<eos>")


def read(shared: Path, name: str) -> list[dict]:
    """The rows of a file of the public test data."""
    with gzip.open(shared / "data" / name, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def write(path: Path, rows: list[dict]) -> Path:
    """Writes rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
