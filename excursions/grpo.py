"""GRPO: completions with their rewards -> advantages -> token-level clipped loss -> gradient.

Group Relative Policy Optimization (DeepSeekMath, arXiv 2402.03300), with the token-level loss of DAPO (arXiv 2503.14476). Names
and conventions are those of TRL's GRPOTrainer with `loss_type="dapo"`; on the same batch the loss and every gradient agree with it.

What is done
- Advantage: (reward - mean of the group) / (standard deviation of the group + 1e-4), the deviation with n - 1.
- Loss: sum over all completion tokens of -min(ratio A, clip(ratio, 1 - clip, 1 + clip) A) + kl * KL, divided by the number of ALL
  completion tokens of the batch: one denominator for the whole batch, so that the split into micro batches changes nothing.
- A group whose rewards are all equal has advantage 0 and is left out of the forward pass. Its tokens still count in the
  denominator (they do in TRL): dropping is a saving of time and never changes the gradient. With KL on nothing can be dropped.
- The prompt of a group is computed once: its keys and values go, under autograd, to all completions of the group.
- The temperature of the sampler divides the logits of the score, and ids at or above `vocab_size` (padded rows of the embedding)
  have no probability, as in the sampler: what is sampled is what is scored.

What is left out, and why
- No importance correction between sampler and trainer: the samplers compute the same distribution. Their difference is a metric.
- No length, format or entropy bonus, and no filtering of truncated completions: the paper's reward is the final answer alone.
- No optimizer: the gradient is left in `.grad`, because `parallel` needs it before the step.

Shapes: b completions (rows), t completion tokens, p prompts (groups), g completions of a group, s prompt tokens, v vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from excursions.params import UserError
from excursions.rollout.sampler import Completion

EPSILON = 1e-4  # added to the standard deviation of a group, as in TRL


@dataclass(frozen=True)
class Group:
    """One prompt, its completions and their rewards (same order and number)."""

    prompt_ids: list[int]
    completions: list[Completion]
    rewards: list[float]


def group_advantages(reward_pg: Tensor, epsilon: float = EPSILON) -> Tensor:
    """Rewards (p, g) -> advantages (p, g): (r - mean) / (std + epsilon) within each group, std with n - 1."""
    return (reward_pg - reward_pg.mean(1, keepdim=True)) / (reward_pg.std(1, keepdim=True) + epsilon)


def grpo_loss(
    logp_bt: Tensor,
    old_logp_bt: Tensor,
    advantage_b: Tensor,
    mask_bt: Tensor,
    *,
    clip: float,
    kl: float = 0.0,
    ref_logp_bt: Tensor | None = None,
    denominator: float | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Token-level GRPO loss, and the means over tokens of what was clipped and (with `kl`) of the KL to the reference.

    `denominator` is the number of completion tokens of the whole batch; None means that these rows are the whole batch.
    The KL is ratio * (exp(d) - d - 1) with d = log p_ref - log p: the estimator of equation 4 of arXiv 2402.03300 under the
    importance weight of arXiv 2512.02556, without which its gradient is not that of the KL, on-policy included.
    """
    tokens = mask_bt.sum()
    advantage_b1 = advantage_b[:, None]
    ratio_bt = torch.exp(logp_bt - old_logp_bt)
    clipped_bt = ratio_bt.clamp(1 - clip, 1 + clip)
    loss_bt = -torch.minimum(ratio_bt * advantage_b1, clipped_bt * advantage_b1)
    with torch.no_grad():
        outside_bt = ((ratio_bt < 1 - clip) & (advantage_b1 < 0)) | ((ratio_bt > 1 + clip) & (advantage_b1 > 0))
        metrics = {"clip_ratio/region_mean": ((outside_bt * mask_bt).sum() / tokens).item()}
    if kl:
        if ref_logp_bt is None:
            raise UserError(f"kl is {kl}, which needs the reference model's log-probabilities: pass ref_model, or set kl to 0")
        difference_bt = ref_logp_bt - logp_bt
        kl_bt = (torch.exp(difference_bt) - difference_bt - 1) * ratio_bt
        loss_bt = loss_bt + kl * kl_bt
        metrics["kl"] = ((kl_bt.detach() * mask_bt).sum() / tokens).item()
    return (loss_bt * mask_bt).sum() / (tokens if denominator is None else denominator), metrics


def completion_logprobs(
    model: nn.Module,
    prompts: list[list[int]],
    completions: list[list[list[int]]],
    *,
    temperature: float = 1.0,
    vocab_size: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Score completions of prompts -> log-probabilities (b, t) with gradient, entropies (b, t) without, mask (b, t) of 0 and 1.

    `completions[p]` are the completions of `prompts[p]`; rows b are in that order, right-padded, 0 where the mask is 0. Each
    prompt goes through the model once. Its last position scores the first token of all its completions, and its keys and values
    are what the completions attend to; autograd sums their gradients back into the one prompt.
    """
    device = next(model.parameters()).device
    row_prompt = [p for p, group in enumerate(completions) for _ in group]
    token_bt = _pad([ids for group in completions for ids in group], device)
    prompt_ps = _pad(prompts, device)
    prompt_length_p = torch.tensor([len(prompt) for prompt in prompts], device=device)
    row_prompt_b = torch.tensor(row_prompt, device=device)
    length_b = torch.tensor([len(ids) for group in completions for ids in group], device=device)
    mask_bt = (torch.arange(token_bt.shape[1], device=device) < length_b[:, None]).float()

    # Prompts are padded on the right: no real token then attends to padding under the plain causal mask, so no mask is needed.
    ends, end_p = torch.unique(prompt_length_p - 1, return_inverse=True)
    prefill = model(input_ids=prompt_ps, use_cache=True, logits_to_keep=ends)
    if prefill.past_key_values is None:
        raise UserError(
            "the model gave no key/value cache, which GRPO needs to compute each prompt once: "
            "turn gradient checkpointing off (model.gradient_checkpointing_disable())"
        )
    first_logits_bv = prefill.logits[torch.arange(len(prompts), device=device), end_p][row_prompt_b]
    logp_b, entropy_b = _score(first_logits_bv, token_bt[:, 0], temperature, vocab_size)
    logp_bt, entropy_bt = logp_b[:, None], entropy_b[:, None]
    if token_bt.shape[1] > 1:
        cache = DynamicCache([(layer.keys[row_prompt_b], layer.values[row_prompt_b]) for layer in prefill.past_key_values.layers])
        is_prompt_ps = torch.arange(prompt_ps.shape[1], device=device) < prompt_length_p[:, None]
        inputs_bt = token_bt[:, :-1]  # the last token of the longest row predicts nothing
        output = model(
            input_ids=inputs_bt,
            attention_mask=torch.cat([is_prompt_ps[row_prompt_b], torch.ones_like(inputs_bt, dtype=torch.bool)], 1),
            position_ids=prompt_length_p[row_prompt_b, None] + torch.arange(inputs_bt.shape[1], device=device),
            past_key_values=cache,
            use_cache=True,
        )
        rest_logp_bt, rest_entropy_bt = _score(output.logits, token_bt[:, 1:], temperature, vocab_size)
        logp_bt = torch.cat([logp_bt, rest_logp_bt], 1)
        entropy_bt = torch.cat([entropy_bt, rest_entropy_bt], 1)
    return logp_bt * mask_bt, entropy_bt * mask_bt, mask_bt


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
) -> dict[str, float]:
    """Add the gradient of the GRPO loss of this batch to `.grad` and return the step's metrics, named as in TRL.

    Args:
        temperature: of the sampler.
        clip: half-width of the interval around 1 in which the ratio of new to old probability counts.
        kl: weight of the KL to `ref_model`; 0 means none, and no reference model is run.
        micro_batch: completions in one forward and backward pass; bounds the memory and changes nothing else.
        vocab_size: number of ids the sampler can draw; None means all rows of the head.
        first_pass: for several inner steps on one batch pass the same, at first empty, dict each time. The first call fills it
            with its log-probabilities, by (group, completion); later calls take them as the old policy, and the clip acts. Without
            it the policy is its own old policy: every ratio is 1.

    `entropy` is that of the model; for groups left out of the forward pass it is estimated by -log p of the sampled tokens.
    `sampling/...` is |log p of the trainer - log p of the sampler| over the tokens scored, NaN if no group was.
    `num_tokens` are the tokens of this batch, the prompt counted for each completion. Raises UserError for unusable groups.
    """
    _check(groups, temperature, kl, ref_model, micro_batch, vocab_size)
    reward_pg = torch.tensor([group.rewards for group in groups], dtype=torch.float32)
    advantage_pg = group_advantages(reward_pg)
    no_signal_p = reward_pg.amax(1) == reward_pg.amin(1)
    lengths = [len(completion.token_ids) for group in groups for completion in group.completions]
    denominator = sum(lengths)

    scored = [p for p in range(len(groups)) if kl or not no_signal_p[p]]
    dropped = set(range(len(groups))) - set(scored)
    # Rows of similar shape go together, so that little of a micro batch is padding; a group stays in one piece if it can.
    scored.sort(key=lambda p: (len(groups[p].prompt_ids), p))
    rows = [(p, g) for p in scored for g in range(len(groups[p].completions))]
    totals = {"loss": 0.0, "clip_ratio/region_mean": 0.0, "kl": 0.0}
    entropy_sum = -sum(sum(completion.logprobs) for p in dropped for completion in groups[p].completions)
    gaps = []
    for start in range(0, len(rows), micro_batch):
        batch = rows[start : start + micro_batch]
        prompts, completions = _gather(groups, batch)
        scoring = {"temperature": temperature, "vocab_size": vocab_size}
        logp_bt, entropy_bt, mask_bt = completion_logprobs(model, prompts, completions, **scoring)
        old_logp_bt = logp_bt.detach()
        if first_pass is not None:
            for row, (key, length) in enumerate(zip(batch, mask_bt.sum(1).int().tolist(), strict=True)):
                first_pass.setdefault(key, old_logp_bt[row, :length].clone())
            old_logp_bt = pad_sequence([first_pass[key] for key in batch], batch_first=True)
        ref_logp_bt = None
        if kl:
            with torch.no_grad():
                ref_logp_bt, _, _ = completion_logprobs(ref_model, prompts, completions, **scoring)
        advantage_b = torch.stack([advantage_pg[key] for key in batch]).to(logp_bt.device)
        loss, metrics = grpo_loss(
            logp_bt, old_logp_bt, advantage_b, mask_bt, clip=clip, kl=kl, ref_logp_bt=ref_logp_bt, denominator=denominator
        )
        loss.backward()
        share = mask_bt.sum().item() / denominator
        totals["loss"] += loss.item()
        for name, value in metrics.items():
            totals[name] += value * share
        entropy_sum += entropy_bt.sum().item()
        sampled = torch.cat([torch.tensor(groups[p].completions[g].logprobs) for p, g in batch])
        gaps.append((logp_bt.detach()[mask_bt.bool()].cpu() - sampled).abs())

    gap = torch.cat(gaps) if gaps else torch.tensor([math.nan])
    prompt_tokens = sum(len(group.prompt_ids) * len(group.completions) for group in groups)
    stops = [completion.stop_reason for group in groups for completion in group.completions]
    metrics = {
        "reward": reward_pg.mean().item(),
        "reward_std": reward_pg.std().item(),
        "frac_reward_zero_std": no_signal_p.float().mean().item(),
        "completions/mean_length": denominator / len(lengths),
        "completions/clipped_ratio": stops.count("length") / len(stops),
        "entropy": entropy_sum / denominator,
        "loss": totals["loss"],
        "clip_ratio/region_mean": totals["clip_ratio/region_mean"],
        "num_tokens": prompt_tokens + denominator,
        "sampling/sampling_logp_difference/mean": gap.mean().item(),
        "sampling/sampling_logp_difference/max": gap.max().item(),
    }
    return metrics | ({"kl": totals["kl"]} if kl else {})


def _pad(sequences: list[list[int]], device: torch.device) -> Tensor:
    """Lists of ids -> (rows, longest), padded on the right with 0 (any valid id will do: padding is masked)."""
    return pad_sequence([torch.tensor(ids, device=device) for ids in sequences], batch_first=True)


def _score(logits: Tensor, targets: Tensor, temperature: float, vocab_size: int | None) -> tuple[Tensor, Tensor]:
    """Logits (..., v) and targets (...) -> log-probability of the target, with gradient, and entropy, without; both (...)."""
    logits = logits[..., :vocab_size].float() / temperature
    logps = torch.log_softmax(logits, -1)
    with torch.no_grad():
        entropy = -(logps.exp() * logps).sum(-1)
    return logps.gather(-1, targets[..., None]).squeeze(-1), entropy


def _gather(groups: list[Group], batch: list[tuple[int, int]]) -> tuple[list[list[int]], list[list[list[int]]]]:
    """Rows (group, completion), those of a group side by side -> prompts, and the completions' ids for each prompt."""
    by_group: dict[int, list[list[int]]] = {}
    for p, g in batch:
        by_group.setdefault(p, []).append(groups[p].completions[g].token_ids)
    return [groups[p].prompt_ids for p in by_group], list(by_group.values())


def _check(
    groups: list[Group], temperature: float, kl: float, ref_model: nn.Module | None, micro_batch: int, vocab_size: int | None
) -> None:
    """Raise UserError for a batch or settings that cannot be scored."""
    if not groups:
        raise UserError("GRPO got no groups: it needs at least one prompt with its completions")
    size = len(groups[0].completions)
    if size < 2:
        raise UserError(f"a GRPO group has {size} completion(s): at least 2 are needed to compare rewards (rl.rollouts)")
    if not temperature > 0:
        raise UserError(f"the temperature of RL is {temperature}: it must be above 0, greedy samples carry no gradient")
    if kl and ref_model is None:
        raise UserError(f"kl is {kl} but there is no reference model: pass ref_model, or set kl to 0")
    if micro_batch < 1:
        raise UserError(f"micro_batch is {micro_batch}: it must be at least 1 completion")
    for index, group in enumerate(groups):
        if not (len(group.completions) == len(group.rewards) == size):
            raise UserError(
                f"GRPO group {index} has {len(group.completions)} completions and {len(group.rewards)} rewards: "
                f"every group of a batch must have the same number of both (group 0 has {size})"
            )
        if not group.prompt_ids:
            raise UserError(f"GRPO group {index} has an empty prompt")
        if not all(math.isfinite(reward) for reward in group.rewards):
            raise UserError(f"GRPO group {index} has a reward that is not finite: {group.rewards}")
        for completion in group.completions:
            if not completion.token_ids or len(completion.token_ids) != len(completion.logprobs):
                raise UserError(
                    f"GRPO group {index} has a completion of {len(completion.token_ids)} tokens with "
                    f"{len(completion.logprobs)} log-probabilities: at least one token, and one for each, is needed"
                )
            if vocab_size is not None and max(completion.token_ids) >= vocab_size:
                raise UserError(
                    f"GRPO group {index} holds token id {max(completion.token_ids)}, which the score gives no probability: "
                    f"ids must be below vocab_size = {vocab_size}; sampler and trainer must use the same vocab_size"
                )
