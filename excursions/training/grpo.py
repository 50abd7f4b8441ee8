"""GRPO: completions with their rewards -> advantages -> token-level clipped loss -> gradient.

Group Relative Policy Optimization (DeepSeekMath, arXiv 2402.03300) with the token-level loss of DAPO
(arXiv 2503.14476). Names and conventions are those of TRL's GRPOTrainer with `loss_type="dapo"`; on the same
batch the loss and every gradient agree with it.

What is done
- Advantage: (reward - mean) / (standard deviation + 1e-4) within the group, the deviation with n - 1.
- Loss: sum over completion tokens of -min(ratio A, clip(ratio, 1 - clip, 1 + clip) A) + kl * KL, divided by
  the number of ALL completion tokens of the batch, so that the split into micro batches changes nothing.
- A group whose rewards are all equal has advantage 0 and is left out of the forward pass. Its tokens still
  count in the denominator (they do in TRL), so this saves time and never changes the gradient. The KL has a
  gradient in every group, so with KL on nothing is left out.
- A prompt is computed once for all its completions, which attend to its keys and values (see `scoring`).
- The sampler's temperature divides the logits of the score, and ids at or above `vocab_size` (padded rows
  of the embedding) have no probability, as in the sampler: what is sampled is what is scored.
- Several processes hold the same groups and share the passes through the model; the gradient is their sum.

What is left out, and why
- The embedded engine and the trainer compute the same distribution, and their difference is a metric. For an engine
  with other kernels or precision there is the truncated importance weight min(p trainer / p sampler, cap) of each
  token (Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training"; TRL's
  `vllm_importance_sampling_correction`), and nothing finer.
- No bonus for length, format or entropy, no filter of truncated completions: the reward is the answer.
- No optimizer: the gradient is left in `.grad`, because `parallel` needs it before the step.

Shapes: b completions (rows), t completion tokens, p prompts (groups), g completions of a group, s prompt
tokens, v vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from excursions.models.processes import Processes
from excursions.models.scoring import completion_logprobs
from excursions.params import UserError
from excursions.rollout.sampler import Completion

EPSILON = 1e-4  # added to the standard deviation of a group, as in TRL


@dataclass(frozen=True)
class Group:
    """One prompt, its completions and their rewards (same order and number)."""

    prompt_ids: list[int]
    completions: list[Completion]
    rewards: list[float]


def group_advantages(reward_pg: Tensor, kind: str = "group", epsilon: float = EPSILON) -> Tensor:
    """Rewards (p, g) -> advantages (p, g) within each group. Adding a kind is a line here and its name in blocks.py.

    group: (r - mean) / (std + epsilon), std with n - 1 (GRPO). mean: r - mean (Dr. GRPO, arXiv 2503.20783). loo: r
    minus the mean of the others (RLOO, arXiv 2402.14740).
    """
    above_pg = reward_pg - reward_pg.mean(1, keepdim=True)
    if kind == "mean":
        return above_pg
    if kind == "loo":
        return above_pg * (reward_pg.shape[1] / (reward_pg.shape[1] - 1))
    return above_pg / (reward_pg.std(1, keepdim=True) + epsilon)


def loss_denominator(lengths: list[int], kind: str, max_new_tokens: int) -> float:
    """What the summed loss of a batch is divided by. tokens: its completion tokens (DAPO). constant: what they could be
    at most, so that the length of an answer has no weight (Dr. GRPO, arXiv 2503.20783)."""
    return sum(lengths) if kind == "tokens" else len(lengths) * max_new_tokens


def grpo_loss(
    logp_bt: Tensor,
    old_logp_bt: Tensor,
    advantage_b: Tensor,
    mask_bt: Tensor,
    *,
    clip: float,
    clip_high: float | None = None,
    kl: float = 0.0,
    ref_logp_bt: Tensor | None = None,
    importance_bt: Tensor | None = None,
    denominator: float | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Token-level GRPO loss, and its metrics: the share of tokens clipped and (with `kl`) the mean KL.

    `denominator` is the number of completion tokens of the whole batch; None: these rows are the whole batch.
    `importance_bt` are weights (without gradient) of the tokens for a sampler that is not quite the old policy.
    The KL is ratio * (exp(d) - d - 1) with d = log p_ref - log p: equation 4 of arXiv 2402.03300 under the
    importance weight of arXiv 2512.02556, without which its gradient is not that of the KL, even on-policy.
    """
    tokens = mask_bt.sum().clamp(min=1)
    low, high = 1 - clip, 1 + (clip if clip_high is None else clip_high)
    advantage_b1 = advantage_b[:, None]
    ratio_bt = torch.exp(logp_bt - old_logp_bt)
    clipped_bt = ratio_bt.clamp(low, high)
    loss_bt = -torch.minimum(ratio_bt * advantage_b1, clipped_bt * advantage_b1)
    if importance_bt is not None:
        loss_bt = loss_bt * importance_bt
    with torch.no_grad():
        outside_bt = ((ratio_bt < low) & (advantage_b1 < 0)) | ((ratio_bt > high) & (advantage_b1 > 0))
        metrics = {"clip_ratio/region_mean": ((outside_bt * mask_bt).sum() / tokens).item()}
    if kl:
        if ref_logp_bt is None:
            raise UserError(
                f"kl is {kl}, which needs log-probabilities of a reference model: pass them, or set kl to 0"
            )
        difference_bt = ref_logp_bt - logp_bt
        kl_bt = (torch.exp(difference_bt) - difference_bt - 1) * ratio_bt
        loss_bt = loss_bt + kl * kl_bt
        metrics["kl"] = ((kl_bt.detach() * mask_bt).sum() / tokens).item()
    return (loss_bt * mask_bt).sum() / (tokens if denominator is None else denominator), metrics


def rl_gradients(
    model: nn.Module,
    groups: list[Group],
    *,
    temperature: float,
    clip: float = 0.2,
    kl: float = 0.0,
    ref_model: nn.Module | None = None,
    micro_batch: int = 64,
    vocab_size: int | None = None,
    first_pass: dict[tuple[int, int], Tensor] | None = None,
    importance_cap: float | None = None,
    advantage: str = "group",
    normalizer: str = "tokens",
    clip_high: float | None = None,
    max_new_tokens: int = 0,
    processes: Processes,
) -> dict[str, float]:
    """Add the gradient of the GRPO loss of this batch to `.grad`; return the step's metrics, named as in TRL.

    Args:
        temperature: of the sampler.
        clip: half-width of the interval around 1 in which the ratio of new to old probability counts.
        kl: weight of the KL to `ref_model`; with 0 no reference model is run.
        micro_batch: completions that share one backward pass; bounds the memory, changes nothing else.
        vocab_size: number of ids the sampler can draw; None means all rows of the head.
        first_pass: for several inner steps on one batch, pass the same, at first empty, dict to all of
            them. The first fills it with its log-probabilities by (group, completion); for the later ones
            these are the old policy, and the clip acts. Without it the policy is its own old policy and
            every ratio is 1.
        importance_cap: weigh each token by min(p old policy / p sampler, cap); None: no weights.
        advantage, normalizer: see `group_advantages`, and `loss_denominator`, which needs the sampler's max_new_tokens.
        clip_high: upper half of the interval, if it is another (clip-higher of DAPO); None: as `clip`.
        processes: those of the job, each called with the same groups. `.grad` is the sum over all of them, and so are
            the metrics.

    `entropy` is the model's; groups left out of the forward pass enter with -log p of their sampled tokens.
    `sampling/...` is |log p of the trainer - log p of the sampler| over the scored tokens, of one group at least.
    `num_tokens` counts this batch, the prompt once for each completion. Raises UserError for unusable groups.
    """
    _check(groups, temperature, kl, ref_model, micro_batch, vocab_size)
    reward_pg = torch.tensor([group.rewards for group in groups], dtype=torch.float32)
    advantage_pg = group_advantages(reward_pg, advantage)
    no_signal_p = reward_pg.amax(1) == reward_pg.amin(1)
    lengths = [len(completion.token_ids) for group in groups for completion in group.completions]
    tokens, denominator = sum(lengths), loss_denominator(lengths, normalizer, max_new_tokens)

    # Without any signal one group is scored all the same, which adds nothing to the gradient: is the sampler in order?
    scored = [p for p in range(len(groups)) if kl or not no_signal_p[p]] or [0]
    dropped = set(range(len(groups))) - set(scored)
    scored.sort(key=lambda p: len(groups[p].prompt_ids))  # prompts of similar length together: less padding
    rows = [(p, g) for p in scored for g in range(len(groups[p].completions))]
    totals = {"loss": 0.0, "clip_ratio/region_mean": 0.0, "kl": 0.0, "entropy": 0.0}
    dropped_entropy = -sum(sum(completion.logprobs) for p in dropped for completion in groups[p].completions)
    gaps = []
    scoring = {"temperature": temperature, "vocab_size": vocab_size}  # type: dict
    for batch, weight_b in _passes(rows, micro_batch, processes):
        prompts, completions = _by_prompt(groups, batch)
        logp_bt, entropy_bt, mask_bt = completion_logprobs(model, prompts, completions, **scoring)
        mask_bt = mask_bt * torch.tensor(weight_b, device=mask_bt.device)[:, None]
        old_logp_bt = logp_bt.detach()
        sampler_logps = [torch.tensor(groups[p].completions[g].logprobs) for p, g in batch]
        if first_pass is not None:
            for row, (p, g) in enumerate(batch):
                length = len(groups[p].completions[g].token_ids)
                first_pass.setdefault((p, g), old_logp_bt[row, :length])
            old_logp_bt = pad_sequence([first_pass[key] for key in batch], batch_first=True)
        importance_bt = None
        if importance_cap is not None:
            sampler_logp_bt = pad_sequence(sampler_logps, batch_first=True).to(old_logp_bt.device)
            importance_bt = torch.exp(old_logp_bt - sampler_logp_bt).clamp(max=importance_cap)
        ref_logp_bt = None
        if kl:
            with torch.no_grad():
                ref_logp_bt, _, _ = completion_logprobs(ref_model, prompts, completions, **scoring)
        advantage_b = torch.stack([advantage_pg[key] for key in batch]).to(logp_bt.device)
        loss, metrics = grpo_loss(
            logp_bt, old_logp_bt, advantage_b, mask_bt, clip=clip, clip_high=clip_high, kl=kl,
            ref_logp_bt=ref_logp_bt, importance_bt=importance_bt, denominator=denominator,
        )  # fmt: skip
        loss.backward()
        share = mask_bt.sum().item() / tokens
        totals["loss"] += loss.item()
        for name, value in metrics.items():
            totals[name] += value * share
        totals["entropy"] += (entropy_bt * (mask_bt > 0)).sum().item()
        counted = [logps for logps, weight in zip(sampler_logps, weight_b, strict=True) if weight]
        gaps.append((logp_bt.detach()[mask_bt > 0].cpu() - torch.cat([*counted, torch.zeros(0)])).abs())
    gap = torch.cat([*gaps, torch.zeros(0)])
    processes.sum_gradients(model)
    totals = processes.sum(totals)
    gap = torch.tensor(processes.join(gap.tolist()))

    prompt_tokens = sum(len(group.prompt_ids) * len(group.completions) for group in groups)
    stops = [completion.stop_reason for group in groups for completion in group.completions]
    metrics = {
        "reward": reward_pg.mean().item(),
        "reward_std": reward_pg.std().item(),
        "frac_reward_zero_std": no_signal_p.float().mean().item(),
        "completions/mean_length": tokens / len(lengths),
        "completions/clipped_ratio": stops.count("length") / len(stops),
        "entropy": (dropped_entropy + totals["entropy"]) / tokens,
        "loss": totals["loss"],
        "clip_ratio/region_mean": totals["clip_ratio/region_mean"],
        "num_tokens": prompt_tokens + tokens,
        "sampling/sampling_logp_difference/mean": gap.mean().item(),
        "sampling/sampling_logp_difference/max": gap.max().item(),
    }
    return metrics | ({"kl": totals["kl"]} if kl else {})


def _passes(
    rows: list[tuple[int, int]], micro_batch: int, processes: Processes
) -> list[tuple[list[tuple[int, int]], list[float]]]:
    """This process's micro batches: rows (group, completion), and for each its weight.

    With several processes all micro batches have one size, filled up with rows of weight 0, and each process gets the
    same number of them: sharded models need the same passes in all processes.
    """
    if processes.count == 1:
        micro_batches = [rows[start : start + micro_batch] for start in range(0, len(rows), micro_batch)]
        return [(batch, [1.0] * len(batch)) for batch in micro_batches]
    if not rows:
        return []
    size = min(micro_batch, math.ceil(len(rows) / processes.count))
    padding = -len(rows) % size
    weighted = [(row, 1.0) for row in rows] + [(rows[-1], 0.0)] * padding
    micro_batches = [weighted[start : start + size] for start in range(0, len(weighted), size)]  # type: ignore[misc]  # rows with their weights, where above they have none
    return [
        ([row for row, _ in batch], [weight * pass_weight for _, weight in batch])
        for batch, pass_weight in processes.share_passes(micro_batches)
    ]


def _by_prompt(groups: list[Group], batch: list[tuple[int, int]]) -> tuple[list[list[int]], list[list[list[int]]]]:
    """Rows (group, completion), those of a group side by side -> prompts, and the completions of each."""
    by_group: dict[int, list[list[int]]] = {}
    for p, g in batch:
        by_group.setdefault(p, []).append(groups[p].completions[g].token_ids)
    return [groups[p].prompt_ids for p in by_group], list(by_group.values())


def _check(
    groups: list[Group],
    temperature: float,
    kl: float,
    ref_model: nn.Module | None,
    micro_batch: int,
    vocab_size: int | None,
) -> None:
    """Raise UserError for a batch or settings that cannot be scored."""
    if not groups:
        raise UserError("GRPO got no groups: it needs at least one prompt with its completions")
    size = len(groups[0].completions)
    if size < 2:
        raise UserError(f"a GRPO group has {size} completion(s): comparing rewards takes 2 (rl.rollouts)")
    if not temperature > 0:
        raise UserError(f"rl.temperature is {temperature}: it must be above 0, greedy samples do not explore")
    if kl and ref_model is None:
        raise UserError(f"rl.kl is {kl} but there is no reference model: pass ref_model, or set kl to 0")
    if micro_batch < 1:
        raise UserError(f"rl.micro_batch is {micro_batch}: it must be at least 1 completion")
    for index, group in enumerate(groups):
        name = f"GRPO group {index}"
        if not (len(group.completions) == len(group.rewards) == size):
            raise UserError(
                f"{name} has {len(group.completions)} completions and {len(group.rewards)} rewards: "
                f"all groups of a batch need the same number of both (group 0 has {size} completions)"
            )
        if not group.prompt_ids:
            raise UserError(f"{name} has an empty prompt: it needs at least one token")
        if not all(math.isfinite(reward) for reward in group.rewards):
            raise UserError(f"{name} has a reward that is not a finite number: {group.rewards}")
        for completion in group.completions:
            n_tokens, n_logprobs = len(completion.token_ids), len(completion.logprobs)
            if not n_tokens or n_tokens != n_logprobs:
                raise UserError(
                    f"{name} has a completion of {n_tokens} tokens with {n_logprobs} log-probabilities: "
                    "it needs at least one token, and a log-probability for each"
                )
            if vocab_size is not None and max(completion.token_ids) >= vocab_size:
                raise UserError(
                    f"{name} holds token id {max(completion.token_ids)}, but the score covers ids below "
                    f"vocab_size = {vocab_size}: sampler and trainer need the same vocab_size"
                )
