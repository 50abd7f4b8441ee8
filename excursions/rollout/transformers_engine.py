"""Sampling any causal language model of transformers with the model's own `generate`.

For architectures that the embedded engine does not know, where vLLM is not at hand. The draws are those of the
embedded engine: `generate` is asked for greedy decoding, and a logits processor leaves it one token to choose,
found from the sample's own uniform number (see `sampler`). So what is sampled is what is scored, and neither the
batch nor the model's generation_config (its temperature, top-k, penalties, more EOS ids) has a say.

Left out: sharing the prompt within a group, and dropping rows that have ended; vLLM does both.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from excursions.params import UserError
from excursions.rollout.sampler import Completion, check_request, check_vocabulary, draw, uniforms


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
        self.eos_token_id, self.vocab_size = tokenizer.eos_token_id, len(tokenizer)
        self.context = model.config.max_position_embeddings
        self.max_batch_tokens = max_batch_tokens
        # A model of its own, not a deep copy: that would take along hooks, and whatever else wraps the trainer's.
        gpus = [model.device] if model.device.type == "cuda" else []
        with torch.random.fork_rng(gpus), torch.device(model.device):
            self.model = AutoModelForCausalLM.from_config(copy.deepcopy(model.config), dtype=model.dtype).eval()
        self.model.generation_config = GenerationConfig()
        self.load_weights(model)

    def load_weights(self, model: PreTrainedModel) -> None:
        """Copy the model's weights (a later update of the model does not show until this is called again)."""
        self.model.load_state_dict(model.state_dict())

    def close(self) -> None:
        """Drop the model."""
        del self.model

    @torch.inference_mode()
    def generate(
        self, prompts: list[list[int]], seeds_pg: list[list[int]], *, max_new_tokens: int, temperature: float
    ) -> list[list[Completion]]:
        """See `Sampler.generate`. UserError for a prompt that is empty, too long or has unknown ids."""
        n_ids = self.model.get_input_embeddings().num_embeddings
        check_request(prompts, seeds_pg, max_new_tokens, temperature, context=self.context, n_ids=n_ids)
        completions: list[list[Completion | None]] = [[None] * len(seeds) for seeds in seeds_pg]
        for rows in self._batches(prompts, seeds_pg, max_new_tokens):
            prompt_b, seed_b = [prompts[p] for p, _ in rows], [seeds_pg[p][g] for p, g in rows]
            batch = self._generate_batch(prompt_b, seed_b, max_new_tokens, temperature)
            for (p, g), completion in zip(rows, batch, strict=True):
                completions[p][g] = completion
        return completions

    def _batches(
        self, prompts: list[list[int]], seeds_pg: list[list[int]], max_new_tokens: int
    ) -> Iterator[list[tuple[int, int]]]:
        """(prompt, sample) pairs in batches that fit max_batch_tokens (always at least one pair), of like length."""
        rows: list[tuple[int, int]] = []
        for p in sorted(range(len(prompts)), key=lambda p: len(prompts[p])):
            for g in range(len(seeds_pg[p])):
                if rows and (len(rows) + 1) * (len(prompts[p]) + max_new_tokens) > self.max_batch_tokens:
                    yield rows
                    rows = []
                rows.append((p, g))
        if rows:
            yield rows

    def _generate_batch(
        self, prompts: list[list[int]], seeds: list[int], max_new_tokens: int, temperature: float
    ) -> list[Completion]:
        device = self.model.device
        longest = max(map(len, prompts))
        padding = [longest - len(prompt) for prompt in prompts]  # on the left: all rows then end at one place
        ids = [[0] * n + prompt for n, prompt in zip(padding, prompts, strict=True)]
        mask = [[0] * n + [1] * (longest - n) for n in padding]
        uniform_bt = torch.from_numpy(uniforms(seeds, max_new_tokens)).to(device)
        drawing = _Draw(uniform_bt, self.vocab_size, temperature)
        self.model.generate(
            torch.tensor(ids, device=device),
            attention_mask=torch.tensor(mask, device=device),
            logits_processor=LogitsProcessorList([drawing]),
            generation_config=GenerationConfig(
                do_sample=False,
                max_new_tokens=max_new_tokens,
                eos_token_id=self.eos_token_id,
                pad_token_id=0,  # what rows that have ended are fed; no part of their completion
                use_cache=True,
            ),
        )
        token_bt, logp_bt = (torch.stack(found, 1).tolist() for found in (drawing.tokens, drawing.logps))
        return [self._completion(*row) for row in zip(token_bt, logp_bt, strict=True)]

    def _completion(self, token_ids: list[int], logprobs: list[float]) -> Completion:
        """The tokens up to the first EOS."""
        if self.eos_token_id not in token_ids:
            return Completion(token_ids, logprobs, "length")
        length = token_ids.index(self.eos_token_id) + 1
        return Completion(token_ids[:length], logprobs[:length], "eos")


class _Draw(LogitsProcessor):
    """Draws the token and leaves greedy decoding no other; keeps what was drawn, and its log-probability."""

    def __init__(self, uniform_bt: Tensor, vocab_size: int, temperature: float) -> None:
        self.uniform_bt, self.vocab_size, self.temperature = uniform_bt, vocab_size, temperature
        self.tokens: list[Tensor] = []
        self.logps: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        t = len(self.tokens)
        logits_bv = scores[:, : self.vocab_size].float()
        if t == 0 and not torch.isfinite(logits_bv).all():
            raise UserError("The model's logits are not finite: its file is damaged or its training diverged.")
        token_b, logp_b = draw(logits_bv, self.uniform_bt[:, t], self.temperature)
        self.tokens.append(token_b)
        self.logps.append(logp_b)
        return torch.full_like(scores, float("-inf")).scatter(1, token_b[:, None], 0.0)
