"""The embedded sampler: a bare decoding loop for OLMo2 on its raw weights, much faster than `generate`.

Where the speed comes from:
- a prompt is computed once for all its samples, and its keys and values are stored and read once per group;
- rows that have sampled the EOS leave the batch;
- the keys and values of the completions lie in dense blocks of 32 tokens: the same attention over a slice
  of one large cache took a CPU three to six times as long;
- few kernels a step: fused query/key/value and gate/up projections, the rotary embedding as one complex
  product, the attention scale folded into the query norm.

Left out: top-k, top-p and penalties (what is sampled must be what is scored), other architectures, several
devices. The uniform numbers of a sample depend on its seed only (see `sampler`). The logits, as in any
engine, can differ in the last bits between batches of other shapes: with other companions or another
max_batch_tokens a draw that falls within rounding of the border between two tokens (some in a million) can
go the other way. The same call gives the same bytes.

Shapes: B rows (samples being decoded), P prompts, L prompt tokens, S rows per prompt, H query heads, K
key/value heads, R = H / K, D head width, C = 32 tokens of a block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Olmo2ForCausalLM, PreTrainedTokenizerBase

from excursions.models.olmo2 import Olmo2, unlike
from excursions.params import UserError
from excursions.rollout.sampler import Completion, Samples, Stop, check_request, check_vocabulary, places_to_keep

BLOCK = 32  # completion tokens in one block of the cache
OTHERS = "in params.yaml, set <scale>.engine.name to transformers or vllm."  # engines of other architectures
BUCKET_ROWS = 128  # rows whose prompts are padded to one length: with fewer, kernels cost more than padding


@dataclass(frozen=True)
class _Row:
    """A sample to be drawn: its place in the caller's lists, and its seed."""

    prompt: int
    sample: int
    seed: int


class TorchEngine:
    """Samples from an Olmo2ForCausalLM in fp32, whatever the dtype of the model; implements `Sampler`.

    Without an EOS (None) every completion has max_new_tokens tokens. Ids >= vocab_size (padded rows of the
    embedding) are never sampled. `max_batch_tokens` bounds memory: so many tokens, of prompts and completions
    together, may have their keys and values cached at a time (at nano scale 4 kB each). `tokenizer`: for stop strings.
    """

    def __init__(
        self,
        model: Olmo2ForCausalLM,
        eos_token_id: int | None,
        vocab_size: int,
        max_batch_tokens: int = 65_536,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        if eos_token_id is not None and not 0 <= eos_token_id < vocab_size:
            raise UserError(
                f"eos_token_id is {eos_token_id}: it must be an id of the vocabulary, 0 to {vocab_size - 1}."
            )
        self.eos_token_id, self.vocab_size = eos_token_id, vocab_size
        self.stop = Stop(tokenizer, None)
        self.max_batch_tokens = max_batch_tokens
        self.load_weights(model)

    # ---- weights ----

    @torch.inference_mode()
    def load_weights(self, model: Olmo2ForCausalLM) -> None:
        """Copy the model's weights (a later update of the model does not show until this is called again)."""
        if wrong := unlike(model):
            raise UserError(f"The embedded engine cannot run this model: {wrong}; {OTHERS}")
        check_vocabulary(self.vocab_size, model)
        self.context = model.config.max_position_embeddings
        self.model = Olmo2(model, self.vocab_size, lambda p: p.detach().to(torch.float32, copy=True))

    def close(self) -> None:
        """Drop the weights."""
        del self.model

    # ---- batches ----

    @torch.inference_mode()
    def generate(
        self,
        prompts: list[list[int]],
        seeds_pg: list[list[int]],
        *,
        max_new_tokens: int,
        temperature: float,
        stop: str | Sequence[str] | None = None,
    ) -> list[list[Completion]]:
        """See `Sampler.generate`. UserError for a prompt that is empty, too long or has unknown ids."""
        n_ids = len(self.model.embedding)
        check_request(prompts, seeds_pg, max_new_tokens, temperature, context=self.context, n_ids=n_ids)
        self.stop = self.stop.of(stop)
        completions: list[list[Completion | None]] = [[None] * len(seeds) for seeds in seeds_pg]
        for rows in self._batches(prompts, seeds_pg, max_new_tokens):
            batch = self._generate_batch(prompts, rows, max_new_tokens, temperature)
            for row, completion in zip(rows, batch, strict=True):
                completions[row.prompt][row.sample] = completion
        return completions  # type: ignore[return-value]  # every place was filled

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
        device = self.model.embedding.device
        chosen = list(dict.fromkeys(row.prompt for row in rows))
        number = {p: i for i, p in enumerate(chosen)}
        prompt_b = torch.tensor([number[row.prompt] for row in rows], device=device)
        samples = Samples([row.seed for row in rows], max_new_tokens, temperature, self.eos_token_id, self.stop, device)
        logits_p, cache = self._prefill([prompts[p] for p in chosen], prompt_b)
        if not torch.isfinite(logits_p).all():
            raise UserError("The model's logits are not finite: its file is damaged or its training diverged.")
        return samples.draw_all(logits_p[prompt_b], partial(self._step, cache=cache), cache.drop)

    # ---- the model ----

    def _prefill(self, prompts: list[list[int]], prompt_b: Tensor) -> tuple[Tensor, _Cache]:
        """Run the prompts, a few of like length at a time; logits (P, vocab_size) of what follows each."""
        model, device = self.model, self.model.embedding.device
        length_p = torch.tensor([len(prompt) for prompt in prompts], device=device)
        logits, buckets = [], []
        for number_p in torch.arange(len(prompts)).split(max(1, BUCKET_ROWS * len(prompts) // len(prompt_b))):
            longest = int(length_p[number_p].max())
            # padded on the right, which causal attention never sees
            ids = [prompts[p] + [0] * (longest - len(prompts[p])) for p in number_p.tolist()]
            x = model.embedding[torch.tensor(ids, device=device)]
            bucket = _Prompts(number_p.to(device), length_p[number_p], model.kv_heads)
            for layer in model.layers:
                q, k, v = (z.transpose(1, 2) for z in model.qkv(x, layer, model.rotary[:longest, None]))
                bucket.keys.append(k.transpose(0, 1).contiguous())
                bucket.values.append(v.transpose(0, 1).contiguous())
                attended = F.scaled_dot_product_attention(
                    q, k, v, is_causal=True, scale=1.0, enable_gqa=model.heads != model.kv_heads
                )
                x = model.after_attention(x, attended.transpose(1, 2).flatten(2), layer)
            logits.append(model.logits(x[torch.arange(len(ids), device=device), length_p[number_p] - 1]))
            buckets.append(bucket)
        return torch.cat(logits), _Cache(len(model.layers), buckets, prompt_b, length_p[prompt_b])

    def _step(self, token_b: Tensor, cache: _Cache) -> Tensor:
        """Append one token to every row; logits (B, vocab_size) of what follows it."""
        x = self.model.embedding[token_b]
        rotary = self.model.rotary[cache.next_positions()][:, None]
        for i, layer in enumerate(self.model.layers):
            q, k, v = self.model.qkv(x, layer, rotary)
            x = self.model.after_attention(x, cache.attend(i, q, k, v), layer)
        cache.tokens += 1
        return self.model.logits(x)


class _Cache:
    """Keys and values of a batch: of each prompt once, and of each row's own tokens in blocks.

    blocks_k[i][j], blocks_v[i][j]: (B, K, C, D), tokens j * C to j * C + C - 1 of the completions in
    layer i, zero where not yet written.
    """

    def __init__(self, n_layers: int, buckets: list[_Prompts], prompt_b: Tensor, length_b: Tensor) -> None:
        self.buckets, self.prompt_b, self.length_b = buckets, prompt_b, length_b
        self.blocks_k: list[list[Tensor]] = [[] for _ in range(n_layers)]
        self.blocks_v: list[list[Tensor]] = [[] for _ in range(n_layers)]
        self.tokens = 0  # of each completion, in the cache
        infinite = torch.full((BLOCK, BLOCK), float("-inf"), device=prompt_b.device)
        self.unwritten_mask = infinite.triu(1)  # row t: added to the scores of a block with tokens 0 to t
        self._group_rows()

    def next_positions(self) -> Tensor:
        return self.length_b + self.tokens

    def attend(self, i: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store this step's k, v (B, K, D) in layer i; attention of q (B, H, D) over all so far: (B, H*D).

        Prompt and completion are attended to apart, then joined: each result counts with its share of the
        common softmax's denominator, so each comes with the logarithm of its own (Dao et al. 2022, sec. 3.1).
        """
        block, place = divmod(self.tokens, BLOCK)
        if place == 0:
            for blocks in (self.blocks_k[i], self.blocks_v[i]):
                blocks.append(k.new_zeros(*k.shape[:2], BLOCK, k.shape[2]))
        self.blocks_k[i][block][:, :, place] = k
        self.blocks_v[i][block][:, :, place] = v
        q = q.unflatten(1, (k.shape[1], -1))  # (B, K, R, D)
        own, own_log_sum = self._attend_own(i, q, self.unwritten_mask[place])
        in_buckets = zip(*(bucket.attend(i, q) for bucket in self.buckets), strict=True)
        prompt, prompt_log_sum = (torch.cat(z, dim=1).index_select(1, self.place_b).transpose(0, 1) for z in in_buckets)
        return own.lerp(prompt, (prompt_log_sum - own_log_sum).sigmoid()).flatten(1)

    def _attend_own(self, i: int, q: Tensor, unwritten_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Attention (B, K, R, D) of q over each row's completion, and its log denominators (B, K, R, 1)."""
        rows = q.flatten(0, 1)
        *full, last = (b.flatten(0, 1).transpose(1, 2) for b in self.blocks_k[i])
        scores = [torch.bmm(rows, b) for b in full] + [torch.baddbmm(unwritten_mask, rows, last)]
        weights, log_sum = _softmax(torch.cat(scores, dim=-1) if full else scores[0])
        attended = torch.zeros_like(rows)
        for part, b in zip(weights.split(BLOCK, dim=-1), self.blocks_v[i], strict=True):
            attended.baddbmm_(part.contiguous(), b.flatten(0, 1))  # a slice is slower by more than the copy
        return attended.view_as(q), log_sum.unflatten(0, q.shape[:2])

    def drop(self, running_b: Tensor) -> Tensor:
        """Forget the rows that are not running; returns which old row each kept row was."""
        keep, holes, moved = places_to_keep(running_b)
        for blocks in (*self.blocks_k, *self.blocks_v):
            for j, b in enumerate(blocks):
                b[holes] = b[moved]
                blocks[j] = b[: len(keep)]
        self.prompt_b, self.length_b = self.prompt_b[keep], self.length_b[keep]
        self._group_rows()
        return keep

    def _group_rows(self) -> None:
        """Tell each bucket its rows; place_b (B): where each row stands in the buckets' results, joined."""
        self.place_b = torch.empty_like(self.prompt_b)
        used, start = [], 0
        for bucket in self.buckets:
            is_row = bucket.group(self.prompt_b)
            if is_row.numel():
                places = torch.arange(start, start + is_row.numel(), device=is_row.device).view_as(is_row)
                self.place_b[bucket.row_ps[is_row]] = places[is_row]
                used.append(bucket)
                start += is_row.numel()
        self.buckets = used


class _Prompts:
    """A bucket of prompts of like length: their keys and values in each layer, (K, P, L, D)."""

    def __init__(self, number_p: Tensor, length_p: Tensor, kv_heads: int) -> None:
        self.number_p = number_p  # which prompt of the batch each is
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        is_padding = torch.arange(int(length_p.max()), device=length_p.device) >= length_p[:, None]
        mask = torch.zeros(is_padding.shape, device=length_p.device).masked_fill_(is_padding, float("-inf"))
        self.mask = mask.expand(kv_heads, 1, -1, -1).transpose(1, 2)  # (K, P, 1, L), added to the scores

    def attend(self, i: int, q: Tensor) -> tuple[Tensor, Tensor]:
        """Attention (K, P*S, R, D) of q (B, K, R, D) over the prompts, and its log denominators (K, P*S, R, 1).

        The rows of a prompt share one matrix product per key/value head.
        """
        grouped = q.transpose(0, 1).index_select(1, self.row_ps.flatten())
        grouped = grouped.unflatten(1, self.row_ps.shape)  # (K, P, S, R, D)
        rows = grouped.flatten(2, 3).flatten(0, 1)
        keys, values = self.keys[i].flatten(0, 1), self.values[i].flatten(0, 1)
        scores = torch.baddbmm(self.mask.flatten(0, 1), rows, keys.transpose(1, 2))  # (K*P, S*R, L)
        weights, log_sum = _softmax(scores)
        attended = torch.bmm(weights, values).view_as(grouped)
        return attended.flatten(1, 2), log_sum.view(*grouped.shape[:4], 1).flatten(1, 2)

    def group(self, prompt_b: Tensor) -> Tensor:
        """Set row_ps (P, S), the rows of each prompt; returns where it does (elsewhere it holds any).

        Prompts without rows are forgotten when they are many.
        """
        is_row_pb = prompt_b == self.number_p[:, None]
        in_use = is_row_pb.any(dim=1)
        if int(in_use.sum()) <= 0.75 * len(in_use):
            self.number_p, is_row_pb = self.number_p[in_use], is_row_pb[in_use]
            self.mask = self.mask[:, in_use]
            self.keys = [k[:, in_use] for k in self.keys]
            self.values = [v[:, in_use] for v in self.values]
        count_p = is_row_pb.sum(dim=1)
        per_prompt = int(count_p.max()) if len(count_p) else 0
        self.row_ps = is_row_pb.byte().argsort(dim=1, descending=True, stable=True)[:, :per_prompt]
        return torch.arange(per_prompt, device=prompt_b.device) < count_p[:, None]


def _softmax(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax over the last dimension, and the logarithm (..., 1) of its denominator."""
    weights = scores.softmax(dim=-1)
    # from the largest of each row, where the weight is at least 1 / n: cheaper than logsumexp, as exact
    return weights, scores.amax(dim=-1, keepdim=True) - weights.amax(dim=-1, keepdim=True).log()
