"""What training and sampling need in operations and memory, from closed formulas. `costs` adds them up to a study.

Operations (FLOPs) are those of matrix products; a multiplication and an addition are two. A weight costs 2 a token
forward and 4 backward (Kaplan et al. 2020, arXiv 2001.08361, section 2.1). Attention and logits are added as in
Hoffmann et al. 2022 (arXiv 2203.15556, appendix F): every position against every key, masked or not. Our changes: the
MLP of OLMo2 has three matrices (SwiGLU), the input embedding is a look-up, and padding counts, because it is computed.

Memory is per process. Weights, gradients and optimizer states are those of ZeRO (Rajbhandari et al. 2020, arXiv
1910.02054, section 3.1), but with fp32 gradients, as this code has; FSDP2 shards all three. Activations are what
autograd saves, counted for OLMo2 in the manner of Korthikanti et al. 2022 (arXiv 2205.05198, section 4.1), with an
attention that keeps no scores. Keys and values of the sampler: Pope et al. 2022 (arXiv 2211.05102, section 2).
tests/test_planning.py holds all of these at nano's size against measured ones.

Left out: normalizations, softmax, the optimizer and grading (no matrix products), communication, the libraries' own
memory and fragmentation; that transformers' generation computes prompts for each sample, and rows that have ended; of
other architectures than OLMo2, whose shape is that of their config.json, that activations of their MLP are fewer.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from excursions.data.source import open_source
from excursions.models.model import count_parameters
from excursions.params import PublicSuite, Scale, UserError
from excursions.training import sft

HUB_VOCABULARY = 100_278  # tokens of allenai/OLMo-2-0425-1B
# General benchmarks: items, choices of one, and mean tokens of its context and of a choice, at nano scale and of public
# items (the first 200, characters at 4 a token).
GENERAL = {
    "lambada": (5153, 1, (31, 1), (80, 1.4)),
    "hellaswag": (10042, 4, (23, 3), (57, 34)),
    "arc_easy": (2376, 4, (12, 1), (34, 6)),
    "arc_challenge": (1172, 4, (14, 1), (39, 7)),
    "piqa": (1838, 2, (8, 1), (14, 26)),
    "openbookqa": (500, 4, (11, 1), (14, 4)),
}
BATCH_TOKENS = 65_536  # max_batch_tokens of the embedded engine and of transformers'
STAGES = ("pretraining", "sft", "rl", "parallel")  # that differ in memory


@dataclass(frozen=True)
class Shape:
    """What the formulas need of a model."""

    kind: str
    hidden: int
    layers: int
    intermediate: int
    vocabulary: int  # rows of the embedding and of the head
    context: int
    keys: int  # width of the keys, and of the values: less than hidden where heads share them
    layer_weights: int  # in the matrices of all layers
    layer_sides: int  # rows plus columns of these matrices: the weights of their adapters, for each rank
    parameters: int


@dataclass(frozen=True)
class Lengths:
    """Mean lengths in tokens, and where they come from."""

    prompt: float
    solution: float
    completion: float  # while and after training
    untrained: float  # completions of a checkpoint as it is
    kept: float  # share of the groups that are scored
    source: str


@dataclass(frozen=True)
class Memory:
    """Bytes of one process. The first four are divided by the processes under FSDP2, the others are not."""

    weights: float
    gradients: float
    adamw: float
    snapshots: float  # of the parameters, in `parallel`
    copies: float  # of the weights: in the precision of the products, and of a reference model
    sampler: float
    cache: float  # keys and values of the sampler
    activations: float
    logits: float

    @property
    def total(self) -> float:
        """Each process holds all of the model."""
        return sum(astuple(self))

    def sharded(self, processes: int) -> float:
        """Total under FSDP2. Each process then keeps a whole copy of the weights besides, for the sampler."""
        states = self.weights + self.gradients + self.adamw + self.snapshots
        return states / processes + self.weights + self.total - states


# ---- operations ----


def model_shape(scale: Scale) -> Shape:
    """The model that pretraining builds: the vocabulary is rounded up to a multiple of 16."""
    source = open_source(scale)
    tokens = len(source.tokenizer()) if source.made_here else HUB_VOCABULARY
    model, vocabulary = scale.model, -(-tokens // 16) * 16
    hidden, layers, intermediate = model.hidden_size, model.layers, model.intermediate_size
    # query, key, value and output, and the three of the MLP
    weights = layers * (4 * hidden**2 + 3 * hidden * intermediate)
    sides = layers * (4 * 2 * hidden + 3 * (hidden + intermediate))
    # four norms a layer (query, key, after attention, after MLP), the last one, both ends
    parameters = weights + (4 * layers + 1) * hidden + 2 * vocabulary * hidden
    return Shape("olmo2", hidden, layers, intermediate, vocabulary, model.context, hidden, weights, sides, parameters)


def suite_shape(suite: PublicSuite, checkpoint: str, root: Path) -> Shape:
    """The model of a public suite, from its config.json alone. Raises UserError if that cannot be had."""
    revision, local = suite.checkpoints[checkpoint].revision, root / Path(suite.model).expanduser()
    try:
        where = {} if local.is_dir() else {"revision": revision}
        config = AutoConfig.from_pretrained(local / revision if local.is_dir() else suite.model, **where)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, KeyError, TypeError) as error:
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"config.json of {suite.model}, revision {revision}, could not be read ({said}), and costs are of its "
            f"model; where there is no network: `hf download {suite.model} config.json --revision {revision}` before."
        ) from None
    config, head = config.get_text_config(), model.get_output_embeddings()
    linear = [m.weight for m in model.modules() if isinstance(m, nn.Linear | Conv1D) and m is not head]
    heads, hidden = config.num_attention_heads, config.hidden_size
    width = getattr(config, "head_dim", None) or hidden // heads
    return Shape(
        kind=config.model_type,
        hidden=hidden,
        layers=config.num_hidden_layers,
        intermediate=getattr(config, "intermediate_size", None) or 4 * hidden,  # GPT-2 has no such key
        vocabulary=head.weight.shape[0],
        context=config.max_position_embeddings,
        keys=(getattr(config, "num_key_value_heads", None) or heads) * width,
        layer_weights=sum(w.numel() for w in linear),
        layer_sides=sum(sum(w.shape) for w in linear),
        parameters=count_parameters(model),
    )


def forward_flops(shape: Shape, tokens: float, keys: float, scored: float) -> float:
    """Of a forward pass: `tokens` positions, each against `keys` positions, with logits for `scored` of them."""
    head = 2 * scored * shape.hidden * shape.vocabulary
    return 2 * tokens * shape.layer_weights + attention_flops(shape, tokens, keys) + head


def attention_flops(shape: Shape, tokens: float, keys: float) -> float:
    """Scores and weighted sums of `tokens` positions, each against `keys` positions."""
    return 4 * shape.layers * shape.hidden * tokens * keys


def adapter_rank(scale: Scale) -> int:
    """Rank of the adapters (LoRA) that are trained in place of the weights; 0: the weights are."""
    return scale.lora.rank if scale.lora else 0


def training_flops(shape: Shape, tokens: float, keys: float, scored: float, rank: int = 0) -> float:
    """Forward and backward; rank: see `adapter_rank`."""
    once, attention = forward_flops(shape, tokens, keys, scored), attention_flops(shape, tokens, keys)
    return _with_backward(shape, once, attention, tokens, rank)


def _with_backward(shape: Shape, once: float, attention: float, tokens: float, rank: int) -> float:
    """A forward pass of so many operations, `attention` of them in attention, and the backward pass. With adapters the
    weights get no gradients, but what goes into them does."""
    return 2 * once + attention + 6 * tokens * rank * shape.layer_sides if rank else 3 * once


def rollout_flops(shape: Shape, prompts: float, samples: int, prompt: float, completion: float) -> float:
    """Sampling: each prompt once for all its samples; the last token of a completion is not fed back."""
    fed = prompts * samples * (completion - 1)
    decoding = forward_flops(shape, fed, prompt + completion / 2, fed)
    return forward_flops(shape, prompts * prompt, prompt, prompts) + decoding


def rl_flops(shape: Shape, scale: Scale, lengths: Lengths) -> float:
    """The gradients of one GRPO step: `grpo.rl_gradients` computes a prompt once in a micro batch for all completions
    that are in it, drops groups whose rewards are equal (without KL), and repeats all for each inner step. Attention
    within completions pads them to the longest of the micro batch, taken to be of full length."""
    rl = scale.rl
    groups = rl.questions_per_step * (1.0 if rl.kl else lengths.kept)
    rows, longest = groups * rl.rollouts, rl.max_new_tokens
    prompts = groups * math.ceil(rl.rollouts / rl.micro_batch)
    tokens = prompts * lengths.prompt + rows * (lengths.completion - 1)
    within = attention_flops(shape, rows * longest, longest)
    once = forward_flops(shape, tokens, lengths.prompt, rows * lengths.completion) + within
    attention = attention_flops(shape, tokens, lengths.prompt) + within
    work = _with_backward(shape, once, attention, tokens, adapter_rank(scale))
    return rl.inner_steps * (work + (once if rl.kl else 0))  # the reference model forward


def general_flops(shape: Shape, scale: Scale) -> float:
    """All general benchmarks once: a context once for all its choices, logits for the tokens of the choices."""
    total = 0.0
    made_here = open_source(scale).made_here
    for items, choices, nano, public in GENERAL.values():
        context, choice = nano if made_here else public
        one = forward_flops(shape, context + choices * (choice - 1), context, choices * choice)
        total += min(items, scale.evaluate.general or items) * one
    return total


# ---- memory ----


def activation_bytes(shape: Shape, tokens: float, mixed: bool, again: bool = False) -> float:
    """What autograd saves of `tokens` positions, without the logits. again: with gradient checkpointing, which keeps
    the input of each layer (hidden in fp32) and computes the rest of one layer at a time again.

    A layer saves of each position: query, key, value and the attention's result (4 hidden), gate, SiLU of it, up and
    their product (4 intermediate), the inputs of the products (2 hidden in fp32; autocast casts for each of the five),
    all in the precision of the products; and in fp32 four norms' inputs and normalized values (8 hidden).
    """
    size, inputs = (2, 5) if mixed else (4, 2)
    layer = size * ((2 + inputs) * shape.hidden + 2 * shape.keys + 4 * shape.intermediate) + 4 * 8 * shape.hidden
    layers = shape.layers * 4 * shape.hidden + layer if again else shape.layers * layer
    return tokens * (layers + (4 * 2 + size) * shape.hidden)


def cache_bytes(shape: Shape, tokens: float, size: int) -> float:
    """Keys and values of so many positions, `size` bytes a number."""
    return 2 * shape.layers * shape.keys * size * tokens


def stage_memory(stage: str, scale: Scale, shape: Shape, lengths: Lengths, processes: int, mixed: bool) -> Memory:
    """Bytes of one process at the peak of a stage, with completions of full length.

    mixed: products in bfloat16 over fp32 weights (`--mixed_precision bf16`); else all in fp32. The logits of training
    count three times in fp32 (themselves, their log-softmax, a gradient), in RL four times (two for the entropy). With
    adapters these alone are trained, and a copy of the weights takes them in for the sampler.
    """
    n, size = shape.parameters, 2 if mixed else 4
    adapters = 0 if stage == "pretraining" else adapter_rank(scale) * shape.layer_sides
    trained, merged = adapters or n, n if adapters else 0
    row = 4 * shape.vocabulary
    sampler = cache = past = 0.0
    tokens: float
    logits: float
    if stage == "pretraining":
        share = math.ceil(scale.pretrain.batch_size / processes)
        tokens = min(share, scale.pretrain.micro_batch or share) * scale.model.context
        logits = 3 * row * tokens
    else:
        rl, longest = scale.rl, lengths.prompt + scale.rl.max_new_tokens
        tokens = max(longest, scale.sft.micro_batch_tokens or sft.MICRO_BATCH * longest)
        logits = 3 * row * tokens
        if stage in ("rl", "parallel"):
            rows = min(rl.micro_batch, math.ceil(rl.questions_per_step * rl.rollouts / processes))
            tokens = rows * rl.max_new_tokens + math.ceil(rows / rl.rollouts) * lengths.prompt
            logits = 4 * row * rows * rl.max_new_tokens
            past = cache_bytes(shape, rows * lengths.prompt, size)  # the prompt's, repeated for each completion
        if scale.engine.name == "vllm":
            sampler, cache = size * n, scale.engine.kv_cache_gb * 2**30
        else:
            prompts = math.ceil(rl.questions_per_step / processes)
            wanted = prompts * (lengths.prompt + rl.rollouts * rl.max_new_tokens)
            sampler, cache = 4 * n, cache_bytes(shape, min(BATCH_TOKENS, wanted), 4)
    states, again = 2 if stage == "parallel" else 1, stage == "sft" and bool(scale.sft.gradient_checkpointing)
    return Memory(
        weights=4 * (n + adapters),
        gradients=4 * trained,
        adamw=states * 8 * trained,
        snapshots=8 * trained if stage == "parallel" else 0,
        copies=4 * merged + (2 * n if mixed else 0) + (4 * n if scale.rl.kl and stage in ("rl", "parallel") else 0),
        sampler=sampler,
        cache=cache,
        activations=activation_bytes(shape, tokens, mixed, again) + past,
        logits=logits,
    )
