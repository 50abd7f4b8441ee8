"""SFT: what is learned from, in which order, and its loss; parallel averaging at its ends."""

from dataclasses import replace

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from excursions.data.batches import batch_indices
from excursions.data.loading import load_questions
from excursions.models.model import load_model
from excursions.models.processes import Processes
from excursions.params import Lora, UserError
from excursions.training.optimizers import adamw, cosine, step_optimizer
from excursions.training.parallel import averaged_step, rl_weight
from excursions.training.sft import (
    Example,
    check_context,
    completion_loss,
    recomputing,
    sft_examples,
    sft_gradients,
    sft_steps,
    split_examples,
)


@pytest.fixture
def checkpoint(suite):
    return load_model(suite / "checkpoints" / "smoke" / "main" / "p88")


@pytest.fixture(scope="module")
def questions(smoke):
    return load_questions(smoke).train


def test_one_solution_per_question_drawn_by_seed_or_all_of_them(checkpoint, questions, smoke):
    _, tokenizer = checkpoint
    one = sft_examples(questions, tokenizer, smoke.questions, seed=0, gold=False)
    other = sft_examples(questions, tokenizer, smoke.questions, seed=1, gold=False)
    gold = sft_examples(questions, tokenizer, smoke.questions, seed=0, gold=True)
    assert len(one) == len(questions) and len(gold) == sum(len(q.solutions) for q in questions)
    assert one != other and one == sft_examples(questions, tokenizer, smoke.questions, seed=0, gold=False)
    for q, example in zip(questions, one, strict=True):
        assert example.completion_ids[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(example.completion_ids[:-1]) in q.solutions
        assert tokenizer.decode(example.prompt_ids) == f"question : {q.text} answer :"


@pytest.mark.parametrize(("size", "batch"), [(10, 3), (10, 10), (7, 20), (5, 5)])
def test_every_example_is_seen_once_in_a_pass(size, batch):
    seen = [i for step in range(1, 15) for i in batch_indices(size, batch, seed=4, step=step)]
    assert len(seen) == 14 * batch
    for start in range(0, len(seen) - size + 1, size):
        assert set(seen[start : start + size]) == set(range(size))
    assert seen[:size] != seen[size : 2 * size] or size < 3
    assert batch_indices(size, batch, seed=4, step=9) == seen[8 * batch : 9 * batch]


def test_loss_counts_completion_tokens_only_and_padding_changes_nothing(checkpoint, questions, smoke):
    model, tokenizer = checkpoint
    examples = sft_examples(questions, tokenizer, smoke.questions, seed=0, gold=False)[:5]
    losses, tokens = [], []
    for e in examples:
        ids = torch.tensor([e.prompt_ids + e.completion_ids])
        labels = ids.clone()
        labels[:, : len(e.prompt_ids)] = -100
        losses.append(model(input_ids=ids, labels=labels).loss.item())
        tokens.append(len(e.completion_ids))
    expected = sum(loss * n for loss, n in zip(losses, tokens, strict=True)) / sum(tokens)
    assert completion_loss(model, examples, tokenizer.pad_token_id).item() == pytest.approx(expected, abs=1e-5)
    flipped = completion_loss(model, examples[::-1], tokenizer.eos_token_id).item()
    assert flipped == pytest.approx(expected, abs=1e-5)


def test_the_split_by_length_changes_neither_loss_nor_gradient(checkpoint, questions, smoke):
    model, tokenizer = checkpoint
    examples = sft_examples(questions, tokenizer, smoke.questions, seed=0, gold=False)
    loss = completion_loss(model, examples, tokenizer.pad_token_id)
    loss.backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    assert len(examples) > 8
    assert sft_gradients(model, examples, tokenizer.pad_token_id, Processes())["sft_loss"] == pytest.approx(
        loss.item(), abs=1e-5
    )
    for p, gradient in zip(model.parameters(), expected, strict=True):
        assert torch.allclose(p.grad, gradient, atol=1e-6)


def test_micro_batches_by_tokens_and_checkpointing_change_neither_loss_nor_gradient(checkpoint, questions, smoke):
    model, tokenizer = checkpoint
    examples = sft_examples(questions, tokenizer, smoke.questions, seed=0, gold=True)[:40]
    expected = sft_gradients(model, examples, tokenizer.pad_token_id, Processes())
    gradients = [p.grad.clone() for p in model.parameters()]
    longest = max(len(e.prompt_ids) + len(e.completion_ids) for e in examples)
    for limit in (1, 2 * longest, 10_000):
        parts = split_examples(examples, limit)
        assert sorted(map(id, sum(parts, []))) == sorted(map(id, examples))
        sizes = [len(part) * max(len(e.prompt_ids) + len(e.completion_ids) for e in part) for part in parts]
        assert max(sizes) <= max(limit, longest) and (limit > 1 or len(parts) == len(examples))
        model.zero_grad()
        with recomputing(model, True):
            assert model.is_gradient_checkpointing
            found = sft_gradients(model.train(), examples, tokenizer.pad_token_id, Processes(), limit)
        assert not model.is_gradient_checkpointing
        assert found["sft_loss"] == pytest.approx(expected["sft_loss"], abs=1e-5)
        for p, gradient in zip(model.parameters(), gradients, strict=True):
            assert torch.allclose(p.grad, gradient, atol=1e-6)


def test_adapters_begin_as_the_model_and_are_sampled_as_they_are_trained(checkpoint, questions, smoke):
    model, tokenizer = checkpoint
    examples = sft_examples(questions, tokenizer, smoke.questions, seed=0, gold=False)[:4]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    processes = Processes()
    placed = processes.place(model, Lora(rank=2, alpha=4.0))
    trained = [name for name, p in placed.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in name for name in trained)
    for name, p in processes.plain(placed).named_parameters():
        assert torch.equal(p, before[name])
    optimizer = adamw(placed, 1e-2, (0.9, 0.95), 0.0)
    for _ in range(3):
        sft_gradients(placed, examples, tokenizer.pad_token_id, processes)
        step_optimizer(placed, optimizer, 1.0)
    plain = processes.plain(placed)
    ids = torch.tensor([examples[0].prompt_ids])
    with torch.no_grad():
        assert torch.allclose(plain(ids).logits, placed.eval()(ids).logits, atol=1e-5)
    assert any(not torch.equal(p, before[name]) for name, p in plain.named_parameters())
    assert plain.state_dict().keys() == before.keys()
    with pytest.raises(UserError, match="lora.rank is 0; accepted: 1 or more"):
        Processes().place(plain, Lora(rank=0, alpha=1.0))


def test_examples_longer_than_the_context_are_counted_before_the_first_step(checkpoint, questions, smoke):
    _, tokenizer = checkpoint
    examples = sft_examples(questions, tokenizer, smoke.questions, 0, True)
    longest = max(len(e.prompt_ids) + len(e.completion_ids) for e in examples)
    check_context(examples, longest)
    with pytest.raises(UserError, match=rf"of {len(examples)} training examples are too long: .* {longest} tokens"):
        check_context(examples, longest - 1)


def test_schedule(smoke):
    assert sft_steps(16, smoke.sft, gold=False) == 1 and sft_steps(33, smoke.sft, gold=False) == 3
    rates = [cosine(step, 50, smoke.sft.learning_rate, smoke.sft.warmup_steps) for step in range(1, 51)]
    assert max(rates) == pytest.approx(smoke.sft.learning_rate) and rates[-1] == pytest.approx(0, abs=1e-9)


def updates(model, tokenizer, examples):
    """Two updates with different data, learning rates and their own AdamW states."""
    halves = examples[:6], examples[6:12]
    optimizers = [adamw(model, rate, (0.9, 0.95), 0.0) for rate in (1e-3, 3e-3)]

    def update(i):
        sft_gradients(model, halves[i], tokenizer.pad_token_id, Processes())
        return {f"norm{i}": step_optimizer(model, optimizers[i], 1.0)}

    return lambda: update(0), lambda: update(1)


@pytest.mark.parametrize("weight", [1.0, 0.0])
def test_parallel_at_weight_one_and_zero_is_the_pure_update_bit_for_bit(suite, questions, smoke, weight):
    folder = suite / "checkpoints" / "smoke" / "main" / "p88"
    averaged, tokenizer = load_model(folder)
    pure, _ = load_model(folder)
    examples = sft_examples(questions, tokenizer, smoke.questions, seed=0, gold=False)
    rl, sft = updates(averaged, tokenizer, examples)
    only = updates(pure, tokenizer, examples)[0 if weight == 1.0 else 1]
    for _ in range(3):
        averaged_step(averaged, rl, sft, weight)
        only()
    for a, b in zip(averaged.parameters(), pure.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_weight_of_rl_is_constant_or_goes_in_a_straight_line(smoke):
    constant = replace(smoke.parallel, steps=5, rl_weight=0.5)
    assert [rl_weight(constant, step) for step in range(1, 6)] == [0.5] * 5
    growing = replace(constant, rl_weight_at_first=0.0, rl_weight=1.0)
    assert [rl_weight(growing, step) for step in range(1, 6)] == [0, 0.25, 0.5, 0.75, 1]
    assert rl_weight(replace(growing, steps=1), 1) == 0


def test_parallel_is_the_mean_of_two_updates_from_one_snapshot(suite, questions, smoke):
    folder = suite / "checkpoints" / "smoke" / "main" / "p88"
    models = [load_model(folder)[0] for _ in range(3)]
    tokenizer = load_model(folder)[1]
    examples = sft_examples(questions, tokenizer, smoke.questions, seed=0, gold=False)
    metrics = averaged_step(models[0], *updates(models[0], tokenizer, examples), 0.5)
    updates(models[1], tokenizer, examples)[0]()
    updates(models[2], tokenizer, examples)[1]()
    for mean, rl, sft in zip(*(m.parameters() for m in models), strict=True):
        assert torch.allclose(mean, (rl + sft) / 2, atol=1e-7)
    assert metrics.keys() == {"norm0", "norm1"}


def test_dropout_never_acts_and_checkpointing_changes_nothing():
    """What is sampled without dropout must be scored without it."""
    config = GPT2Config(vocab_size=32, n_positions=32, n_embd=16, n_layer=2, n_head=2, attn_pdrop=0.5, resid_pdrop=0.5)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config).eval()
    examples = [Example([3, 4, 5], [6, 7]), Example([3, 4], [8, 9, 1])]
    plain = sft_gradients(model, examples, 0, Processes())["sft_loss"]
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    with recomputing(model, True):
        assert sft_gradients(model, examples, 0, Processes())["sft_loss"] == plain
    assert not model.is_gradient_checkpointing and not any(module.training for module in model.modules())
    for p, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(p.grad, gradient)
