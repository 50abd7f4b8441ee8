"""A tokenizer as its own files say, or not at all."""

from __future__ import annotations

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import cached_file

from excursions.params import UserError

SAMPLES = (
    "Question: Ann has 1,234.5 apples and gives 20% away.\n\nHow many are left?\nAnswer: ",
    "  So $x^2 = \\frac{1}{2}$, \\boxed{-3/4}.\n#### 17\n",
    "naïve café ½ √2 ≤ π, question : how many ? answer : 5",
)


def read_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a hub model or a local folder. One without a padding token pads with its end token: losses mask
    padding by position, so the end token is learned all the same.

    transformers takes the class that tokenizer_config.json or config.json names, and some classes build another
    tokenizer than the one in tokenizer.json, which is then read as it is. Raises UserError if that is not enough, or
    if there is no end token; else what transformers raises.
    """
    tokenizer = AutoTokenizer.from_pretrained(name)
    file = cached_file(name, "tokenizer.json", _raise_exceptions_for_missing_entries=False)
    written = Tokenizer.from_file(file) if file else None
    if written and _unlike(tokenizer, written):
        tokenizer = PreTrainedTokenizerFast.from_pretrained(name)
        if wrong := _unlike(tokenizer, written):
            raise UserError(f"The tokenizer of {name} is read in another way than its tokenizer.json says: {wrong}.")
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"The tokenizer of {name} has no end token, with which every solution ends; accepted: one that is named as "
            f"eos_token in its tokenizer_config.json."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # not in the model's config, where its embedding would not be learned
    return tokenizer


def _unlike(tokenizer: PreTrainedTokenizerBase, written: Tokenizer) -> str | None:
    """The first text of which a tokenizer makes other tokens than its file, if there is one."""
    for text in SAMPLES:
        ids, expected = (
            tokenizer(text, add_special_tokens=False).input_ids,
            written.encode(text, add_special_tokens=False),
        )
        if ids != expected.ids:
            return f"{type(tokenizer).__name__} makes {len(ids)} tokens of {text[:40]!r}, the file {len(expected)}"
    return None
