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
from transformers import PreTrainedModel

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
