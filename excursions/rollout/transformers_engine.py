"""Sampling any causal language model of transformers, step by step with the model's own forward pass.

For architectures that the embedded engine does not know, where vLLM is not at hand. The draws are those of the
embedded engine, each found from the sample's own uniform number (see `sampler`): what is sampled is what is scored,
and neither the batch nor the model's generation_config (its temperature, top-k, penalties, more EOS ids) has a say.

Where the speed comes from:
- the tokens with which many prompts begin alike (the worked examples of a few-shot prompt) are computed once for all
  of them, and a prompt once for all its samples;
- rows that have ended leave the batch;
- keys and values lie in buffers made once for all the tokens to come;
- on a CPU the heads of a group attend to their one key, where transformers would copy it for each head under a mask.

A model with layers of another kind than full attention (sliding windows) gets transformers' own cache, and its prompts
share no beginning: the place of a token would not tell its distance.

Shapes: B rows (samples being drawn), P prompts, K key/value heads, D head width.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from os.path import commonprefix

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModelForCausalLM,
    Cache,
    DynamicCache,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.cache_utils import DynamicLayer
from transformers.masking_utils import sdpa_mask

from excursions.params import UserError
from excursions.rollout.sampler import Completion, Samples, Stop, check_request, check_vocabulary, places_to_keep

CLOSE = {torch.float32: 1e-3, torch.bfloat16: 0.2, torch.float16: 0.05}  # nats that rounding may change
SHARED = 64  # tokens: prompts that begin with the same are taken to share their worked examples


class TransformersEngine:
    """Samples from any causal language model, in its own dtype and on its own device; implements `Sampler`.

    The EOS is the tokenizer's (none: every completion has max_new_tokens tokens); ids >= len(tokenizer), padded rows
    of the embedding, are never sampled. `max_batch_tokens` bounds memory: so many tokens, padding included, may have
    their keys and values cached at a time.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_batch_tokens: int = 65_536
    ) -> None:
        check_vocabulary(len(tokenizer), model)
        self.tokenizer, self.vocab_size, self.stop = tokenizer, len(tokenizer), Stop(tokenizer, None)
        self.context = model.config.max_position_embeddings
        self.max_batch_tokens = max_batch_tokens
        # A model of its own, not a deep copy: that would take along hooks, and whatever else wraps the trainer's.
        gpus = [model.device] if model.device.type == "cuda" else []
        with torch.random.fork_rng(gpus), torch.device(model.device):
            self.model = AutoModelForCausalLM.from_config(copy.deepcopy(model.config), dtype=model.dtype).eval()
        if getattr(model.config, "attn_logit_softcapping", None):
            self.model.set_attn_implementation("eager")  # the others leave soft caps out
        elif model.device.type == "cpu" and self.model.config._attn_implementation == "sdpa":
            self.model.set_attn_implementation(GROUPED)
        full = all(type(layer) is DynamicLayer for layer in DynamicCache(config=self.model.config).layers)
        self.plain = full and "local" not in getattr(model.config, "attention_layers", ())  # GPT-Neo's sliding windows
        self.load_weights(model)
        self._check_cache()

    @torch.inference_mode()
    def _check_cache(self) -> None:
        """Raises UserError for an architecture that draws from another distribution step by step, with its cache and
        beside rows of other lengths, than in one forward pass of the whole text: some keep their state elsewhere, or
        take no notice of padding."""
        ids = [[place % self.vocab_size for place in range(1, length)] for length in (4, 9)]
        try:
            drawn = self.generate(ids, [[0, 1], [2, 3]], max_new_tokens=min(6, self.context - 8), temperature=1.0)
            gaps = [self._gap(prompt, found) for prompt, group in zip(ids, drawn, strict=True) for found in group]
        except (TypeError, AttributeError, ValueError, RuntimeError) as error:  # what a foreign cache meets
            gaps, said = [], f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        if not gaps or not all(gap < CLOSE.get(self.model.dtype, 1e-3) for gap in gaps):
            found = f"log-probabilities differ by {max(gaps):.2g} nats" if gaps else said
            raise UserError(
                f"{type(self.model).__name__} cannot be sampled step by step with transformers' cache ({found}); "
                "accepted: architectures of attention, whose past is their keys and values."
            )

    def _gap(self, prompt: list[int], completion: Completion) -> float:
        """The mean difference of a completion's log-probabilities from those of one pass without a cache."""
        ids = torch.tensor([prompt + completion.token_ids], device=self.model.device)
        logits_tv = self.model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1, : self.vocab_size]
        logp_tv = logits_tv.float().log_softmax(-1)
        logp_t = logp_tv.gather(1, ids[0, len(prompt) :, None]).squeeze(1)
        return (logp_t - torch.tensor(completion.logprobs, device=logp_t.device)).abs().mean().item()

    def load_weights(self, model: PreTrainedModel) -> None:
        """Copy the model's weights (a later update of the model does not show until this is called again)."""
        self.model.load_state_dict(model.state_dict())

    def close(self) -> None:
        """Drop the model."""
        del self.model

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
        n_ids = self.model.get_input_embeddings().num_embeddings
        check_request(prompts, seeds_pg, max_new_tokens, temperature, context=self.context, n_ids=n_ids)
        self.stop = self.stop.of(stop)
        completions: list[list[Completion | None]] = [[None] * len(seeds) for seeds in seeds_pg]
        for n_shared, numbers in self._shared_beginnings(prompts):
            beginning = DynamicCache(config=self.model.config)
            if n_shared:
                self._forward([prompts[numbers[0]][:n_shared]], beginning)
            for rows in self._batches(numbers, prompts, seeds_pg, max_new_tokens):
                seeds = [seeds_pg[p][g] for p, g in rows]
                samples = Samples(
                    seeds, max_new_tokens, temperature, self.tokenizer.eos_token_id, self.stop, self.model.device
                )
                drawn = self._draw(samples, [prompts[p] for p, _ in rows], beginning, n_shared)
                for (p, g), completion in zip(rows, drawn, strict=True):
                    completions[p][g] = completion
        return completions  # type: ignore[return-value]  # every place was filled

    # ---- batches ----

    def _shared_beginnings(self, prompts: list[list[int]]) -> list[tuple[int, list[int]]]:
        """Prompts by their common beginning: its length, and which prompts have it.

        Of every prompt at least the last token is left: from it follows the first new one.
        """
        count = Counter(tuple(prompt[:SHARED]) for prompt in prompts)
        groups: dict[tuple[int, ...] | None, list[int]] = {}
        for p, prompt in enumerate(prompts):
            key = tuple(prompt[:SHARED])
            groups.setdefault(key if count[key] > 1 else None, []).append(p)
        found = []
        for numbers in groups.values():
            common = len(commonprefix([prompts[p] for p in numbers]))
            found.append((min(common, min(len(prompts[p]) for p in numbers) - 1) if self.plain else 0, numbers))
        return found

    def _batches(
        self, numbers: list[int], prompts: list[list[int]], seeds_pg: list[list[int]], max_new_tokens: int
    ) -> Iterator[list[tuple[int, int]]]:
        """(prompt, sample) pairs in batches that fit max_batch_tokens (always at least one pair), of like length."""
        rows: list[tuple[int, int]] = []
        for p in sorted(numbers, key=lambda p: (len(prompts[p]), prompts[p])):
            for g in range(len(seeds_pg[p])):
                if rows and (len(rows) + 1) * (len(prompts[p]) + max_new_tokens) > self.max_batch_tokens:
                    yield rows
                    rows = []
                rows.append((p, g))
        if rows:
            yield rows

    def _draw(self, samples: Samples, prompt_b: list[list[int]], beginning: Cache, n_shared: int) -> list[Completion]:
        """Draw completions of these prompts, which begin with the tokens whose keys and values are given."""
        device = self.model.device
        distinct = list(dict.fromkeys(map(tuple, prompt_b)))
        number = {prompt: i for i, prompt in enumerate(distinct)}
        row_p = torch.tensor([number[tuple(prompt)] for prompt in prompt_b], device=device)
        longest, room = max(map(len, distinct)), max(map(len, distinct)) + samples.max_new_tokens
        padding = [longest - len(prompt) for prompt in distinct]  # on the left: all rows then end at one place
        mask_pt = torch.ones(len(distinct), room, dtype=torch.long, device=device)
        for p, n in enumerate(padding):
            mask_pt[p, n_shared : n_shared + n] = 0
        tails = [[0] * n + list(prompt[n_shared:]) for n, prompt in zip(padding, distinct, strict=True)]

        cache = self._rows_of(beginning, torch.zeros(len(distinct), dtype=torch.long, device=device), longest)
        logits_p = self._forward(tails, cache, mask_pt[:, :longest])
        if not torch.isfinite(logits_p).all():
            raise UserError("The model's logits are not finite: its file is damaged or its training diverged.")
        cache = self._rows_of(cache, row_p, room)
        mask_bt = mask_pt[row_p]

        def step(token_b: Tensor) -> Tensor:
            return self._forward(token_b[:, None], cache, mask_bt[:, : longest + samples.drawn])

        def drop(running_b: Tensor) -> Tensor:
            nonlocal mask_bt
            keep, holes, moved = places_to_keep(running_b)
            mask_bt = mask_bt[keep]
            if self.plain:
                for layer in cache.layers:
                    layer.drop(len(keep), holes, moved)
            else:
                cache.batch_select_indices(keep)
            return keep

        return samples.draw_all(logits_p[row_p], step, drop)

    # ---- the model ----

    def _forward(self, ids: list[list[int]] | Tensor, cache: Cache, mask_bt: Tensor | None = None) -> Tensor:
        """Append tokens (B, T) to the cache; logits (B, vocab_size) of what follows the last."""
        ids = torch.as_tensor(ids, device=self.model.device)
        if mask_bt is None:
            mask_bt = torch.ones_like(ids)
        position_bt = (mask_bt.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        output = self.model(
            input_ids=ids,
            attention_mask=mask_bt,
            position_ids=position_bt,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1, : self.vocab_size].float()

    def _rows_of(self, cache: Cache, row_b: Tensor, room: int) -> Cache:
        """A cache whose row b is row row_b[b] of another, with room for so many tokens."""
        if not self.plain:
            if not cache.get_seq_length():
                return DynamicCache(config=self.model.config)
            cache.batch_select_indices(row_b)
            return cache
        return Cache(layers=[_Buffer(layer, row_b, room) for layer in cache.layers])


class _Buffer(DynamicLayer):
    """Keys and values of one layer (B, K, T, D) as the first T of `room` places that are there from the beginning."""

    def __init__(self, past: DynamicLayer, row_b: Tensor, room: int) -> None:
        super().__init__()
        self.rows, self.room = len(row_b), room
        if past.get_seq_length():
            keys, values = past.keys[row_b], past.values[row_b]
            self.lazy_initialization(keys, values)
            self.update(keys, values)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Make the buffers, now that their shape is known."""
        self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
        states = (key_states, value_states)
        self.buffers = [x.new_empty(self.rows, x.shape[1], self.room, x.shape[3]) for x in states]
        self.keys, self.values = (buffer[:, :, :0] for buffer in self.buffers)

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Append keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, end = self.keys.shape[2], self.keys.shape[2] + key_states.shape[2]
        for buffer, new in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:end] = new
        self.keys, self.values = (buffer[:, :, :end] for buffer in self.buffers)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Tokens that are there."""
        return self.keys.shape[2] if self.is_initialized else 0

    def drop(self, n_kept: int, holes: Tensor, moved: Tensor) -> None:
        """Keep so many rows, after the holes among them are filled with those that are moved."""
        length = self.keys.shape[2]
        for buffer in self.buffers:
            buffer[holes, :, :length] = buffer[moved, :, :length]
        self.buffers = [buffer[:n_kept] for buffer in self.buffers]
        self.keys, self.values = (buffer[:, :, :length] for buffer in self.buffers)


def _grouped_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **others,
) -> tuple[Tensor, None]:
    """transformers' "sdpa" for decoding, without a copy of each key for every head of its group."""
    attended = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=attention_mask,
        is_causal=attention_mask is None and query.shape[2] > 1,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return attended.transpose(1, 2).contiguous(), None


GROUPED = "excursions_grouped"
AttentionInterface.register(GROUPED, _grouped_attention)
AttentionMaskInterface.register(GROUPED, sdpa_mask)
