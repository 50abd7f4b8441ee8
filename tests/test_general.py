"""The general benchmarks through lm-evaluation-harness: its counts are what a plain computation gives."""

import io
import json
import random
import re
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import datasets
import general_copies
import pytest
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import Olmo2Config, Olmo2ForCausalLM, PreTrainedTokenizerFast

from excursions.data.general import BENCHMARKS, HARNESS_TASKS, GeneralTasks, hub_tasks, nano_tasks
from excursions.data.nano.benchmarks import make_items
from excursions.data.nano.tokenizer import build_tokenizer
from excursions.data.nano.world import World, words
from excursions.evaluation import general
from excursions.evaluation.general import check_tasks, evaluate_general, load_tasks
from excursions.params import UserError
from excursions.training.sft import Example, completion_loss

torch.set_num_threads(1)
ITEMS = 24


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(words(World(0)))


@pytest.fixture(scope="module")
def model(tokenizer):
    return tiny_model(tokenizer)


def tiny_model(tokenizer, context: int = 128):
    torch.manual_seed(0)
    config = Olmo2Config(
        vocab_size=len(tokenizer) + 5,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=context,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        tie_word_embeddings=False,
    )
    return Olmo2ForCausalLM(config)


def by_hand(model, tokenizer, item: dict) -> bool:
    """Whether the model is right: one forward pass per choice, of the whole text and without padding."""
    ids = tokenizer(item["context"], add_special_tokens=False).input_ids
    scores = []
    for choice in item.get("choices", [item.get("target")]):
        continuation = tokenizer(choice, add_special_tokens=False).input_ids
        with torch.no_grad():
            logits_tv = model(input_ids=torch.tensor([ids + continuation])).logits[0, len(ids) - 1 : -1]
        target_t = torch.tensor(continuation)
        if "target" in item:
            return bool((logits_tv.argmax(-1) == target_t).all())
        scores.append(logits_tv.log_softmax(-1).gather(1, target_t[:, None]).sum().item())
    return scores.index(max(scores)) == item["gold"]


def by_benchmark(rows: list[dict]) -> dict[str, list[int]]:
    """Benchmark -> whether each item is right, in the order of the items."""
    found = {}
    for row in rows:
        found.setdefault(row["benchmark"], []).append(row["correct"])
    return found


def teach(model, tokenizer, texts: list[str]) -> None:
    """Teaches the model the last words of some texts by heart, so that its answers are not chance."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    rows = tokenizer(texts, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt")
    for _ in range(40):
        logits_bv = model(**rows, logits_to_keep=2).logits[:, 0]
        torch.nn.functional.cross_entropy(logits_bv, rows.input_ids[:, -1]).backward()
        optimizer.step()
        optimizer.zero_grad()


def test_harness_agrees_with_a_plain_computation(model, tokenizer):
    items = make_items(World(0), ITEMS, seed=3)
    texts = [
        f"{item['context']} {item['choices'][item['gold']] if 'choices' in item else item['target']}"
        for made in items.values()
        for item in made[: ITEMS // 2]
    ]
    teach(model, tokenizer, texts)
    rows = evaluate_general(model, tokenizer, nano_tasks(0, ITEMS, 3), batch_size=32)
    assert list(by_benchmark(rows)) == list(BENCHMARKS)
    for name, correct in by_benchmark(rows).items():
        assert correct == [by_hand(model, tokenizer, item) for item in items[name]]
    assert sum(row["correct"] for row in rows) > 0.45 * len(rows)  # it has learned; chance is 0.25


def test_a_context_is_computed_once_for_all_its_choices(model, tokenizer, monkeypatch):
    """And with it the answers are those of the harness's own passes, one a choice."""
    tasks, contexts = nano_tasks(0, ITEMS, 3), []
    inner = general.log_likelihoods

    def counted(model, prompts, completions):
        contexts.extend(map(tuple, prompts))
        return inner(model, prompts, completions)

    monkeypatch.setattr(general, "log_likelihoods", counted)
    rows = evaluate_general(model, tokenizer, tasks, batch_size=32)
    assert len(contexts) == len(set(contexts)) <= len(BENCHMARKS) * ITEMS
    monkeypatch.setattr(model, "_supports_attention_backend", False)
    assert evaluate_general(model, tokenizer, tasks, batch_size=32) == rows


def test_long_contexts_lose_their_beginning(model):
    context, continuation = list(range(3, 40)), [5, 6, 7]
    (cut,) = general.answers(model, [[context, continuation]], max_length=20, batch_size=4)
    assert [cut] == general.answers(model, [[context[-18:], continuation]], max_length=20, batch_size=4)
    assert [cut] != general.answers(model, [[context[-17:], continuation]], max_length=20, batch_size=4)


def test_is_repeatable_quiet_and_leaves_everything_as_it_was(model, tokenizer, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the nano benchmarks need no network")

    monkeypatch.setattr("socket.socket.connect", refuse)
    model.train()
    source = nano_tasks(0, ITEMS, 0)
    states = random.getstate(), torch.get_rng_state()
    shown = io.StringIO()
    with redirect_stderr(shown), redirect_stdout(shown):
        first = evaluate_general(model, tokenizer, source, batch_size=7)
        again = evaluate_general(model, tokenizer, source, batch_size=64)
    assert first == again
    assert shown.getvalue() == ""
    assert model.training
    assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[1])


def test_hub_tasks_names_the_harness_own_tasks():
    from lm_eval import tasks

    source = hub_tasks(0)
    assert tuple(source.tasks) == BENCHMARKS and source.limit is None and hub_tasks(50).limit == 50
    # Only these five folders: reading all of the harness's task files takes most of a minute.
    folders = [Path(tasks.__file__).parent / name for name in ("lambada", "hellaswag", "arc", "piqa", "openbookqa")]
    known = tasks.TaskManager(include_path=folders, include_defaults=False).all_tasks
    assert set(source.tasks.values()) <= set(known)


def test_harness_own_tasks_run(model, tokenizer, tmp_path):
    """The path of the paper scale: tasks that load a dataset, a limit on the items. Here a local one."""
    line = '{"goal": "to lock the boat , use the", "tools": ["pump", "axe"], "right": 1}\n'
    (tmp_path / "items.jsonl").write_text(line * 5)
    (tmp_path / "task.yaml").write_text(
        f"""task: local_piqa
dataset_path: json
dataset_kwargs: {{data_files: {{test: {tmp_path}/items.jsonl}}, cache_dir: {tmp_path}/cache}}
test_split: test
output_type: multiple_choice
doc_to_text: goal
doc_to_choice: tools
doc_to_target: right
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
    )
    source = GeneralTasks({"piqa": "local_piqa"}, folder=tmp_path, limit=3)
    correct = by_benchmark(evaluate_general(model, tokenizer, source, batch_size=4))
    assert correct in ({"piqa": [0, 0, 0]}, {"piqa": [1, 1, 1]})


@pytest.fixture(scope="module")
def hub_rows(shared) -> dict[str, list[dict]]:
    """The first rows of the public copies, by the harness's name of the task."""
    sizes = (30, 24, 30, 200, 28, 26)  # arc_challenge whole: its copy has the rows with 3 and 5 choices
    made = general_copies.hub_rows(shared).items()
    return {task: rows[:size] for (task, rows), size in zip(made, sizes, strict=True)}


@pytest.fixture
def copies(hub_rows, tmp_path) -> Path:
    return general_copies.write_copies(hub_rows, tmp_path / "copies")


def clean(text: str) -> str:
    """HellaSwag's text as the harness shows it: without the marks of its WikiHow articles."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def asked(task: str, row: dict) -> dict:
    """The item a row stands for, in the words of the benchmarks' papers and not by the harness's code."""
    if task == "lambada_openai":
        context, word = row["text"].rsplit(" ", 1)
        return {"context": context, "target": f" {word}"}
    if task == "hellaswag":
        context = clean(f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}")
        return {"context": context, "choices": [clean(ending) for ending in row["endings"]], "gold": int(row["label"])}
    if task == "piqa":
        return {
            "context": f"Question: {row['goal']}\nAnswer:",
            "choices": [row["sol1"], row["sol2"]],
            "gold": int(row["label"]),
        }
    question = f"Question: {row['question']}\nAnswer:" if "question" in row else row["question_stem"]
    gold = row["choices"]["label"].index(row["answerKey"])
    return {"context": question, "choices": row["choices"]["text"], "gold": gold}


HUB = {  # as the harness asks the hub: dataset and configuration
    ("EleutherAI/lambada_openai", "default"): "lambada_openai",
    ("Rowan/hellaswag", None): "hellaswag",
    ("allenai/ai2_arc", "ARC-Easy"): "arc_easy",
    ("allenai/ai2_arc", "ARC-Challenge"): "arc_challenge",
    ("baber/piqa", None): "piqa",
    ("allenai/openbookqa", "main"): "openbookqa",
}


@pytest.mark.parametrize("place", ["copies", "hub"])
def test_harness_asks_what_the_hub_columns_say(hub_rows, copies, tmp_path, monkeypatch, place):
    def refuse(*args, **kwargs):
        raise AssertionError("local copies need no network")

    def served(path, name=None, **kwargs):
        rows = datasets.Dataset.from_list(hub_rows[HUB[path, name]])
        return datasets.DatasetDict(dict.fromkeys(("train", "validation", "test"), rows))

    monkeypatch.setattr("socket.socket.connect", refuse)
    if place == "hub":
        monkeypatch.setattr(datasets, "load_dataset", served)
    tasks = load_tasks(hub_tasks(0, copies if place == "copies" else None), tmp_path)["tasks"]
    assert list(tasks) == list(hub_rows)
    for name, task in tasks.items():
        docs = list(task.eval_docs)
        assert len(docs) == len(hub_rows[name])
        assert task.config.metadata["version"] == 1.0 and "acc" in [m["metric"] for m in task.config.metric_list]
        for row, doc in zip(hub_rows[name], docs, strict=True):
            item = asked(name, row)
            assert task.doc_to_text(doc) == item["context"]
            if "target" in item:
                assert task.doc_to_target(doc) == item["target"]
            else:
                assert task.doc_to_choice(doc) == item["choices"]
                assert int(task.doc_to_target(doc) if name != "hellaswag" else doc["label"]) == item["gold"]


@pytest.fixture(scope="module")
def english(hub_rows):
    """A byte-level tokenizer of real text, and a model that knows some answers by heart."""
    items = [asked(task, row) for task, rows in hub_rows.items() for row in rows]
    lines = [f"{item['context']} {' '.join(item.get('choices', [item.get('target')]))}" for item in items]
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(lines, vocab_size=500, special_tokens=["<pad>", "<eos>"], show_progress=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, pad_token="<pad>", eos_token="<eos>")
    model = tiny_model(tokenizer, context=512)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    known = [asked("lambada_openai", row) for row in hub_rows["lambada_openai"][:8]]
    encoded = [tokenizer([item["context"], item["target"]]).input_ids for item in known]
    for _ in range(40):
        completion_loss(model, [Example(*ids) for ids in encoded], pad_id=0).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, tokenizer


def ranked(model, tokenizer, item: dict) -> bool:
    """Whether the model is right, one forward pass per choice; context and choice become tokens together."""
    scores = []
    for choice in item.get("choices", [item.get("target")]):
        ids = tokenizer(item["context"] + ("" if "target" in item else " ") + choice).input_ids
        length = len(tokenizer(item["context"]).input_ids)
        window = ids[-model.config.max_position_embeddings - 1 :]
        target_t = torch.tensor(ids[length:])
        with torch.no_grad():
            logits_tv = model(input_ids=torch.tensor([window[:-1]])).logits[0, -len(target_t) :]
        if "target" in item:
            return bool((logits_tv.argmax(-1) == target_t).all())
        scores.append(logits_tv.log_softmax(-1).gather(1, target_t[:, None]).sum().item())
    return scores.index(max(scores)) == item["gold"]


def test_real_benchmarks_are_scored_as_by_hand(hub_rows, copies, english):
    model, tokenizer = english
    rows = evaluate_general(model, tokenizer, hub_tasks(20, copies), batch_size=16)
    assert list(by_benchmark(rows)) == list(BENCHMARKS)
    for correct, (task, of_it) in zip(by_benchmark(rows).values(), hub_rows.items(), strict=True):
        assert correct == [ranked(model, tokenizer, asked(task, each)) for each in of_it[:20]], task
    assert 5 <= sum(by_benchmark(rows)["lambada"]) < 20  # eight words were taught; untaught, none would be right
    whole = evaluate_general(model, tokenizer, hub_tasks(0, copies), batch_size=64)
    assert [*map(len, by_benchmark(whole).values())] == [len(of_it) for of_it in hub_rows.values()]


def test_a_fault_of_a_copy_is_named(copies):
    def edited(task: str, **changes) -> None:
        rows = general_copies.read(copies / f"{task}.jsonl")
        rows[2] = {key: value for key, value in (rows[2] | changes).items() if value != "dropped"}
        (copies / f"{task}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def said() -> str:
        with pytest.raises(UserError) as error:
            hub_tasks(0, copies)
        return str(error.value)

    (copies / "openbookqa.jsonl").rename(copies / "obqa.jsonl")
    assert "openbookqa.jsonl does not exist" in said() and "hub.general" in said()
    (copies / "obqa.jsonl").rename(copies / "openbookqa.jsonl")
    faults = [  # the last benchmark first, as the first fault is told
        ("openbookqa", {"choices": ["one", "two"]}, "openbookqa.jsonl, line 3: column 'choices' is ['one', 'two']"),
        ("piqa", {"label": -1}, "piqa.jsonl, line 3: column 'label' is -1, expected 0 to 1"),
        ("piqa", {"sol2": "dropped"}, "piqa.jsonl, line 3: column 'sol2' is missing, found goal, sol1, label"),
        (
            "arc_challenge",
            {"answerKey": "F"},
            "arc_challenge.jsonl, line 3: column 'answerKey' is 'F', expected one of",
        ),
        ("hellaswag", {"endings": 4}, "hellaswag.jsonl, line 3: a column has the wrong type"),
        ("lambada_openai", {"text": "word"}, "lambada_openai.jsonl, line 3: column 'text' is 'word'"),
    ]
    for task, changes, expected in faults:
        edited(task, **changes)
        assert expected in said()
    (copies / "lambada_openai.jsonl").write_text('{"text": "a b"}\n["a b"]\n')
    assert "line 2: found ['a b'], expected an object with the columns text" in said()
    (copies / "lambada_openai.jsonl").write_bytes('{"text": "a caf\u00e9 b"}\n'.encode("latin-1"))
    assert "lambada_openai.jsonl, line 1: not valid JSON in UTF-8" in said()
    (copies / "lambada_openai.jsonl").write_text("{")
    assert "lambada_openai.jsonl, line 1: not valid JSON" in said()


def test_hub_out_of_reach_is_one_sentence(monkeypatch, tmp_path):
    def out_of_reach(path, *args, **kwargs):
        raise ConnectionError(f"Couldn't reach {path}\nand more")

    monkeypatch.setattr(datasets, "load_dataset", out_of_reach)
    with pytest.raises(UserError) as error:
        check_tasks(hub_tasks(0))
    assert "benchmark lambada could not be loaded from the Hugging Face hub (ConnectionError: Couldn't reach" in str(
        error.value
    )
    assert "hub.general" in str(error.value) and "lambada_openai.jsonl" in str(error.value)


def test_a_harness_without_the_task_is_named(monkeypatch):
    monkeypatch.setitem(HARNESS_TASKS, "lambada", ("lambada_9", "lambada", ("text",)))
    with pytest.raises(UserError, match="no task 'lambada_9'.*requirements.lock"):
        check_tasks(hub_tasks(0))
