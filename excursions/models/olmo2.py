"""OLMo2 in few kernels: fused projections on plain tensors, for the sampler and for training.

Equal to transformers' Olmo2ForCausalLM (logits and every gradient; tests/test_olmo2.py), and faster where a model is so
small that reading and writing activations costs as much as its matrix products: query, key and value are one product,
and so are gate and up; the rotary embedding is one complex product; a norm reads its input twice.

Shapes: n tokens (any number of dimensions before the last one), H query heads, K key/value heads, D head width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Olmo2ForCausalLM


@dataclass(frozen=True)
class Layer:
    """One layer's weights, matrices as (in, out); q and k ordered for the complex rotary."""

    qkv: Tensor
    q_norm: Tensor  # times D^-0.5, so that attention needs no scale
    k_norm: Tensor
    out: Tensor
    post_attention_norm: Tensor
    gate_up: Tensor
    down: Tensor
    post_mlp_norm: Tensor


class Olmo2:
    """The weights of a model in this form; gradients flow back into the model's parameters.

    `vocab_size`: rows of the head that count. `take` is applied to each parameter first (the sampler copies them).
    """

    def __init__(
        self, model: Olmo2ForCausalLM, vocab_size: int | None, take: Callable[[Tensor], Tensor] = lambda p: p
    ) -> None:
        config = model.config
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim, self.eps = config.hidden_size // self.heads, config.rms_norm_eps
        self.embedding = take(model.model.embed_tokens.weight)
        self.final_norm = take(model.model.norm.weight)
        self.head = _in_out(take(model.lm_head.weight)[:vocab_size])
        self.layers = [self._layer(layer, take) for layer in model.model.layers]
        frequency = config.rope_parameters["rope_theta"] ** -(torch.arange(0, self.head_dim, 2).float() / self.head_dim)
        angle = torch.outer(torch.arange(config.max_position_embeddings).float(), frequency)
        self.rotary = torch.polar(torch.ones_like(angle), angle).to(self.embedding.device)  # (context, D/2), complex

    def _layer(self, layer: nn.Module, take: Callable[[Tensor], Tensor]) -> Layer:
        def paired(x: Tensor) -> Tensor:
            """Transformers rotates dimension i with i + D/2; put the two side by side, as one complex number.

            Queries and keys are permuted alike, so their products do not change.
            """
            return x.unflatten(0, (-1, 2, self.head_dim // 2)).transpose(1, 2).flatten(0, 2)

        attention, mlp = layer.self_attn, layer.mlp
        q, k = paired(take(attention.q_proj.weight)), paired(take(attention.k_proj.weight))
        return Layer(
            qkv=_in_out(torch.cat([q, k, take(attention.v_proj.weight)])),
            q_norm=paired(take(attention.q_norm.weight)) * self.head_dim**-0.5,
            k_norm=paired(take(attention.k_norm.weight)),
            out=_in_out(take(attention.o_proj.weight)),
            post_attention_norm=take(layer.post_attention_layernorm.weight),
            gate_up=_in_out(torch.cat([take(mlp.gate_proj.weight), take(mlp.up_proj.weight)])),
            down=_in_out(take(mlp.down_proj.weight)),
            post_mlp_norm=take(layer.post_feedforward_layernorm.weight),
        )

    def hidden(self, ids: Tensor, positions: Tensor, attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """Last hidden states (n, hidden) of ids (n,) at positions (n,).

        attend: q (n, H, D), k and v (n, K, D) of a layer, scale 1 -> what each token attends to, (n, H, D).
        """
        x, rotary = F.embedding(ids, self.embedding), self.rotary[positions][:, None]
        for layer in self.layers:
            x = self.after_attention(x, attend(*self.qkv(x, layer, rotary)).flatten(1), layer)
        return RmsNorm.apply(x, self.final_norm, self.eps, None)

    def logits(self, x: Tensor) -> Tensor:
        """x (n, hidden) after the last layer -> logits (n, vocab_size)."""
        return RmsNorm.apply(x, self.final_norm, self.eps, None) @ self.head

    def qkv(self, x: Tensor, layer: Layer, rotary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (n, hidden) -> q (n, H, D) rotated and scaled, k (n, K, D) rotated, v (n, K, D)."""
        d = self.head_dim
        q, k, v = (x @ layer.qkv).split([self.heads * d, self.kv_heads * d, self.kv_heads * d], dim=-1)
        q = _rotate(RmsNorm.apply(q, layer.q_norm, self.eps, None).unflatten(-1, (-1, d // 2, 2)), rotary)
        k = _rotate(RmsNorm.apply(k, layer.k_norm, self.eps, None).unflatten(-1, (-1, d // 2, 2)), rotary)
        return q, k, v.unflatten(-1, (-1, d))

    def after_attention(self, x: Tensor, attended: Tensor, layer: Layer) -> Tensor:
        """Output projection and MLP, each normalized before it is added to the residual stream x (n, hidden)."""
        x = RmsNorm.apply(attended @ layer.out, layer.post_attention_norm, self.eps, x)
        return RmsNorm.apply(Gated.apply(x @ layer.gate_up) @ layer.down, layer.post_mlp_norm, self.eps, x)


class RmsNorm(torch.autograd.Function):
    """x / sqrt(mean(x^2) + eps) * weight, plus a residual if there is one."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, eps: float, residual: Tensor | None) -> Tensor:
        mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        scale = mean_square.add_(eps).rsqrt_()
        unit = x * scale
        ctx.save_for_backward(unit, scale, weight)
        ctx.has_residual = residual is not None
        return unit * weight if residual is None else torch.addcmul(residual, unit, weight)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        unit, scale, weight = ctx.saved_tensors
        along = grad * unit
        share = (along @ weight).div_(weight.numel()).unsqueeze(-1)
        grad_x = torch.addcmul(grad * weight, unit, share, value=-1).mul_(scale)
        grad_weight = along.flatten(0, -2).sum(0)
        return grad_x, grad_weight, None, grad if ctx.has_residual else None


class Gated(torch.autograd.Function):
    """silu(gate) * up, of gate and up side by side: (n, 2m) -> (n, m)."""

    @staticmethod
    def forward(ctx, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        opened = F.silu(gate)
        ctx.save_for_backward(gate_up, opened)
        return opened * up

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        gate_up, opened = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        both = torch.empty_like(gate_up)
        to_gate, to_up = both.chunk(2, dim=-1)
        torch.mul(grad, opened, out=to_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=to_gate)
        return both


def _in_out(weight: Tensor) -> Tensor:
    """(out, in) -> (in, out), in that order in memory where no gradient is wanted: a few rows are multiplied faster."""
    return weight.t() if weight.requires_grad else weight.t().contiguous()


def _rotate(pairs: Tensor, rotary: Tensor) -> Tensor:
    """Rotary embedding: pairs (..., heads, D/2, 2), as complex numbers, times rotary; (..., heads, D)."""
    return torch.view_as_real(torch.view_as_complex(pairs) * rotary).flatten(-2)


def unlike(model: nn.Module) -> str | None:
    """What of a model this module cannot compute, in words; None: it can."""
    if not isinstance(model, Olmo2ForCausalLM):
        return f"it runs Olmo2ForCausalLM only, not {type(model).__name__}"
    config = model.config
    needed = {
        "hidden_act": (config.hidden_act, "silu"),
        "attention_bias": (config.attention_bias, False),
        "rope_parameters.rope_type": (config.rope_parameters["rope_type"], "default"),
        "head_dim": (getattr(config, "head_dim", None), None),
    }
    for key, (found, accepted) in needed.items():
        if found != accepted:
            return f"config.json: {key} is {found!r}, and it runs {accepted!r} only"
    return None
