"""What a sampler is: prompts and seeds in, completions with their log-probabilities out.

Randomness is counter-based. The uniform number behind token t of a sample is a function of the sample's
seed and of t alone, and the seed is a hash of (run seed, step, question, sample). So a draw does not depend
on which other samples share its batch, on their order, or on whether the run was interrupted and resumed.

Where a completion ends: with the EOS, which belongs to it; at a stop string, which does not; or after max_new_tokens.
Of a completion that holds a stop string the tokens are kept that hold the text before it (without the white space
between the two), and at least one. So what is graded is what is scored: the loss covers the draws that made the answer,
and none of those that began the next question. A token that holds the end of the answer and the beginning of the stop
string, such as "}\\n\\n", is kept: without it the answer would be another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from excursions.params import UserError

GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)  # the increment of splitmix64


@dataclass(frozen=True)
class Completion:
    """One sampled continuation of a prompt."""

    token_ids: list[int]  # the EOS is the last one if it was sampled; it is never added by hand
    logprobs: list[float]  # of each token under log_softmax(logits / T), the distribution it was drawn from
    stop_reason: Literal["eos", "stop", "length"]


class Sampler(Protocol):
    """What the recipes and the evaluation need from an engine."""

    context: int  # tokens of a prompt and its completion together

    def generate(
        self,
        prompts: list[list[int]],
        seeds_pg: list[list[int]],
        *,
        max_new_tokens: int,
        temperature: float,
        stop: str | Sequence[str] | None = None,
    ) -> list[list[Completion]]:
        """Sample one completion of prompt p for each seed in seeds_pg[p]; the order of both is kept.

        Temperature 0 is greedy; its log-probabilities are those of temperature 1. stop: strings that end a completion
        when its text holds one of them (see above for what is kept of it).
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


class Stop:
    """Stop strings, found in the text of token ids as the tokenizer decodes them, without special tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None, strings: str | Sequence[str] | None) -> None:
        self.strings = [strings] if isinstance(strings, str) else [*(strings or ())]
        if "" in self.strings:
            raise UserError("A stop string is empty; accepted: text of at least one character, or no stop string.")
        if self.strings and tokenizer is None:
            raise ValueError("Stop strings are found in text: give the engine its tokenizer.")
        self.tokenizer = tokenizer
        self.may_end_v: Tensor | None = None  # (V): tokens that could be the last of a stop string
        if self.strings:
            last = {string[-1] for string in self.strings}
            texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])  # type: ignore[union-attr,arg-type]  # with stop strings there is a tokenizer
            # alone a token may lose its space, and a part of a character is no character
            unsure = " " in last or not all(map(str.isascii, last))
            self.may_end_v = torch.tensor([unsure or not last.isdisjoint(text) for text in texts])

    def of(self, strings: str | Sequence[str] | None) -> Stop:
        """That of other strings, which is this one where they are the same: reading a vocabulary takes a while."""
        other = [strings] if isinstance(strings, str) else [*(strings or ())]
        return self if other == self.strings else Stop(self.tokenizer, other)

    def kept(self, token_ids: list[int]) -> int | None:
        """How many of the tokens are kept if a stop string has just been completed; else None."""
        text = self._text(token_ids)
        found = [at for at in map(text.find, self.strings) if at >= 0]
        if not found:
            return None
        before, kept = text[: min(found)].rstrip(), len(token_ids)
        while kept > 1 and self._text(token_ids[: kept - 1]).startswith(before):
            kept -= 1
        return kept

    def _text(self, token_ids: list[int]) -> str:
        return self.tokenizer.decode(token_ids, skip_special_tokens=True)  # type: ignore[union-attr]  # the same


class Samples:
    """The completions of a batch while an engine draws them, one token of each row at a time.

    Rows that have ended may stay in the batch: what is drawn for them is forgotten.
    """

    def __init__(
        self, seeds: list[int], max_new_tokens: int, temperature: float, eos_token_id: int | None, stop: Stop, device
    ) -> None:
        self.temperature, self.stop, self.max_new_tokens = temperature, stop, max_new_tokens
        self.eos_token_id = -1 if eos_token_id is None else eos_token_id
        self.uniform_bt = torch.from_numpy(uniforms(seeds, max_new_tokens)).to(device)
        self.token_bt = torch.zeros(len(seeds), max_new_tokens, dtype=torch.long, device=device)
        self.logp_bt = torch.zeros(len(seeds), max_new_tokens, device=device)
        self.may_end_v = None if stop.may_end_v is None else stop.may_end_v.to(device)
        self.row_b = torch.arange(len(seeds), device=device)  # which completion each row of the batch is
        self.running_b = torch.ones(len(seeds), dtype=torch.bool, device=device)
        self.length_b = [max_new_tokens] * len(seeds)
        self.reason_b = ["length"] * len(seeds)  # type: list[Literal["eos", "stop", "length"]]
        self.drawn = 0  # tokens of each row

    def draw_all(
        self, logits_b: Tensor, step: Callable[[Tensor], Tensor], drop: Callable[[Tensor], Tensor]
    ) -> list[Completion]:
        """Draws until every row has ended; returns the completions in the order of the seeds.

        logits_b (B, V): of what follows the prompts. step: appends a token (B) to each row, and returns the logits of
        what follows. drop: makes the engine forget the rows that are not running (B), and returns which place each row
        that stays had.
        """
        while True:
            token_b, running_b = self.draw(logits_b), self.running_b
            n_running = int(running_b.sum())
            if self.drawn == self.max_new_tokens or n_running == 0:
                rows = zip(self.token_bt.tolist(), self.logp_bt.tolist(), self.length_b, self.reason_b, strict=True)
                return [Completion(ids[:length], logps[:length], reason) for ids, logps, length, reason in rows]
            if n_running <= 0.95 * len(running_b):  # moving a row costs about two steps of computing it
                place_b = drop(running_b)
                self.row_b, self.running_b = self.row_b[place_b], running_b[place_b]
                token_b = token_b[place_b]
            logits_b = step(token_b)

    def draw(self, logits_b: Tensor) -> Tensor:
        """The next token of each row of the batch, drawn from logits (B, V)."""
        t = self.drawn
        token_b, logp_b = draw(logits_b, self.uniform_bt[self.row_b, t], self.temperature)
        self.token_bt[self.row_b, t] = token_b
        self.logp_bt[self.row_b, t] = logp_b
        self.drawn += 1
        ended_b = self.running_b & (token_b == self.eos_token_id)
        for row in self.row_b[ended_b].tolist():
            self.length_b[row], self.reason_b[row] = t + 1, "eos"
        if self.may_end_v is not None:
            for place in (self.running_b & ~ended_b & self.may_end_v[token_b]).nonzero().flatten().tolist():
                row = int(self.row_b[place])
                kept = self.stop.kept(self.token_bt[row, : t + 1].tolist())
                if kept is not None:
                    self.length_b[row], self.reason_b[row] = kept, "stop"
                    ended_b[place] = True
        self.running_b = self.running_b & ~ended_b
        return token_b


def places_to_keep(running_b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which place each row that stays had; and, of these, the holes and the places whose rows fill them.

    The holes are filled with the last rows: no more rows are moved than dropped.
    """
    n_kept = int(running_b.sum())
    keep = torch.arange(n_kept, device=running_b.device)
    holes = (~running_b[:n_kept]).nonzero().squeeze(1)
    moved = running_b[n_kept:].nonzero().squeeze(1) + n_kept
    keep[holes] = moved
    return keep, holes, moved


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
