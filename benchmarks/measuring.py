"""What the benchmarks share: models, a clock, the machine's matmul peak, how a result is reported.

On a CPU the models are of nano's kind, in fp32, on one thread, and a job takes CPU seconds: with one thread those of an
idle machine, as far as others leave it cache and bandwidth. On a GPU they are larger, in bfloat16, and a job takes
seconds of the clock until the GPU is done.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import Olmo2Config, Olmo2ForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

ON_GPU = torch.cuda.is_available()
VOCAB, PAD, EOS = 16_384 if ON_GPU else 600, 0, 1
SHAPES = {  # hidden, layers, intermediate, heads; 0.6M: nano's
    "0.6M": (128, 3, 256, 4),
    "1M": (128, 4, 384, 4),
    "4M": (256, 4, 768, 4),
    "30M": (384, 8, 1536, 6),
    "125M": (768, 12, 2560, 12),
}
SIZES = ("30M", "125M") if ON_GPU else ("0.6M", "1M")


def make_model(size: str, context: int = 320) -> Olmo2ForCausalLM:
    """An OLMo2 of random weights, in fp32, on the GPU if there is one, else on one thread from here on."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    hidden, layers, intermediate, heads = SHAPES[size]
    config = Olmo2Config(
        vocab_size=VOCAB,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=context,
        pad_token_id=PAD,
        eos_token_id=EOS,
        bos_token_id=None,
    )
    return Olmo2ForCausalLM(config).to("cuda" if ON_GPU else "cpu")


def make_prompts(n: int, shortest: int, longest: int) -> list[list[int]]:
    """Random prompts of random lengths."""
    rng = np.random.default_rng(0)
    return [rng.integers(2, VOCAB, size=rng.integers(shortest, longest + 1)).tolist() for _ in range(n)]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Of the words w2, w3, ...: as many as the models know."""
    vocabulary = {"<pad>": PAD, "<eos>": EOS} | {f"w{i}": i for i in range(2, VOCAB)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="w2"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")


def with_generate(
    model: PreTrainedModel, prompts: list[list[int]], samples: int, new_tokens: int, prompts_per_call: int
) -> None:
    """The peer of our samplers: transformers' `generate`, so many prompts a call, at temperature 1 without top-k or
    top-p."""
    for start in range(0, len(prompts), prompts_per_call):
        chunk = prompts[start : start + prompts_per_call]
        longest = max(map(len, chunk))
        ids = torch.tensor([[PAD] * (longest - len(prompt)) + prompt for prompt in chunk]).to(model.device)
        model.generate(
            ids,
            attention_mask=(ids != PAD).long(),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            num_return_sequences=samples,
            max_new_tokens=new_tokens,
        )


def clock() -> float:
    """Seconds, of which only differences mean anything."""
    if ON_GPU:
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def seconds(job: Callable[[], object]) -> float:
    """What a job takes."""
    start = clock()
    job()
    return clock() - start


def interleaved(jobs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The fastest of several runs of each job, in turn, so that a machine that gets busier favours none."""
    found = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            found[name].append(seconds(job))
    return {name: min(times) for name, times in found.items()}


def matmul_peak() -> float:
    """Operations a second of a product of two square matrices, the best of 20: 1024 wide in fp32 on a CPU, 8192 in
    bfloat16 on a GPU."""
    width = 8192 if ON_GPU else 1024
    square = torch.randn(width, width)
    square = square.to("cuda", torch.bfloat16) if ON_GPU else square
    return 2 * width**3 / min(seconds(lambda: square @ square) for _ in range(20))


def weights(model: Olmo2ForCausalLM) -> int:
    """Weights that are multiplied with each token: all but the input embedding. A token costs 2 operations for each
    forward, and 6 forward and backward."""
    return sum(p.numel() for name, p in model.named_parameters() if "embed_tokens" not in name)


def report(rows: list[dict]) -> None:
    """Prints rows (job, ours, peer, ratio or share), and writes them as JSON to the file that the command names."""
    for row in rows:
        print({name: round(value, 3) if isinstance(value, float) else value for name, value in row.items()})
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(rows), encoding="utf-8")
