"""The general benchmarks through lm-evaluation-harness: its counts are what a plain computation gives."""

import io
import random
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch
from transformers import Olmo2Config, Olmo2ForCausalLM

from excursions.general import BENCHMARKS, Source, evaluate_general, hub_source, nano_source
from excursions.nano.benchmarks import make_items
from excursions.nano.world import World, words
from excursions.tokenizer import build_tokenizer

torch.set_num_threads(1)
ITEMS = 24


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(words(World(0)))


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    config = Olmo2Config(
        vocab_size=len(tokenizer) + 5,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
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
    rows = evaluate_general(model, tokenizer, nano_source(0, ITEMS, 3), batch_size=32)
    assert [row["benchmark"] for row in rows] == list(BENCHMARKS)
    for row in rows:
        right = sum(by_hand(model, tokenizer, item) for item in items[row["benchmark"]])
        assert row == {"benchmark": row["benchmark"], "n": ITEMS, "correct": right}
    assert sum(row["correct"] for row in rows) > 0.45 * len(rows) * ITEMS  # it has learned; chance is 0.25


def test_is_repeatable_quiet_and_leaves_everything_as_it_was(model, tokenizer, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the nano benchmarks need no network")

    monkeypatch.setattr("socket.socket.connect", refuse)
    model.train()
    source = nano_source(0, ITEMS, 0)
    states = random.getstate(), torch.get_rng_state()
    shown = io.StringIO()
    with redirect_stderr(shown), redirect_stdout(shown):
        first = evaluate_general(model, tokenizer, source, batch_size=7)
        again = evaluate_general(model, tokenizer, source, batch_size=64)
    assert first == again
    assert shown.getvalue() == ""
    assert model.training
    assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[1])


def test_hub_source_names_the_harness_own_tasks():
    from lm_eval import tasks

    source = hub_source(0)
    assert tuple(source.tasks) == BENCHMARKS and source.limit is None and hub_source(50).limit == 50
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
    source = Source({"piqa": "local_piqa"}, folder=tmp_path, limit=3)
    (row,) = evaluate_general(model, tokenizer, source, batch_size=4)
    assert row["benchmark"] == "piqa" and row["n"] == 3 and row["correct"] in (0, 3)
