"""Log-probabilities of completions, each prompt computed once: what GRPO trains on and the general benchmarks ask.

Prompts and completions lie end to end in one packed sequence: no padding in all that works on single tokens (everything
but attention), and one pass whatever their number and lengths. The tokens of a completion attend to their prompt, which
all its completions share, and to those before them. Gradients sum into the one prompt.

Shapes: n packed tokens, p prompts, b completions (rows), t tokens of a completion, s of a prompt, m scored tokens (all
rows end to end), H heads, K key/value heads, D head width, v vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, Olmo2ForCausalLM

from excursions.models.olmo2 import Olmo2, unlike
from excursions.params import UserError

flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
NEVER = 1e4  # as the logarithm of a softmax's denominator: the weights are 0


def completion_logprobs(
    model: nn.Module,
    prompts: list[list[int]],
    completions: list[list[list[int]]],
    *,
    temperature: float = 1.0,
    vocab_size: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Score completions -> log-probabilities, entropies (without gradient) and a mask of 0 and 1, all (b, t).

    `completions[p]` are those of `prompts[p]`; rows are in that order, padded on the right, 0 where the mask is 0. Ids
    at or above `vocab_size` (padded rows of the embedding) have no probability. Raises UserError for a model that
    does not let its attention be replaced.
    """
    packed = pack(prompts, completions, next(model.parameters()).device)
    if _is_lean(model):
        x, head = _lean_states(model, packed, vocab_size)
        logp_m, entropy_m = _Score.apply(x, head, packed.target_m, temperature)
    else:
        logits_mv = _transformers_logits(model, packed)[:, :vocab_size]
        logp_mv = torch.log_softmax(logits_mv.float() / temperature, -1)
        logp_m = logp_mv.gather(1, packed.target_m[:, None]).squeeze(1)
        with torch.no_grad():
            entropy_m = -(logp_mv.exp() * logp_mv).sum(1)
    length_b = torch.tensor([len(ids) for group in completions for ids in group], device=logp_m.device)
    is_token_bt = torch.arange(int(length_b.max()), device=logp_m.device) < length_b[:, None]
    zero_bt = torch.zeros(is_token_bt.shape, device=logp_m.device)
    return *(zero_bt.masked_scatter(is_token_bt, z_m) for z_m in (logp_m, entropy_m)), is_token_bt.float()


@torch.no_grad()
def log_likelihoods(
    model: nn.Module, prompts: list[list[int]], completions: list[list[list[int]]]
) -> list[list[tuple[float, bool]]]:
    """Of each completion its log-probability, and whether it is what greedy decoding would give: what multiple choice
    and cloze benchmarks ask. Raises UserError as `completion_logprobs` does."""
    packed = pack(prompts, completions, next(model.parameters()).device)
    if _is_lean(model):
        x, head = _lean_states(model, packed, None)
        logits_mv = x @ head
    else:
        logits_mv = _transformers_logits(model, packed).float()
    logp_m = logits_mv.log_softmax(-1).gather(1, packed.target_m[:, None]).squeeze(1)
    lengths = [len(ids) for group in completions for ids in group]
    sums = [logps.sum().item() for logps in logp_m.split(lengths)]
    greedy = [same.all().item() for same in (logits_mv.argmax(-1) == packed.target_m).split(lengths)]
    found = iter(zip(sums, greedy, strict=True))
    return [[next(found) for _ in group] for group in completions]


@dataclass(frozen=True)
class Packed:
    """Prompts and completions end to end: each prompt, then its completions without their last tokens, which predict
    nothing that is asked."""

    ids_n: Tensor
    position_n: Tensor
    longest: int  # tokens of the longest of the texts
    spans: list[tuple[int, int, int]]  # of each prompt: where it begins and ends, and where its completions end
    prompt_ps: Tensor  # the place of each token of each prompt, 0 for padding
    is_prompt_ps: Tensor
    row_bt: Tensor  # the same of the completions
    is_row_bt: Tensor
    owner_b: Tensor  # the prompt of each completion
    source_m: Tensor  # where each completion token is predicted
    target_m: Tensor  # its id


def pack(prompts: list[list[int]], completions: list[list[list[int]]], device: torch.device) -> Packed:
    """Lay prompts and their completions end to end."""
    ids, positions, spans, targets, sources, prompt_places, rows, owners = [], [], [], [], [], [], [], []  # type: list[int], list[int], list[tuple[int, int, int]], list[int], list[Tensor], list[Tensor], list[Tensor], list[int]
    for p, (prompt, group) in enumerate(zip(prompts, completions, strict=True)):
        start, end = len(ids), len(ids) + len(prompt)
        prompt_places.append(torch.arange(start, end))
        ids += prompt
        positions += range(len(prompt))
        for completion in group:
            row = torch.arange(len(ids), len(ids) + len(completion) - 1)
            rows.append(row)
            sources += [torch.tensor([end - 1]), row]
            ids += completion[:-1]
            positions += range(len(prompt), len(prompt) + len(row))
            targets += completion
            owners.append(p)
        spans.append((start, end, len(ids)))
    prompt_ps = pad_sequence(prompt_places, batch_first=True, padding_value=-1)
    row_bt = pad_sequence(rows, batch_first=True, padding_value=-1)
    tensors = (
        torch.tensor(z) if isinstance(z, list) else z
        for z in (ids, positions, prompt_ps.clamp(min=0), prompt_ps >= 0, row_bt.clamp(min=0), row_bt >= 0, owners)
    )
    ids_n, position_n, *places, owner_b = (z.to(device) for z in tensors)
    source_m, target_m = torch.cat(sources).to(device), torch.tensor(targets, device=device)
    return Packed(ids_n, position_n, max(positions) + 1, spans, *places, owner_b, source_m, target_m)  # type: ignore[call-arg]  # there are four places


def _is_lean(model: nn.Module) -> bool:
    """Whether the lean OLMo2 computes just what this model would: whole, in fp32, on a CPU, its forward not wrapped
    (FSDP is a subclass, autocast a replaced method)."""
    weight = next(model.parameters())
    plain = type(model) is Olmo2ForCausalLM and "forward" not in vars(model) and not unlike(model)
    return plain and weight.device.type == "cpu" and weight.dtype == torch.float32


def _lean_states(model: Olmo2ForCausalLM, packed: Packed, vocab_size: int | None) -> tuple[Tensor, Tensor]:
    """The hidden states (m, hidden) that predict the tokens asked, and the head (hidden, v), by the lean OLMo2."""
    lean = Olmo2(model, vocab_size)
    repeats = lean.heads // lean.kv_heads

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if repeats > 1:
            k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
        return _Attention.apply(q, k, v, packed)

    return lean.hidden(packed.ids_n, packed.position_n, attend)[packed.source_m], lean.head


class _Attention(torch.autograd.Function):
    """Attention with scale 1 of the packed tokens on a CPU: q, k and v (n, H, D) -> (n, H, D).

    Prompt and completion are attended to apart, then joined: each counts with its share of the common softmax's
    denominator (Dao et al. 2022, sec. 3.1). The kernel's backward pass takes the common denominator, so each part's
    gradient is exact.
    """

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, packed: Packed) -> Tensor:
        out, log_sum = torch.empty_like(q), q.new_empty(q.shape[:2])
        for place, is_token in ((packed.prompt_ps, packed.is_prompt_ps), (packed.row_bt, packed.is_row_bt)):
            if place.numel():
                of_part, log_sum_part = flash(*(z[place].transpose(1, 2) for z in (q, k, v)), 0.0, True, scale=1.0)
                out[place[is_token]] = of_part.transpose(1, 2)[is_token]
                log_sum[place[is_token]] = log_sum_part.transpose(1, 2)[is_token]
        for start, end, last in packed.spans:
            if end < last:
                parts = (q[end:last], k[start:end], v[start:end])
                prompt, prompt_log_sum = (z[0].transpose(0, 1) for z in flash(*map(_batch, parts), scale=1.0))
                share = torch.sigmoid(prompt_log_sum - log_sum[end:last])
                out[end:last].lerp_(prompt, share[..., None])
                log_sum[end:last] = torch.logaddexp(log_sum[end:last], prompt_log_sum)
        ctx.save_for_backward(q, k, v, out, log_sum)
        ctx.packed = packed
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, log_sum = ctx.saved_tensors
        grads = [torch.empty_like(z) for z in (q, k, v)]
        packed = ctx.packed
        for place, is_token in ((packed.prompt_ps, packed.is_prompt_ps), (packed.row_bt, packed.is_row_bt)):
            if place.numel():
                padding = ~is_token[..., None]
                grad_part = grad[place].masked_fill_(padding[..., None], 0.0)
                log_sum_part = log_sum[place].masked_fill_(padding, NEVER).transpose(1, 2).contiguous()
                parts = (z.transpose(1, 2) for z in (grad_part, q[place], k[place], v[place], out[place]))
                for total, part in zip(grads, flash_backward(*parts, log_sum_part, 0.0, True, scale=1.0), strict=True):
                    total[place[is_token]] = part.transpose(1, 2)[is_token]
        for start, end, last in packed.spans:
            if end < last:
                parts = (grad[end:last], q[end:last], k[start:end], v[start:end], out[end:last])  # type: ignore[assignment]  # the generator above is used up
                log_sum_part = log_sum[None, end:last].transpose(1, 2).contiguous()
                of_parts = flash_backward(*map(_batch, parts), log_sum_part, 0.0, False, scale=1.0)
                slices = (slice(end, last), slice(start, end), slice(start, end))
                for total, where, part in zip(grads, slices, of_parts, strict=True):
                    total[where] += part[0].transpose(0, 1)
        return *grads, None


def _batch(z: Tensor) -> Tensor:
    """(n, H, D) as a batch of one: (1, H, n, D)."""
    return z[None].transpose(1, 2)


class _Score(torch.autograd.Function):
    """Last hidden states x (m, hidden), head (hidden, v), ids (m,) -> log-probability of each id, and entropy (no
    gradient), both (m,). The probabilities are all that is kept, and the gradient of the logits takes their place."""

    @staticmethod
    def forward(ctx, x: Tensor, head: Tensor, target_m: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        logp_mv = torch.log_softmax((x @ head).div_(temperature), -1)
        logp_m = logp_mv.gather(1, target_m[:, None]).squeeze(1)
        p_mv = logp_mv.exp()
        entropy_m = logp_mv.mul_(p_mv).sum(1).neg_()
        ctx.save_for_backward(x, head, target_m, p_mv)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropy_m)
        return logp_m, entropy_m

    @staticmethod
    def backward(ctx, grad_m: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        x, head, target_m, grad_mv = ctx.saved_tensors
        grad_m1 = (grad_m / ctx.temperature)[:, None]
        grad_mv.mul_(-grad_m1).scatter_add_(1, target_m[:, None], grad_m1)
        return grad_mv @ head.t(), x.t() @ grad_mv, None, None


def _transformers_logits(model: nn.Module, packed: Packed) -> Tensor:
    """Logits (m, v) by transformers' own forward pass, with our attention in its layers."""
    if model.is_gradient_checkpointing and model.training:
        raise UserError(
            "gradient checkpointing would compute attention again without its packing: "
            "turn it off (model.gradient_checkpointing_disable())"
        )
    other_layers = {*(getattr(model.config, "layer_types", None) or ())} - {"full_attention", "sliding_attention"}
    # what carries a state along the text has a short convolution, and would carry it from one text to the next
    carries = any(isinstance(module, nn.Conv1d) for module in model.modules())
    if not model._supports_attention_backend or other_layers or carries:
        raise UserError(
            f"{type(model).__name__} does not let its attention be replaced, which computing a prompt once for all its "
            "completions takes; accepted: architectures with transformers' attention interface and layers of full or "
            "sliding attention alone"
        )
    before = model.config._attn_implementation
    model.config._attn_implementation = "packed"
    try:
        inputs = {"input_ids": packed.ids_n[None], "position_ids": packed.position_n[None]}
        return model(**inputs, use_cache=False, packed=packed, logits_to_keep=packed.source_m).logits[0]
    finally:
        model.config._attn_implementation = before


def _packed_attention(
    module: nn.Module,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attention_mask: None,
    *,
    scaling: float,
    packed: Packed,
    **others,
) -> tuple[Tensor, None]:
    """The same on any device: (1, H, n, D) -> (1, n, H, D). The rows get copies of their prompt's keys and values."""
    # so many tokens a token of this layer attends to, itself among them; Qwen2-MoE alone does not hand it on
    window = others.get("sliding_window", getattr(module, "sliding_window", None))
    for name in ("softcap", "s_aux"):  # what some architectures do to the scores themselves
        if others.get(name) is not None:
            raise UserError(
                f"{type(module).__name__} attends with `{name}`, which is not scored here; accepted: attention by the "
                "softmax of scaled products."
            )
    q, k, v = (z[0].transpose(0, 1) for z in (q, k, v))
    out = q.new_zeros(*q.shape[:2], v.shape[2])
    prompt = [z[packed.prompt_ps] for z in (k, v)]
    own = [z[packed.row_bt] for z in (k, v)]
    joined = [torch.cat([p[packed.owner_b], o], 1) for p, o in zip(prompt, own, strict=True)]
    n_tokens = packed.row_bt.shape[1]
    causal_tt = torch.ones(n_tokens, n_tokens, dtype=torch.bool, device=q.device).tril()
    is_prompt_bts = packed.is_prompt_ps[packed.owner_b][:, None].expand(-1, n_tokens, -1)
    seen_bts = torch.cat([is_prompt_bts, causal_tt.expand(len(is_prompt_bts), -1, -1)], 2)
    of_prompt: dict[str, object] = {"is_causal": True}
    if window is not None and packed.longest > window:
        at_n = packed.position_n.int()
        at_ps, at_bt = at_n[packed.prompt_ps], at_n[packed.row_bt]
        at_bs = torch.cat([at_ps[packed.owner_b], at_bt], 1)
        seen_bts &= at_bt[:, :, None] - at_bs[:, None] < window
        distance_pss = at_ps[:, :, None] - at_ps[:, None]
        causal_ss = torch.ones(distance_pss.shape[1:], dtype=torch.bool, device=q.device).tril()
        of_prompt = {"attn_mask": (causal_ss & (distance_pss < window))[:, None]}
    how = {"scale": scaling, "enable_gqa": q.shape[1] != k.shape[1]}
    for place, is_token, keys_values, seen in (
        (packed.prompt_ps, packed.is_prompt_ps, prompt, of_prompt),
        (packed.row_bt, packed.is_row_bt, joined, {"attn_mask": seen_bts[:, None]}),
    ):
        if place.numel():
            tensors = (z.transpose(1, 2) for z in (q[place], *keys_values))
            of_part = F.scaled_dot_product_attention(*tensors, **how, **seen)  # type: ignore[misc]  # three tensors, none of them by name
            out = out.index_put((place[is_token],), of_part.transpose(1, 2)[is_token])
    return out[None], None


AttentionInterface.register("packed", _packed_attention)
