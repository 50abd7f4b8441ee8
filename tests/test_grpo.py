"""GRPO: agreement with TRL and with the plain forward pass; invariance to whatever must not matter."""

from __future__ import annotations

import copy
import dataclasses
import math
import random

import pytest
import torch
from transformers import Olmo2Config, Olmo2ForCausalLM

from excursions.models.processes import Processes
from excursions.models.scoring import completion_logprobs
from excursions.params import UserError
from excursions.rollout.sampler import Completion
from excursions.training import grpo
from excursions.training.grpo import Group, group_advantages, grpo_loss, rl_gradients

VOCAB, ROWS = 29, 32  # ids the sampler draws, rows of the embedding and the head
TEMPERATURE = 0.7


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


SETTINGS = {"temperature": TEMPERATURE, "vocab_size": VOCAB, "processes": Processes()}


def tiny_model(seed: int = 0, rows: int = ROWS, attention: str = "sdpa", kv_heads: int = 4) -> Olmo2ForCausalLM:
    torch.manual_seed(seed)
    config = Olmo2Config(
        vocab_size=rows,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        max_position_embeddings=64,
        initializer_range=0.3,  # far from uniform: a token in the wrong place shows
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
        attn_implementation=attention,
    )
    return Olmo2ForCausalLM(config).train()


def logprobs_in_full(model, prompt, ids, vocab_size=None, temperature=TEMPERATURE) -> torch.Tensor:
    """What `completion_logprobs` must equal: the whole sequence in one plain forward pass."""
    logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1, :vocab_size]
    return torch.log_softmax(logits / temperature, -1)[torch.arange(len(ids)), torch.tensor(ids)]


def make_groups(model, n_groups=4, size=4, seed=0, vocab_size=VOCAB, reward_sets=None) -> list[Group]:
    """Random prompts and completions of mixed lengths (one of one token), with the model's own log-probs."""
    draw = random.Random(seed)
    groups = []
    for p in range(n_groups):
        prompt = [draw.randrange(2, vocab_size) for _ in range(draw.choice([1, 4, 4, 9]))]
        completions = []
        for g in range(size):
            length = 1 if (p, g) == (0, 0) else draw.randint(2, 7)
            ids = [draw.randrange(2, vocab_size) for _ in range(length)]
            with torch.no_grad():
                logps = logprobs_in_full(model, prompt, ids, vocab_size).tolist()
            completions.append(Completion(ids, logps, "length" if length == 7 else "eos"))
        rewards = [float(g % (p + 2) == 0) for g in range(size)] if reward_sets is None else reward_sets[p]
        groups.append(Group(prompt, completions, rewards))
    return groups


def gradients(model) -> dict[str, torch.Tensor]:
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return grads


def step(model, groups, **kwargs) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    model.zero_grad()
    metrics = rl_gradients(model, groups, **(SETTINGS | kwargs))
    return metrics, gradients(model)


def assert_same(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance=1e-5) -> None:
    assert got.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(
            got[name], expected[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


# --- closed forms ---


def test_advantage_closed_form():
    advantages = group_advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]))
    std = math.sqrt((0.75**2 + 3 * 0.25**2) / 3)  # n - 1
    torch.testing.assert_close(advantages[0], torch.tensor([0.75, -0.25, -0.25, -0.25]) / (std + 1e-4))
    assert advantages[1].tolist() == [0.0] * 4


def test_loss_closed_form_and_clip():
    logp = torch.log(torch.tensor([[0.30, 0.10], [0.30, 0.10]])).requires_grad_()
    old = torch.log(torch.tensor([[0.20, 0.20], [0.20, 0.20]]))  # ratios 1.5 and 0.5
    mask = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    loss, metrics = grpo_loss(logp, old, torch.tensor([2.0, -1.0]), mask, clip=0.2)
    # row 0: A = 2, ratios 1.5 (clipped to 1.2) and 0.5 ; row 1: A = -1, ratio 1.5, the worse one counts
    assert loss.item() == pytest.approx((-1.2 * 2 - 0.5 * 2 + 1.5) / 3, rel=1e-5)
    assert metrics == {"clip_ratio/region_mean": pytest.approx(1 / 3)}
    loss.backward()
    torch.testing.assert_close(logp.grad, torch.tensor([[0.0, -1.0], [1.5, 0.0]]) / 3)


# --- agreement with TRL ---


@pytest.fixture(scope="module")
def trl_trainer(tmp_path_factory):
    """A function (model, kl) -> GRPOTrainer on a copy of the model. TRL knows no padded rows: give it
    none."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl import GRPOConfig, GRPOTrainer

    vocabulary = {"<pad>": 0, "<eos>": 1} | {f"w{i}": i for i in range(2, VOCAB)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="w2")),
        pad_token="<pad>",
        eos_token="<eos>",
    )

    def build(model, kl=0.0, loss_type="dapo", **more):
        args = GRPOConfig(
            output_dir=str(tmp_path_factory.mktemp("trl")),
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            loss_type=loss_type,
            **more,
            temperature=TEMPERATURE,
            epsilon=0.2,
            num_generations=4,
            per_device_train_batch_size=16,
            gradient_accumulation_steps=1,
        )
        trainer = GRPOTrainer(
            model=copy.deepcopy(model),
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=args,
            train_dataset=Dataset.from_dict({"prompt": ["w2"]}),
            processing_class=tokenizer,
        )
        trainer.current_gradient_accumulation_steps = 1
        trainer.beta = kl  # set here: the constructor would look for a reference model on the hub
        return trainer

    return build


def trl_inputs(groups, old=None, ref=None) -> dict[str, torch.Tensor]:
    """The batch as GRPOTrainer prepares it: prompts padded on the left, completions on the right."""
    rows = [(group.prompt_ids, c.token_ids) for group in groups for c in group.completions]
    prompt_length, length = max(len(p) for p, _ in rows), max(len(c) for _, c in rows)
    pad_left = torch.tensor([[0] * (prompt_length - len(p)) + p for p, _ in rows])
    pad_right = torch.tensor([c + [0] * (length - len(c)) for _, c in rows])
    rewards = torch.tensor([group.rewards for group in groups])
    std = rewards.std(dim=1, keepdim=True)
    inputs = {
        "prompt_ids": pad_left,
        "prompt_mask": torch.tensor([[0] * (prompt_length - len(p)) + [1] * len(p) for p, _ in rows]),
        "completion_ids": pad_right,
        "completion_mask": torch.tensor([[1] * len(c) + [0] * (length - len(c)) for _, c in rows]),
        "advantages": ((rewards - rewards.mean(1, keepdim=True)) / (std + 1e-4)).flatten(),
        "num_items_in_batch": torch.tensor(sum(len(c) for _, c in rows)),
    }
    for key, values in (("old_per_token_logps", old), ("ref_per_token_logps", ref)):
        if values is not None:
            inputs[key] = torch.stack([torch.nn.functional.pad(v, (0, length - len(v))) for v in values])
    return inputs


def trl_step(trainer, inputs):
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    metrics = {name: values[-1] for name, values in trainer._metrics["train"].items() if values}
    return loss.item(), gradients(trainer.model), metrics


@pytest.mark.parametrize("dropped", [False, True])
def test_trl_one_inner_step(trl_trainer, dropped):
    model = tiny_model(rows=VOCAB)
    groups = make_groups(model)
    if dropped:  # two groups without variance: TRL computes them, we do not
        groups[1] = dataclasses.replace(groups[1], rewards=[1.0] * 4)
        groups[2] = dataclasses.replace(groups[2], rewards=[0.0] * 4)
    metrics, grads = step(model, groups, micro_batch=6)
    loss, trl_grads, trl_metrics = trl_step(trl_trainer(model), trl_inputs(groups))
    assert metrics["loss"] == pytest.approx(loss, abs=1e-6)
    assert_same(grads, trl_grads)
    if not dropped:
        assert metrics["entropy"] == pytest.approx(trl_metrics["entropy"], rel=1e-4)
    assert metrics["sampling/sampling_logp_difference/max"] < 1e-4


@pytest.mark.parametrize("kind", ["mean", "loo"])
def test_trl_dr_grpo_and_other_advantages(trl_trainer, kind):
    model = tiny_model(rows=VOCAB)
    groups = make_groups(model)
    longest = max(len(c.token_ids) for group in groups for c in group.completions)
    metrics, grads = step(model, groups, advantage=kind, normalizer="constant", max_new_tokens=longest)
    inputs = trl_inputs(groups)
    rewards = torch.tensor([group.rewards for group in groups])
    others = (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1)
    inputs["advantages"] = (rewards - (others if kind == "loo" else rewards.mean(1, keepdim=True))).flatten()
    trainer = trl_trainer(model, loss_type="dr_grpo", max_completion_length=longest)
    loss, trl_grads, _ = trl_step(trainer, inputs)
    assert metrics["loss"] == pytest.approx(loss, rel=1e-4, abs=1e-6)
    assert_same(grads, trl_grads)


def test_the_upper_half_of_the_clip_can_be_another():
    logp, old = torch.log(torch.tensor([[0.30]])), torch.log(torch.tensor([[0.20]]))  # ratio 1.5
    for high, ratio in ((None, 1.2), (0.28, 1.28), (0.6, 1.5)):
        loss, _ = grpo_loss(logp, old, torch.tensor([1.0]), torch.ones(1, 1), clip=0.2, clip_high=high)
        assert loss.item() == pytest.approx(-ratio)


def test_trl_off_policy_with_clipping(trl_trainer):
    old_model, model = tiny_model(rows=VOCAB), tiny_model(rows=VOCAB)
    groups = make_groups(old_model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    first_pass = {}
    step(old_model, groups, first_pass=first_pass, micro_batch=5)
    metrics, grads = step(model, groups, first_pass=first_pass, micro_batch=7)
    old = [first_pass[p, g] for p in range(4) for g in range(4)]
    loss, trl_grads, trl_metrics = trl_step(trl_trainer(model), trl_inputs(groups, old=old))
    assert metrics["clip_ratio/region_mean"] == pytest.approx(trl_metrics["clip_ratio/region_mean"], rel=1e-5)
    assert metrics["clip_ratio/region_mean"] > 0.1  # clipping really acts
    assert metrics["loss"] == pytest.approx(loss, rel=1e-5)
    assert_same(grads, trl_grads)


def test_trl_kl(trl_trainer):
    model, reference = tiny_model(rows=VOCAB), tiny_model(seed=1, rows=VOCAB).eval()
    with torch.no_grad():  # near the model, so that exp(d) stays in the range where fp32 compares well
        for ours, theirs in zip(reference.parameters(), model.parameters(), strict=True):
            ours.copy_(theirs + 0.02 * torch.randn_like(theirs))
    groups = make_groups(model)
    groups[3] = dataclasses.replace(groups[3], rewards=[1.0] * 4)  # no advantage, but a KL: not dropped
    metrics, grads = step(model, groups, kl=0.3, ref_model=reference, micro_batch=4)
    with torch.no_grad():
        ref = [logprobs_in_full(reference, g.prompt_ids, c.token_ids) for g in groups for c in g.completions]
    loss, trl_grads, trl_metrics = trl_step(trl_trainer(model, kl=0.3), trl_inputs(groups, ref=ref))
    assert metrics["kl"] == pytest.approx(trl_metrics["kl"], rel=1e-4)
    assert metrics["loss"] == pytest.approx(loss, rel=1e-4)
    assert_same(grads, trl_grads)
    assert all(parameter.grad is None for parameter in reference.parameters())


@pytest.mark.parametrize("cap", [1.2, 1000.0])
def test_trl_truncated_importance_weights(trl_trainer, cap):
    """A sampler that is not quite the policy: what its log-probs say, not the policy's, weighs the tokens."""
    model = tiny_model(rows=VOCAB)
    groups, draw = make_groups(model), random.Random(1)
    for group in groups:
        for completion in group.completions:
            completion.logprobs[:] = [logp - draw.choice([-0.4, 0.0, 0.5]) for logp in completion.logprobs]
    _, plain = step(model, groups)
    metrics, grads = step(model, groups, micro_batch=6, importance_cap=cap)
    sampled = [torch.tensor(c.logprobs) for g in groups for c in g.completions]
    with torch.no_grad():
        exact = [logprobs_in_full(model, g.prompt_ids, c.token_ids) for g in groups for c in g.completions]
    ratios = [torch.exp(a - b).clamp(max=cap) for a, b in zip(exact, sampled, strict=True)]
    trainer, inputs = trl_trainer(model), trl_inputs(groups)
    trainer.use_vllm = trainer.vllm_importance_sampling_correction = True
    inputs["importance_sampling_ratio"] = torch.nn.utils.rnn.pad_sequence(ratios, batch_first=True)
    loss, trl_grads, _ = trl_step(trainer, inputs)
    assert metrics["loss"] == pytest.approx(loss, abs=1e-6)
    assert_same(grads, trl_grads)
    assert not torch.allclose(grads["lm_head.weight"], plain["lm_head.weight"], atol=1e-4)


# --- what must not matter ---


@pytest.mark.parametrize("micro_batch", [1, 3, 4, 8, 1000])
def test_micro_batch_split_changes_nothing(micro_batch):
    model = tiny_model()
    groups = make_groups(model)
    expected_metrics, expected = step(model, groups, micro_batch=16)
    metrics, grads = step(model, groups, micro_batch=micro_batch)
    assert metrics == pytest.approx(expected_metrics, abs=1e-5)
    assert_same(grads, expected)


def test_order_of_groups_and_completions_changes_nothing():
    model = tiny_model()
    groups = make_groups(model)
    expected_metrics, expected = step(model, groups, micro_batch=5)
    shuffled = [groups[p] for p in (2, 0, 3, 1)]
    mixed = [Group(group.prompt_ids, group.completions[::-1], group.rewards[::-1]) for group in shuffled]
    metrics, grads = step(model, mixed, micro_batch=5)
    assert metrics == pytest.approx(expected_metrics, abs=1e-5)
    assert_same(grads, expected)


def test_gradient_is_added_to_what_is_there():
    model = tiny_model()
    groups = make_groups(model)
    _, once = step(model, groups)
    for _ in range(2):
        rl_gradients(model, groups, **SETTINGS)
    assert_same(gradients(model), {name: 2 * grad for name, grad in once.items()})


def test_zero_variance_groups_are_dropped_before_the_forward_pass(monkeypatch):
    model = tiny_model()
    groups = make_groups(model)
    flat = dataclasses.replace(groups[1], rewards=[1.0] * 4)
    metrics, grads = step(model, [groups[2], flat])
    assert metrics["frac_reward_zero_std"] == 0.5

    # The gradient is that of the other group alone, on the denominator of both.
    alone, alone_grads = step(model, [groups[2]])
    own, other = (sum(len(c.token_ids) for c in group.completions) for group in (groups[2], flat))
    share = own / (own + other)
    assert_same(grads, {name: grad * share for name, grad in alone_grads.items()})
    assert metrics["loss"] == pytest.approx(alone["loss"] * share)

    scored = []

    def counted(model, prompts, completions, **how):
        scored.append((prompts, completions))
        return completion_logprobs(model, prompts, completions, **how)

    monkeypatch.setattr(grpo, "completion_logprobs", counted)
    step(model, [groups[2], flat])
    assert scored == [([groups[2].prompt_ids], [[c.token_ids for c in groups[2].completions]])]


def test_all_groups_dropped():
    model = tiny_model()
    kept, _ = step(model, make_groups(model))
    metrics, grads = step(model, make_groups(model, reward_sets=[[0.0] * 4] * 4))
    assert not any(grad.any() for grad in grads.values())
    assert metrics.keys() == kept.keys()
    assert metrics["reward"] == metrics["loss"] == 0 and metrics["frac_reward_zero_std"] == 1
    assert math.isfinite(metrics["sampling/sampling_logp_difference/mean"])  # one group is scored all the same
    assert metrics["entropy"] > 0


def test_metrics():
    model = tiny_model()
    groups = make_groups(model)
    metrics, _ = step(model, groups)
    completions = [c for group in groups for c in group.completions]
    lengths = [len(c.token_ids) for c in completions]
    assert metrics["completions/mean_length"] == sum(lengths) / 16
    assert metrics["completions/clipped_ratio"] == sum(c.stop_reason == "length" for c in completions) / 16
    assert metrics["num_tokens"] == sum(lengths) + sum(4 * len(group.prompt_ids) for group in groups)
    off = dataclasses.replace(completions[0], logprobs=[completions[0].logprobs[0] - 0.5])
    groups[0] = dataclasses.replace(groups[0], completions=[off, *completions[1:4]])
    metrics, _ = step(model, groups)
    assert metrics["sampling/sampling_logp_difference/max"] == pytest.approx(0.5, abs=1e-4)
    assert metrics["sampling/sampling_logp_difference/mean"] == pytest.approx(0.5 / sum(lengths), abs=1e-4)


# --- it learns ---


def test_reward_goes_up_on_a_bandit():
    """One prompt, one token, reward 1 for token 7: its probability goes from about 1/29 to over 0.9."""
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight.mul_(0.1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)

    def policy() -> torch.Tensor:
        with torch.no_grad():
            return torch.log_softmax(model(torch.tensor([[3, 4]])).logits[0, -1, :VOCAB], -1)

    before = policy()[7].exp().item()
    for _ in range(15):
        logps = policy()
        drawn = torch.multinomial(logps.exp(), 64, replacement=True, generator=generator).tolist()
        completions = [Completion([token], [logps[token].item()], "length") for token in drawn]
        optimizer.zero_grad()
        group = Group([3, 4], completions, [float(token == 7) for token in drawn])
        rl_gradients(model, [group], **(SETTINGS | {"temperature": 1.0}))
        optimizer.step()
    assert before < 0.1 and policy()[7].exp().item() > 0.9


# --- bad input ---


@pytest.mark.parametrize(
    ("change", "settings", "words"),
    [
        ({"rewards": [0.0, 1.0]}, {}, "4 completions and 2 rewards"),
        ({"rewards": [0.0, 1.0, math.nan, 1.0]}, {}, "not a finite"),
        ({"prompt_ids": []}, {}, "empty prompt"),
        ({"completions": [Completion([], [], "eos")] * 4}, {}, "0 tokens"),
        ({"completions": [Completion([5, 6], [-1.0], "eos")] * 4}, {}, "1 log-prob"),
        ({"completions": [Completion([VOCAB], [-1.0], "eos")] * 4}, {}, f"token id {VOCAB}"),
        ({}, {"temperature": 0.0}, "temperature"),
        ({}, {"kl": 0.1}, "reference model"),
        ({}, {"micro_batch": 0}, "micro_batch"),
    ],
)
def test_bad_input(change, settings, words):
    model = tiny_model()
    groups = make_groups(model)
    groups[1] = dataclasses.replace(groups[1], **change)
    with pytest.raises(UserError, match=words):
        step(model, groups, **settings)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_bad_batches():
    model = tiny_model()
    with pytest.raises(UserError, match="no groups"):
        step(model, [])
    with pytest.raises(UserError, match="comparing rewards"):
        step(model, make_groups(model, size=1))
