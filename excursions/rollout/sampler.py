"""What a sampler is: prompts and seeds in, completions with their log-probabilities out.

Randomness is counter-based. The uniform number behind token t of a sample is a function of the sample's
seed and of t alone, and the seed is a hash of (run seed, step, question, sample). So a draw does not depend
on which other samples share its batch, on their order, or on whether the run was interrupted and resumed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from excursions.params import UserError

GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)  # the increment of splitmix64


@dataclass(frozen=True)
class Completion:
    """One sampled continuation of a prompt."""

    token_ids: list[int]  # the EOS is the last one if it was sampled; it is never added by hand
    logprobs: list[float]  # of each token under log_softmax(logits / T), the distribution it was drawn from
    stop_reason: Literal["eos", "length"]


class Sampler(Protocol):
    """What the recipes and the evaluation need from an engine."""

    def generate(
        self, prompts: list[list[int]], seeds_pg: list[list[int]], *, max_new_tokens: int, temperature: float
    ) -> list[list[Completion]]:
        """Sample one completion of prompt p for each seed in seeds_pg[p]; the order of both is kept.

        Temperature 0 is greedy; its log-probabilities are those of temperature 1.
        """
        ...

    def load_weights(self, model: PreTrainedModel) -> None:
        """Take a snapshot of the model's weights. To be called after every update of the model."""
        ...

    def close(self) -> None:
        """Free the memory the engine holds. Nothing can be asked of it after that."""
        ...


def sample_seed(run_seed: int, step: int, question_id: str, sample: int) -> int:
    """The seed, in [0, 2^63), of one sample of one question at one step: a hash, the same anywhere."""
    # the id comes last: the three numbers cannot contain the separator, so no two inputs share a key
    key = f"{run_seed}/{step}/{sample}/{question_id}"
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") >> 1


def uniforms(seeds: list[int], n_tokens: int) -> np.ndarray:
    """Uniform numbers in [0, 1), float64, shape (len(seeds), n_tokens): entry (b, t) is f(seeds[b], t).

    splitmix64 (Steele, Lea, Flood 2014) started at the scrambled seed, so that neighbouring seeds
    (0, 1, 2 ...) have unrelated streams.
    """
    start = _mix(np.asarray(seeds, dtype=np.uint64))[:, None]
    counter = np.arange(1, n_tokens + 1, dtype=np.uint64)[None, :]
    return (_mix(start + counter * GOLDEN_GAMMA) >> np.uint64(11)) * 2.0**-53


def _mix(z: np.ndarray) -> np.ndarray:
    """The output function of splitmix64, elementwise on uint64 (arithmetic wraps at 2^64)."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def draw(logits_b: Tensor, uniform_b: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """One token a row by inversion of the distribution function, and its log-probability: (B, V), (B) -> (B), (B)."""
    if temperature == 0:
        token_b = logits_b.argmax(dim=-1)
        return token_b, logits_b.log_softmax(dim=-1).gather(1, token_b[:, None]).squeeze(1)
    p = (logits_b / temperature).softmax(dim=-1)
    # in double precision: a sum of many small fp32 terms would be off by more than their size
    cdf = p.cumsum(dim=-1, dtype=torch.float64)
    token_b = torch.searchsorted(cdf, uniform_b[:, None] * cdf[:, -1:], right=True)
    token_b.clamp_(max=logits_b.shape[1] - 1)  # where the product rounds up to the whole sum
    return token_b.squeeze(1), p.gather(1, token_b).squeeze(1).log()


def check_request(
    prompts: list[list[int]],
    seeds_pg: list[list[int]],
    max_new_tokens: int,
    temperature: float,
    *,
    context: int,
    n_ids: int,
) -> None:
    """Raise UserError for a request that a model of `context` positions and `n_ids` token ids cannot answer."""
    if len(prompts) != len(seeds_pg):
        raise ValueError(f"{len(prompts)} prompts but seeds for {len(seeds_pg)}: give one list of seeds a prompt.")
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens is {max_new_tokens}: it must be at least 1.")
    if not 0 <= temperature < float("inf"):
        raise UserError(f"temperature is {temperature}: it must be 0 (greedy) or a positive number.")
    for p, prompt in enumerate(prompts):
        if not prompt:
            raise UserError(f"Prompt {p} is empty: it must hold at least one token.")
        if len(prompt) + max_new_tokens > context:
            raise UserError(
                f"Prompt {p} has {len(prompt)} tokens; with max_new_tokens {max_new_tokens} that is "
                f"{len(prompt) + max_new_tokens}, and the model's context is {context}. Use a "
                "shorter prompt, fewer few-shot examples or a smaller max_new_tokens."
            )
        if not 0 <= min(prompt) <= max(prompt) < n_ids:
            raise UserError(
                f"Prompt {p} holds token ids from {min(prompt)} to {max(prompt)}; the model has ids 0 to "
                f"{n_ids - 1}. Was it written with another tokenizer?"
            )


def check_vocabulary(n_tokens: int, model: PreTrainedModel) -> None:
    """Raise UserError for a tokenizer with more tokens than the model has ids."""
    if n_tokens > model.config.vocab_size:
        raise UserError(
            f"The tokenizer has {n_tokens} tokens, the model's vocab_size is {model.config.vocab_size}: "
            "they do not belong together. Load both from one checkpoint folder."
        )
