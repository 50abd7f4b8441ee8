"""The embedded sampler: a bare decoding loop for OLMo2 on its raw weights, several times faster than `generate`.

Where the speed comes from, in order of weight:
- a prompt is computed once for all its samples, and its keys and values are stored and read once per group;
- rows that have sampled the EOS leave the batch;
- the keys and values of the completions lie in dense blocks of 32 tokens: an attention over a slice of one large
  preallocated cache reads the same bytes several times more slowly on a CPU;
- few kernels a step: fused query/key/value and gate/up projections, the rotary embedding as one complex product,
  the attention scale folded into the query norm. With a small model those, not the arithmetic, would be the cost.

Left out: top-k, top-p and penalties (what is sampled must be what is scored), other architectures, several
devices. Large models are for `vllm_engine`. The draws of a sample depend on its seed only (see `sampler`); the
logits can differ in the last bit between batch shapes, as in any engine, so a draw that falls on the boundary of
two tokens to within rounding (about one in 10^6) can differ when `max_batch_tokens` is changed.

Shapes: B rows (samples being decoded), P prompts, L prompt tokens, S rows per prompt, H query heads, K key/value
heads, R = H / K, D head width, C = 32 tokens of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Olmo2ForCausalLM

from excursions.params import UserError
from excursions.rollout.sampler import Completion, uniforms

BLOCK = 32  # completion tokens in one block of the cache


@dataclass(frozen=True)
class _Layer:
    """One block's weights, fp32, matrices as (in, out); columns of q and k are ordered for the complex rotary."""

    qkv: Tensor
    q_norm: Tensor  # times D^-0.5
    k_norm: Tensor
    out: Tensor
    post_attention_norm: Tensor
    gate_up: Tensor
    down: Tensor
    post_mlp_norm: Tensor


@dataclass(frozen=True)
class _Row:
    """A sample to be drawn: its place in the caller's lists, and its seed."""

    prompt: int
    sample: int
    seed: int


class TorchEngine:
    """Samples from an Olmo2ForCausalLM in fp32, whatever the dtype of the model; implements `Sampler`.

    Without an EOS (None) every completion has max_new_tokens tokens. Ids >= vocab_size (padded rows of the embedding) are never sampled. `max_batch_tokens` bounds memory: it is the
    number of tokens, of prompts and completions together, whose keys and values may be cached at a time.
    """

    def __init__(
        self,
        model: Olmo2ForCausalLM,
        eos_token_id: int | None,
        vocab_size: int,
        max_batch_tokens: int = 65_536,
    ) -> None:
        if eos_token_id is not None and not 0 <= eos_token_id < vocab_size:
            raise UserError(
                f"eos_token_id is {eos_token_id}: it must be an id of the vocabulary, 0 to {vocab_size - 1}."
            )
        self.eos_token_id = -1 if eos_token_id is None else eos_token_id
        self.vocab_size = vocab_size
        self.max_batch_tokens = max_batch_tokens
        self.load_weights(model)

    # ---- weights ----

    @torch.inference_mode()
    def load_weights(self, model: Olmo2ForCausalLM) -> None:
        """Copy the model's weights (a later update of the model does not show until this is called again)."""
        _check_architecture(model)
        config = model.config
        if self.vocab_size > config.vocab_size:
            raise UserError(
                f"The tokenizer has {self.vocab_size} tokens and the model's vocab_size is {config.vocab_size}: "
                "they do not belong together. Load both from one checkpoint folder."
            )
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = config.hidden_size // self.heads
        self.eps, self.context = config.rms_norm_eps, config.max_position_embeddings
        weights = {name: p.detach().to(torch.float32, copy=True) for name, p in model.state_dict().items()}
        self.embedding = weights["model.embed_tokens.weight"]
        self.final_norm = weights["model.norm.weight"]
        self.head = weights["lm_head.weight"][: self.vocab_size].t().contiguous()
        self.layers = [self._layer(weights, f"model.layers.{i}.") for i in range(config.num_hidden_layers)]
        theta = config.rope_parameters["rope_theta"]
        frequency = theta ** -(torch.arange(0, self.head_dim, 2).float() / self.head_dim)
        angle = torch.outer(torch.arange(self.context).float(), frequency)
        self.rotary = torch.polar(torch.ones_like(angle), angle).to(
            self.embedding.device
        )  # (context, D/2) complex

    def _layer(self, weights: dict[str, Tensor], prefix: str) -> _Layer:
        def get(name: str) -> Tensor:
            return weights[f"{prefix}{name}.weight"]

        def paired(x: Tensor) -> Tensor:
            """Transformers rotates dimension i with i + D/2; put the two side by side, as one complex number.

            Queries and keys are permuted alike, so their products do not change.
            """
            return x.unflatten(0, (-1, 2, self.head_dim // 2)).transpose(1, 2).flatten(0, 2)

        q, k = paired(get("self_attn.q_proj")), paired(get("self_attn.k_proj"))
        return _Layer(
            qkv=torch.cat([q, k, get("self_attn.v_proj")]).t().contiguous(),
            q_norm=paired(get("self_attn.q_norm")) * self.head_dim**-0.5,
            k_norm=paired(get("self_attn.k_norm")),
            out=get("self_attn.o_proj").t().contiguous(),
            post_attention_norm=get("post_attention_layernorm"),
            gate_up=torch.cat([get("mlp.gate_proj"), get("mlp.up_proj")]).t().contiguous(),
            down=get("mlp.down_proj").t().contiguous(),
            post_mlp_norm=get("post_feedforward_layernorm"),
        )

    # ---- batches ----

    @torch.inference_mode()
    def generate(
        self, prompts: list[list[int]], seeds_pg: list[list[int]], *, max_new_tokens: int, temperature: float
    ) -> list[list[Completion]]:
        """See `Sampler.generate`. UserError for an empty or too long prompt, or an id the model does not have."""
        self._check_request(prompts, seeds_pg, max_new_tokens, temperature)
        completions: list[list[Completion | None]] = [[None] * len(seeds) for seeds in seeds_pg]
        for rows in self._batches(prompts, seeds_pg, max_new_tokens):
            batch = self._generate_batch(prompts, rows, max_new_tokens, temperature)
            for row, completion in zip(rows, batch, strict=True):
                completions[row.prompt][row.sample] = completion
        return completions

    def _batches(
        self, prompts: list[list[int]], seeds_pg: list[list[int]], max_new_tokens: int
    ) -> Iterator[list[_Row]]:
        """Cut the work into batches that fit max_batch_tokens (always at least one row).

        Prompts of like length go together, for little padding; the caller's order does not matter.
        """
        rows: list[_Row] = []
        n_prompts = 0
        for p in sorted(range(len(prompts)), key=lambda p: (len(prompts[p]), prompts[p], seeds_pg[p])):
            for sample, seed in enumerate(seeds_pg[p]):
                new_prompt = not rows or rows[-1].prompt != p
                tokens = (n_prompts + new_prompt) * len(prompts[p]) + (len(rows) + 1) * max_new_tokens
                if rows and tokens > self.max_batch_tokens:
                    yield rows
                    rows, n_prompts, new_prompt = [], 0, True
                rows.append(_Row(p, sample, seed))
                n_prompts += new_prompt
        if rows:
            yield rows

    def _generate_batch(
        self, prompts: list[list[int]], rows: list[_Row], max_new_tokens: int, temperature: float
    ) -> list[Completion]:
        device = self.embedding.device
        chosen = sorted({row.prompt for row in rows}, key=[row.prompt for row in rows].index)
        number = {p: i for i, p in enumerate(chosen)}
        prompt_b = torch.tensor([number[row.prompt] for row in rows], device=device)
        uniform_bt = torch.from_numpy(uniforms([row.seed for row in rows], max_new_tokens)).to(device)
        token_bt = torch.zeros(len(rows), max_new_tokens, dtype=torch.long, device=device)
        logp_bt = torch.zeros(len(rows), max_new_tokens, device=device)
        length_b = torch.full((len(rows),), max_new_tokens, device=device)

        logits_p, cache = self._prefill([prompts[p] for p in chosen], prompt_b)
        if not torch.isfinite(logits_p).all():
            raise UserError(
                "The model's logits are not finite: its weights are damaged or its training diverged."
            )
        logits_b = logits_p[prompt_b]
        alive_b = torch.arange(
            len(rows), device=device
        )  # the row of the outputs behind each row in the batch
        for t in range(max_new_tokens):
            token_b, logp_b = _draw(logits_b, uniform_bt[alive_b, t], temperature)
            token_bt[alive_b, t] = token_b
            logp_bt[alive_b, t] = logp_b
            ended_b = (token_b == self.eos_token_id) & (length_b[alive_b] == max_new_tokens)
            length_b[alive_b[ended_b]] = t + 1
            running_b = length_b[alive_b] == max_new_tokens
            n_running = int(running_b.sum())
            if t + 1 == max_new_tokens or n_running == 0:
                break
            if n_running <= 0.95 * len(running_b):  # moving a row costs about two steps of computing it
                keep = cache.drop(running_b)
                alive_b, token_b = alive_b[keep], token_b[keep]
            logits_b = self._step(token_b, cache)

        completions = []
        outputs = (length_b.tolist(), token_bt.tolist(), logp_bt.tolist())
        for length, token_ids, logprobs in zip(*outputs, strict=True):
            reason = "eos" if token_ids[length - 1] == self.eos_token_id else "length"
            completions.append(Completion(token_ids[:length], logprobs[:length], reason))
        return completions

    # ---- the model ----

    def _prefill(self, prompts: list[list[int]], prompt_b: Tensor) -> tuple[Tensor, _Cache]:
        """Run the prompts (padded on the right, which causal attention never sees); logits of their last tokens."""
        device = self.embedding.device
        length_p = torch.tensor([len(prompt) for prompt in prompts], device=device)
        longest = int(length_p.max())
        ids = [prompt + [0] * (longest - len(prompt)) for prompt in prompts]
        x = self.embedding[torch.tensor(ids, device=device)]
        cache = _Cache(len(self.layers), length_p, prompt_b, longest)
        for layer in self.layers:
            q, k, v = (z.transpose(1, 2) for z in self._qkv(x, layer, self.rotary[:longest, None]))
            cache.prompt_k.append(k.contiguous())
            cache.prompt_v.append(v.contiguous())
            attended = F.scaled_dot_product_attention(
                q, k, v, is_causal=True, scale=1.0, enable_gqa=self.heads != self.kv_heads
            )
            x = self._after_attention(x, attended.transpose(1, 2).flatten(2), layer)
        return self._logits(x[torch.arange(len(prompts), device=device), length_p - 1]), cache

    def _step(self, token_b: Tensor, cache: _Cache) -> Tensor:
        """Append one token to every row; logits (B, vocab_size) of what follows it."""
        x = self.embedding[token_b]
        rotary = self.rotary[cache.next_positions()][:, None]
        for i, layer in enumerate(self.layers):
            q, k, v = self._qkv(x, layer, rotary)
            x = self._after_attention(x, cache.attend(i, q, k, v), layer)
        cache.tokens += 1
        return self._logits(x)

    def _qkv(self, x: Tensor, layer: _Layer, rotary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (..., hidden) -> q (..., H, D) rotated and scaled, k (..., K, D) rotated, v (..., K, D)."""
        d = self.head_dim
        q, k, v = (x @ layer.qkv).split([self.heads * d, self.kv_heads * d, self.kv_heads * d], dim=-1)
        q = F.rms_norm(q, q.shape[-1:], layer.q_norm, self.eps)
        k = F.rms_norm(k, k.shape[-1:], layer.k_norm, self.eps)
        q, k = (_rotate(z.unflatten(-1, (-1, d // 2, 2)), rotary) for z in (q, k))
        return q, k, v.unflatten(-1, (-1, d))

    def _after_attention(self, x: Tensor, attended: Tensor, layer: _Layer) -> Tensor:
        """Output projection and MLP, each normalized before it is added to the residual stream (OLMo2)."""
        x = x + F.rms_norm(attended @ layer.out, x.shape[-1:], layer.post_attention_norm, self.eps)
        gate, up = (x @ layer.gate_up).chunk(2, dim=-1)
        return x + F.rms_norm((F.silu(gate) * up) @ layer.down, x.shape[-1:], layer.post_mlp_norm, self.eps)

    def _logits(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], self.final_norm, self.eps) @ self.head

    def _check_request(
        self, prompts: list[list[int]], seeds_pg: list[list[int]], max_new_tokens: int, temperature: float
    ) -> None:
        if len(prompts) != len(seeds_pg):
            raise ValueError(
                f"{len(prompts)} prompts but seeds for {len(seeds_pg)}: give one list of seeds a prompt."
            )
        if max_new_tokens < 1:
            raise UserError(f"max_new_tokens is {max_new_tokens}: it must be at least 1.")
        if not 0 <= temperature < float("inf"):
            raise UserError(f"temperature is {temperature}: it must be 0 (greedy) or a positive number.")
        for p, prompt in enumerate(prompts):
            if not prompt:
                raise UserError(f"Prompt {p} is empty: it must hold at least one token.")
            if len(prompt) + max_new_tokens > self.context:
                raise UserError(
                    f"Prompt {p} has {len(prompt)} tokens; with max_new_tokens {max_new_tokens} that is "
                    f"{len(prompt) + max_new_tokens}, and the model's context is {self.context}. Use fewer few-shot "
                    "examples, a shorter prompt or a smaller max_new_tokens."
                )
            if not 0 <= min(prompt) <= max(prompt) < len(self.embedding):
                raise UserError(
                    f"Prompt {p} holds token ids from {min(prompt)} to {max(prompt)}; the model has ids 0 to "
                    f"{len(self.embedding) - 1}. Was it written with another tokenizer?"
                )


class _Cache:
    """Keys and values of a batch: of each prompt once, and of each row's own tokens in blocks.

    prompt_k[i], prompt_v[i]: (P, K, L, D) of layer i. blocks_k[i][j], blocks_v[i][j]: (B, K, C, D), tokens
    j*C to j*C + C - 1 of the completions, zero where not yet written.
    """

    def __init__(self, n_layers: int, length_p: Tensor, prompt_b: Tensor, longest: int) -> None:
        self.prompt_k: list[Tensor] = []
        self.prompt_v: list[Tensor] = []
        self.blocks_k: list[list[Tensor]] = [[] for _ in range(n_layers)]
        self.blocks_v: list[list[Tensor]] = [[] for _ in range(n_layers)]
        self.tokens = 0  # of each completion, in the cache
        self.length_b = length_p[prompt_b]
        self.prompt_b = prompt_b
        positions = torch.arange(longest, device=length_p.device)
        self.padding_mask = torch.zeros(len(length_p), 1, 1, longest, device=length_p.device)
        self.padding_mask.masked_fill_((positions >= length_p[:, None])[:, None, None], float("-inf"))
        ones = torch.ones(BLOCK, BLOCK, device=length_p.device)
        self.unwritten_mask = torch.zeros_like(ones).masked_fill_(ones.triu(1).bool(), float("-inf"))
        self._group_rows()

    def next_positions(self) -> Tensor:
        return self.length_b + self.tokens

    def attend(self, i: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store this step's k, v (B, K, D) in layer i; attention of q (B, H, D) over prompt and completion: (B, H*D)."""
        n_rows, n_heads, d = q.shape
        kv_heads = k.shape[1]
        block, place = divmod(self.tokens, BLOCK)
        if place == 0:
            for blocks in (self.blocks_k[i], self.blocks_v[i]):
                blocks.append(k.new_zeros(n_rows, kv_heads, BLOCK, d))
        self.blocks_k[i][block][:, :, place] = k
        self.blocks_v[i][block][:, :, place] = v

        q_own = q.reshape(
            n_rows * kv_heads, -1, d
        )  # (B*K, R, D): the query heads of a key/value head are neighbours
        scores = [self._prompt_scores(i, q, kv_heads)]
        for b in self.blocks_k[i][:-1]:
            scores.append(torch.bmm(q_own, b.flatten(0, 1).transpose(1, 2)).view(n_rows, n_heads, BLOCK))
        last = self.blocks_k[i][-1].flatten(0, 1).transpose(1, 2)
        scores.append(torch.baddbmm(self.unwritten_mask[place], q_own, last).view(n_rows, n_heads, BLOCK))
        weights = torch.cat(scores, dim=-1).softmax(dim=-1)

        longest = self.padding_mask.shape[-1]
        attended = self._prompt_values(i, weights[:, :, :longest], kv_heads).reshape(n_rows * kv_heads, -1, d)
        for j, b in enumerate(self.blocks_v[i]):
            start = longest + j * BLOCK
            part = weights[:, :, start : start + BLOCK].unflatten(1, (kv_heads, -1)).flatten(0, 1)
            attended = torch.baddbmm(attended, part, b.flatten(0, 1))
        return attended.view(n_rows, n_heads * d)

    def _prompt_scores(self, i: int, q: Tensor, kv_heads: int) -> Tensor:
        """Scores (B, H, L) of every row against its prompt: one matrix product per prompt and key/value head."""
        grouped = self._to_groups(q, kv_heads)  # (P*K, S*R, D)
        keys = self.prompt_k[i]
        mask = self.padding_mask.expand(-1, kv_heads, -1, -1).flatten(0, 1)
        scores = torch.baddbmm(mask, grouped, keys.flatten(0, 1).transpose(1, 2))
        return self._to_rows(scores, kv_heads)

    def _prompt_values(self, i: int, weights: Tensor, kv_heads: int) -> Tensor:
        """weights (B, H, L) -> weighted sums (B, H, D) of the prompts' values."""
        values = torch.bmm(self._to_groups(weights, kv_heads), self.prompt_v[i].flatten(0, 1))
        return self._to_rows(values, kv_heads)

    def _to_groups(self, z: Tensor, kv_heads: int) -> Tensor:
        """(B, H, X) -> (P*K, S*R, X): the rows of a prompt together; empty places repeat some row."""
        z = z[self.row_ps].unflatten(2, (kv_heads, -1))  # (P, S, K, R, X)
        return z.transpose(1, 2).flatten(2, 3).flatten(0, 1)

    def _to_rows(self, z: Tensor, kv_heads: int) -> Tensor:
        """The inverse of _to_groups: (P*K, S*R, X) -> (B, H, X)."""
        n_prompts, per_prompt = self.row_ps.shape
        z = z.view(n_prompts, kv_heads, per_prompt, -1, z.shape[-1]).transpose(1, 2).flatten(2, 3)
        return z.flatten(0, 1)[self.place_b]

    def drop(self, running_b: Tensor) -> Tensor:
        """Forget the rows that are not running; returns which old row each kept row was.

        The holes are filled with the last rows: no more rows are moved than dropped.
        """
        n_kept = int(running_b.sum())
        keep = torch.arange(n_kept, device=running_b.device)
        holes = (~running_b[:n_kept]).nonzero().squeeze(1)
        moved = running_b[n_kept:].nonzero().squeeze(1) + n_kept
        keep[holes] = moved
        for blocks in (*self.blocks_k, *self.blocks_v):
            for j, b in enumerate(blocks):
                b[holes] = b[moved]
                blocks[j] = b[:n_kept]
        self.prompt_b, self.length_b = self.prompt_b[keep], self.length_b[keep]
        wanted, renumbered = torch.unique(self.prompt_b, return_inverse=True)
        if len(wanted) <= 0.75 * len(self.padding_mask):
            self.prompt_k = [k[wanted] for k in self.prompt_k]
            self.prompt_v = [v[wanted] for v in self.prompt_v]
            self.padding_mask = self.padding_mask[wanted]
            self.prompt_b = renumbered
        self._group_rows()
        return keep

    def _group_rows(self) -> None:
        """row_ps (P, S): the rows of each prompt; place_b (B): where each row stands in row_ps.flatten()."""
        order = self.prompt_b.argsort(stable=True)
        count_p = torch.bincount(self.prompt_b, minlength=len(self.padding_mask))
        first_p = count_p.cumsum(0) - count_p
        per_prompt = int(count_p.max())
        place = torch.arange(len(order), device=order.device) - first_p[self.prompt_b[order]]
        place = place + self.prompt_b[order] * per_prompt
        self.place_b = torch.empty_like(order)
        self.place_b[order] = place
        self.row_ps = order.new_zeros(len(count_p) * per_prompt)
        self.row_ps[place] = order
        self.row_ps = self.row_ps.view(len(count_p), per_prompt)


def _rotate(pairs: Tensor, rotary: Tensor) -> Tensor:
    """Rotary embedding: pairs (..., heads, D/2, 2) as complex numbers times rotary (..., 1, D/2): (..., heads, D)."""
    return torch.view_as_real(torch.view_as_complex(pairs) * rotary).flatten(-2)


def _draw(logits_b: Tensor, uniform_b: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """One token a row by inversion of the distribution function, and its log-probability."""
    if temperature == 0:
        token_b = logits_b.argmax(dim=-1)
        return token_b, logits_b.log_softmax(dim=-1).gather(1, token_b[:, None]).squeeze(1)
    p = (logits_b / temperature).softmax(dim=-1)
    # in double precision: a sum of many small fp32 terms would be off by more than their size
    cdf = p.cumsum(dim=-1, dtype=torch.float64)
    token_b = torch.searchsorted(cdf, uniform_b[:, None] * cdf[:, -1:], right=True)
    token_b.clamp_(max=logits_b.shape[1] - 1)  # where the product rounds up to the whole sum
    return token_b.squeeze(1), p.gather(1, token_b).squeeze(1).log()


def _check_architecture(model: Olmo2ForCausalLM) -> None:
    if not isinstance(model, Olmo2ForCausalLM):
        raise UserError(
            f"The embedded engine runs Olmo2ForCausalLM only, not {type(model).__name__}; use vllm_engine."
        )
    config = model.config
    needed = {
        "hidden_act": (config.hidden_act, "silu"),
        "attention_bias": (config.attention_bias, False),
        "rope_parameters.rope_type": (config.rope_parameters["rope_type"], "default"),
        "head_dim": (getattr(config, "head_dim", None), None),
    }
    for key, (found, accepted) in needed.items():
        if found != accepted:
            raise UserError(
                f"config.json: {key} is {found!r}; the embedded engine runs {accepted!r} only; use vllm_engine."
            )
