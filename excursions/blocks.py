"""The blocks of a scale in params.yaml: each key declared once, with its type, range, unit and purpose.

docs/params.md is the table of them, written by `python -m excursions.params > docs/params.md`.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass, replace

from excursions import keys
from excursions.keys import NAME, TEXT, Pattern, Range, key

ENGINES = ("torch", "transformers", "vllm")
COUNT = Range(1, 10**6)
NATURAL = Range(0, 10**6)
SEED = Range(0, 2**63 - 1)
SHARE = Range(0, 1)
NANO_ITEMS = 512  # the most that the smallest of nano's general benchmarks, PIQA, has
POSITIVE = Range(0, above=True)
RATE = Range(0, 1, above=True)
BETA = Range(0, 1, below=True)
CHECKPOINT = Pattern("p(0[1-9]|[1-9][0-9]|100)", "p01 to p100, the percent of pretraining")
PROMPT = Pattern(r"(?s)[^\0]*\{question\}[^\0]*", "text with {question}; other braces stand for themselves")


@dataclass(frozen=True)
class Model:
    """Shape of the OLMo2 model."""

    hidden_size: int = key("width; heads divide it into even parts", Range(2, 2**17))
    layers: int = key("decoder layers", Range(1, 1000))
    heads: int = key("attention heads", Range(1, 1024))
    intermediate_size: int = key("width of the feed-forward layers", Range(1, 2**19))
    context: int = key("longest sequence", Range(8, 2**20), "tokens")
    rope_theta: float = key("base of the rotary position embedding", Range(1))


@dataclass(frozen=True)
class Pretrain:
    """Next-token prediction on the stream, and which checkpoints of it are kept."""

    tokens: int = key("length of the whole pretraining", Range(1, 10**15), "tokens")
    batch_size: int = key("batch of a step, each of `model.context` tokens", COUNT, "sequences")
    micro_batch: int | None = key("of one process in one pass; null: all of its part of the batch", COUNT, "sequences")
    learning_rate: float = key("peak of AdamW's rate", RATE)
    final_learning_rate_ratio: float = key("the cosine ends at this share of the peak", SHARE)
    warmup_steps: int = key("linear rise of the rate, within the whole pretraining", NATURAL, "steps")
    betas: tuple[float, float] = key("AdamW's decay of the two moments", BETA)
    weight_decay: float = key("AdamW's, on matrices", SHARE)
    max_grad_norm: float = key("the gradient is cut to this norm", POSITIVE)
    seed: int = key("of the first weights", SEED)
    save: tuple[str, ...] = key("checkpoints that are kept, increasing", CHECKPOINT)
    dtype: str = key("of the kept checkpoints", ("float32", "float16", "bfloat16"))
    threads: int = key("of this process", Range(1, 1024))
    compile: bool = key("torch.compile of the loss: faster, and needs a C++ compiler on a CPU")
    mixture: dict[str, float] | None = key(
        "shares of math, reasoning and general in the nano stream; null: the paper's", SHARE, default=None, hash=False
    )


@dataclass(frozen=True)
class Style:
    """How the models are asked."""

    chat: bool = key("by the tokenizer's chat template; else by `questions.prompt`", default=False)
    bos: bool | None = key(
        "whether a plain prompt begins with the BOS token; null: as the tokenizer does by itself", default=None
    )
    instruction: str | None = key(
        "e.g. the form of an answer: before a plain prompt, in each question of a chat", TEXT, default=None
    )


@dataclass(frozen=True)
class Questions:
    """Where the questions come from and how they are written into a prompt."""

    source: str = key("nano: made by the project; hub: public data", ("nano", "hub"))
    easy: str = key("name of the easy benchmark", NAME)
    hard: str | None = key("name of the hard benchmark; null: the easy one is the whole study (public data)", NAME)
    train_easy: int = key("training questions like the easy benchmark's", Range(0, 10**5), "questions")
    train_hard: int = key("training questions like the hard benchmark's", Range(0, 10**5), "questions")
    validation: int = key("of each benchmark, for choices", Range(1, 10**5), "questions")
    test: int = key("of each benchmark, for results", Range(1, 10**5), "questions")
    solutions: int = key("at most, gold ones of a training question", Range(1, 1000), "solutions")
    seed: int = key("of the questions and the stream", SEED)
    prompt: str = key("form of a question", PROMPT)
    separator: str = key("between the examples of a few-shot prompt", TEXT)
    stop: str = key("where the answer to a few-shot prompt ends", TEXT)
    easy_mixture: dict[str, float] | None = key(
        "shares of the cells of word problems in the easy benchmark (nano)", SHARE, default=None, hash=False
    )
    hard_mixture: dict[str, float] | None = key("the same of the hard benchmark", SHARE, default=None, hash=False)
    style: Style | None = key("how the models are asked; null: by plain prompts", default=None)


@dataclass(frozen=True)
class Rl:
    """GRPO."""

    steps: int = key("length of RL", COUNT, "steps")
    questions_per_step: int = key("batch of a step", COUNT, "questions")
    rollouts: int = key("group of each question", Range(2, 10**5), "completions")
    max_new_tokens: int = key("longest completion", COUNT, "tokens")
    temperature: float = key("of sampling, and of the score", Range(0, 100, above=True))
    learning_rate: float = key("AdamW's, constant after the warm-up", RATE)
    warmup_steps: int = key("linear rise of the rate", NATURAL, "steps")
    betas: tuple[float, float] = key("AdamW's decay of the two moments", BETA)
    weight_decay: float = key("AdamW's, on matrices", SHARE)
    max_grad_norm: float = key("the gradient is cut to this norm", POSITIVE)
    inner_steps: int = key("updates from one batch of completions", Range(1, 1000), "steps")
    clip: float = key("the ratio of probabilities counts within 1 - clip and 1 + clip", RATE)
    kl: float = key("weight of the divergence from the first model", Range(0, 1000))
    micro_batch: int = key("of one pass", COUNT, "completions")
    advantage: str | None = key(
        "group, or null: GRPO's; mean: not divided by the deviation; loo: RLOO's",
        ("group", "mean", "loo"),
        default=None,
    )
    normalizer: str | None = key(
        "tokens, or null: the mean over all tokens; constant: over max_new_tokens (Dr. GRPO)",
        ("tokens", "constant"),
        default=None,
    )
    clip_high: float | None = key("the upper clip, at least `clip`; null: `clip`", POSITIVE, default=None)


@dataclass(frozen=True)
class Sft:
    """Next-token prediction on gold solutions, loss on the completion only."""

    epochs: int = key("passes of SFT on one solution a question", Range(1, 10**4), "epochs")
    gold_epochs: int = key("passes of SFT-Gold on all solutions", Range(1, 10**4), "epochs")
    batch_size: int = key("batch of a step", COUNT, "sequences")
    learning_rate: float = key("peak of AdamW's rate", RATE)
    warmup_steps: int = key("linear rise of the rate", NATURAL, "steps")
    betas: tuple[float, float] = key("AdamW's decay of the two moments", BETA)
    weight_decay: float = key("AdamW's, on matrices", SHARE)
    max_grad_norm: float = key("the gradient is cut to this norm", POSITIVE)
    micro_batch_tokens: int | None = key(
        "of one pass, padding included; null: four sequences", Range(1, 10**9), "tokens", default=None
    )
    gradient_checkpointing: bool | None = key(
        "compute activations again in the backward pass: less memory, more time", default=None
    )


@dataclass(frozen=True)
class Parallel:
    """Parallel averaging of an RL and an SFT update from one parameter snapshot."""

    steps: int = key("length of parallel averaging", COUNT, "steps")
    rl_weight: float = key("of the RL update; 1 is pure RL, 0 pure SFT", SHARE)
    sft_batch_size: int = key("batch of its SFT update", COUNT, "sequences")
    rl_weight_at_first: float | None = key(
        "of the RL update at the first step, from which it goes in a straight line to rl_weight at the last; null: "
        "rl_weight throughout", SHARE, default=None,
    )  # fmt: skip


@dataclass(frozen=True)
class Evaluate:
    """What is measured, and how often."""

    samples: int = key("of each question", Range(1, 10**5), "completions")
    temperature: float = key("of sampling; 0: greedy", Range(0, 100))
    max_new_tokens: int = key("longest completion", COUNT, "tokens")
    shots: int = key("in the prompt of `base`; all other recipes are 0-shot", Range(0, 1000), "examples")
    between: int = key("between the first and the last step", Range(0, 1000), "evaluations")
    questions_between: int = key("of each benchmark at these", Range(1, 10**5), "questions")
    general: int = key(
        "of each general benchmark; 0: all (public data), as many as there are", Range(0, 10**5), "items"
    )
    seed: int = key("of sampling", SEED)
    kept_questions: int = key("of each benchmark, whose completions are kept", Range(0, 10**5), "questions")
    kept_samples: int = key("of each of these", Range(0, 10**5), "completions")
    split: str | None = key("that is asked; null: test", ("test", "validation"))


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters (arXiv 2106.09685) on all linear layers, trained in place of the weights."""

    rank: int = key("of the two matrices", Range(1, 2**17))
    alpha: float = key("the update is alpha / rank times their product", POSITIVE)


@dataclass(frozen=True)
class Engine:
    """What samples the completions."""

    name: str = key("torch: our own for OLMo2; transformers: any architecture; vllm", ENGINES)
    max_logp_difference: float = key(
        "a run stops if sampler and trainer differ by more, mean of a step", POSITIVE, "nats a token"
    )
    importance_cap: float | None = key("weigh tokens by min(p trainer / p sampler, cap); null: no weights", POSITIVE)
    kv_cache_gb: float = key("of one process for keys and values (vllm)", Range(0, 10**4, above=True), "GB")


@dataclass(frozen=True)
class Hub:
    """Where public data come from: each a hub name, a local folder, or a .jsonl(.gz) or .parquet file."""

    tokenizer: str = key("of the pretrained model", TEXT)
    stream: str | None = key("pretraining documents, column text; null where only public suites are trained", TEXT)
    stream_config: str | None = key("configuration of that dataset", TEXT)
    train: str = key("training questions and solutions in the schema of OpenMathInstruct-1", TEXT)
    easy_train: str | None = key("GSM8K, for the examples in few-shot prompts; null: examples out of `train`", TEXT)
    easy_test: str = key("GSM8K's test set", TEXT)
    hard_train: str | None = key("MATH, for the same", TEXT)
    hard_test: str | None = key("MATH's test set; null where `questions.hard` is", TEXT)
    general: str | None = key("folder of local copies of the six general benchmarks; null: the hub", TEXT)


@dataclass(frozen=True)
class Scale:
    """One block of params.yaml: everything that distinguishes a scale from another."""

    model: Model = key("shape of the OLMo2 model")
    pretrain: Pretrain = key("next-token prediction on the stream")
    questions: Questions = key("the questions and their prompt")
    hub: Hub | None = key("where public data are: each a hub name, a folder or a file; null at nano scale")
    rl: Rl = key("GRPO")
    sft: Sft = key("next-token prediction on gold solutions")
    parallel: Parallel = key("parallel averaging of an RL and an SFT update")
    evaluate: Evaluate = key("what is measured, and how often")
    engine: Engine = key("what samples the completions")
    workers: int = key("runs at the same time", Range(1, 1024), "processes")
    lora: Lora | None = key("what is trained in place of the weights; null: all weights are", default=None)
    seeds: tuple[int, ...] | None = key(
        "of every run of the suite main at this scale, in place of `seeds` and `more_seeds`; null: those",
        SEED, default=None,
    )  # fmt: skip
    overrides: typing.Any = key(
        "values that one recipe sees instead", "null, or {recipe: {block: {key: value}}}", default=None, hash=False
    )

    @property
    def pretraining_steps(self) -> int:
        """Optimizer steps of the whole pretraining."""
        return max(1, round(self.pretrain.tokens / (self.pretrain.batch_size * self.model.context)))

    @property
    def asked(self) -> str:
        """The split whose questions its runs are asked: the test, but where settings are chosen."""
        return self.evaluate.split or "test"

    def of(self, recipe: str) -> Scale:
        """The scale as a recipe sees it: with its `overrides` in place."""
        return self.changed((self.overrides or {}).get(recipe, {}))

    def changed(self, values: dict[str, dict[str, typing.Any]]) -> Scale:
        """The scale with other values, {block: {key: value}}."""
        return replace(self, **{block: replace(getattr(self, block), **of_it) for block, of_it in values.items()})


BLOCKS = {
    name: keys.inner(hint) for name, hint in typing.get_type_hints(Scale).items() if is_dataclass(keys.inner(hint))
}


def percent(checkpoint: str) -> int:
    """The percent of pretraining in a checkpoint's name, e.g. 8 for p08. Raises UserError for other names."""
    if checkpoint in CHECKPOINT:
        return int(checkpoint[1:])
    raise keys.UserError(f"'{keys.short(checkpoint)}' is not a checkpoint's name; accepted: {CHECKPOINT}.")


def check_scale(scale: Scale, where: str, how: str = "") -> None:
    """What must hold between the keys of a scale. where: '<file>: <scale>'; how: what changed its values."""
    for holds, name, found, accepted in _rules(scale):
        if not holds:
            raise keys.UserError(f"{where}.{name} is {found}{how}; accepted: {accepted}.")


def _rules(scale: Scale) -> Iterator[tuple[bool, str, object, str]]:
    """(holds, key, found, accepted)"""
    model, pretrain, questions, rl, sft = scale.model, scale.pretrain, scale.questions, scale.rl, scale.sft
    asked, steps = questions.train_easy + questions.train_hard, scale.pretraining_steps
    yield (
        model.hidden_size % (2 * model.heads) == 0, "model.hidden_size", model.hidden_size,
        f"a multiple of 2 x model.heads, which is {2 * model.heads}",
    )  # fmt: skip
    percents = [percent(name) for name in pretrain.save]
    yield (
        bool(percents) and percents == sorted(set(percents)), "pretrain.save", list(pretrain.save),
        "one name or more, increasing, each once",
    )  # fmt: skip
    yield (
        len({max(1, round(steps * p / 100)) for p in percents}) == len(percents), "pretrain.tokens", pretrain.tokens,
        f"so many that each checkpoint of pretrain.save is another step (now there are {steps:,} steps)",
    )  # fmt: skip
    yield pretrain.warmup_steps <= steps, "pretrain.warmup_steps", pretrain.warmup_steps, f"at most the {steps:,} steps"
    if (shares := pretrain.mixture) is not None:
        holds = {*shares} <= {"math", "reasoning", "general"} and abs(sum(shares.values()) - 1) < 1e-6
        yield holds, "pretrain.mixture", shares, "shares of math, reasoning and general that sum to 1"
    for name in ("easy_mixture", "hard_mixture"):
        shares = getattr(questions, name) or {}
        if questions.source == "nano" or shares:
            yield sum(shares.values()) > 0, f"questions.{name}", shares, "shares of cells that are not all 0"
        unknown = [cell for cell in shares if not re.fullmatch(r"e\d+n\d+", cell)]
        yield not unknown, f"questions.{name}", unknown, "cells named e<events>n<largest number>, for example e2n20"
    is_there = questions.source != "hub" or scale.hub is not None
    yield is_there, "hub", "null, and questions.source is 'hub'", "a block that says where public data are"
    is_other = questions.easy != questions.hard and (questions.source == "hub" or questions.hard is not None)
    yield is_other, "questions.hard", repr(questions.hard), "another name than questions.easy"
    if scale.hub and questions.hard:
        yield scale.hub.hard_test is not None, "hub.hard_test", "null", "a test set, since questions.hard is not null"
    yield asked > 0, "questions.train_easy", 0, "1 or more, if train_hard is 0"
    yield rl.warmup_steps <= rl.steps, "rl.warmup_steps", rl.warmup_steps, f"at most rl.steps, which is {rl.steps}"
    yield (
        rl.questions_per_step <= asked, "rl.questions_per_step", rl.questions_per_step,
        f"at most the {asked:,} training questions",
    )  # fmt: skip
    yield (
        scale.parallel.sft_batch_size <= asked, "parallel.sft_batch_size", scale.parallel.sft_batch_size,
        f"at most the {asked:,} training questions",
    )  # fmt: skip
    for name, block in (("rl", rl), ("evaluate", scale.evaluate)):
        fits = block.max_new_tokens < model.context
        found, accepted = block.max_new_tokens, f"less than model.context, which is {model.context}"
        yield fits, f"{name}.max_new_tokens", found, accepted
    if rl.clip_high is not None:
        yield rl.clip_high >= rl.clip, "rl.clip_high", rl.clip_high, f"rl.clip, which is {rl.clip}, or more"
    sft_steps = -(-sft.epochs * asked // sft.batch_size)
    yield sft.warmup_steps <= sft_steps, "sft.warmup_steps", sft.warmup_steps, f"at most the {sft_steps:,} steps of SFT"
    if questions.source == "nano":
        general = scale.evaluate.general
        yield 1 <= general <= NANO_ITEMS, "evaluate.general", general, f"1 to {NANO_ITEMS}, as many as the smallest has"
    between, test = scale.evaluate.questions_between, questions.test
    yield between <= test, "evaluate.questions_between", between, f"at most questions.test, which is {test}"
