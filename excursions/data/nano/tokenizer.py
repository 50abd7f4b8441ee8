"""The nano tokenizer: a word is a token, a number is one token per digit ("~" marks the digits after the first)."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
CONTINUED = "~"


def build_tokenizer(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """A word-level tokenizer over a closed set of words; digits and special tokens are added.

    Text is words separated by single spaces, and decoding gives back exactly the text that was encoded. A small
    vocabulary is what makes the nano scale fast: the output layer is most of a small model's work.
    """
    plain = sorted(word for word in set(words) if not word.isdigit())
    tokens = [PAD, EOS, UNKNOWN, *map(str, range(10)), *(f"{CONTINUED}{d}" for d in range(10)), *plain]
    tokenizer = Tokenizer(
        models.WordPiece({t: i for i, t in enumerate(tokens)}, unk_token=UNKNOWN, continuing_subword_prefix=CONTINUED)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece(prefix=CONTINUED, cleanup=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, unk_token=UNKNOWN)
