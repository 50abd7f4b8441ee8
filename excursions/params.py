"""params.yaml -> frozen dataclasses. Every hyper-parameter of the study is written there and nowhere else.

A key that is unknown, missing or of the wrong type is an error that names it, so that a misspelt parameter
can never turn into a silent default.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from dataclasses import dataclass
from pathlib import Path

import yaml

from excursions import recipes

RECIPES = tuple(recipes.RECIPES)
SCALES = ("smoke", "nano", "paper")
ENGINES = ("torch", "transformers", "vllm")


class UserError(Exception):
    """A mistake that the reader of the message can mend; the command line prints it without a traceback."""


@dataclass(frozen=True)
class Model:
    """Shape of the OLMo2 model."""

    hidden_size: int
    layers: int
    heads: int
    intermediate_size: int
    context: int  # tokens
    rope_theta: float


@dataclass(frozen=True)
class Pretrain:
    """Next-token prediction on the stream, and which checkpoints of it are kept."""

    tokens: int
    mixture: dict[str, float] | None  # shares of math, reasoning and general (nano); null = those of the paper
    batch_size: int  # sequences of `context` tokens
    micro_batch: int | None  # sequences of one process in one forward pass; null = all of its part of the batch
    learning_rate: float  # peak
    final_learning_rate_ratio: float  # the cosine ends at this share of the peak
    warmup_steps: int
    betas: tuple[float, float]
    weight_decay: float
    max_grad_norm: float
    seed: int
    save: tuple[str, ...]  # names pNN: percent of pretraining
    dtype: str  # of the saved checkpoints
    threads: int
    compile: bool  # torch.compile of the loss: twice as fast on a CPU, and needs a C++ compiler there


@dataclass(frozen=True)
class Style:
    """How the models are asked."""

    chat: bool = False  # by the tokenizer's chat template; else by questions.prompt
    bos: bool | None = None  # whether a plain prompt begins with the BOS token; null = as the tokenizer does by itself
    instruction: str | None = None  # e.g. the form of an answer: before a plain prompt, in each question of a chat


@dataclass(frozen=True)
class Questions:
    """Where the questions come from and how they are written into a prompt."""

    source: str  # "nano" or "hub"
    easy: str  # name of the easy benchmark
    hard: str | None  # name of the hard benchmark; null = the easy one is the whole study (public data)
    train_easy: int
    train_hard: int
    validation: int  # per benchmark
    test: int  # per benchmark
    solutions: int  # gold solutions per question
    # Shares of the cells of word problems (nano); null for public data. Dicts have no hash, and `==` tells them apart.
    easy_mixture: dict[str, float] | None = dataclasses.field(hash=False)
    hard_mixture: dict[str, float] | None = dataclasses.field(hash=False)
    seed: int
    prompt: str  # with {question}
    separator: str  # between the examples of a few-shot prompt
    stop: str  # where the answer to a few-shot prompt ends
    style: Style | None = None  # null = plain prompts; a suite may have another


@dataclass(frozen=True)
class Rl:
    """GRPO."""

    steps: int
    questions_per_step: int
    rollouts: int
    max_new_tokens: int
    temperature: float
    learning_rate: float
    warmup_steps: int
    betas: tuple[float, float]
    weight_decay: float
    max_grad_norm: float
    inner_steps: int
    clip: float
    kl: float
    micro_batch: int  # completions per forward pass
    advantage: str | None = None
    normalizer: str | None = None
    clip_high: float | None = None


@dataclass(frozen=True)
class Sft:
    """Next-token prediction on gold solutions, loss on the completion only."""

    epochs: int  # one solution per question
    gold_epochs: int  # all solutions
    batch_size: int  # sequences
    learning_rate: float  # peak
    warmup_steps: int
    betas: tuple[float, float]
    weight_decay: float
    max_grad_norm: float
    micro_batch_tokens: int | None = None  # in one forward pass, padding included; null = four examples
    gradient_checkpointing: bool | None = None  # compute activations again in the backward pass: less memory, more time


@dataclass(frozen=True)
class Parallel:
    """Parallel averaging of an RL and an SFT update from one parameter snapshot."""

    steps: int
    rl_weight: float  # 1 is pure RL, 0 is pure SFT
    sft_batch_size: int


@dataclass(frozen=True)
class Evaluate:
    """What is measured, and how often."""

    samples: int
    temperature: float
    max_new_tokens: int
    shots: int  # examples in the prompt of `base`; every other recipe is 0-shot
    between: int  # evaluations between the first and the last step
    questions_between: int  # questions per benchmark at these
    general: int  # items per general benchmark (nano); 0 = all
    seed: int
    kept_questions: int  # questions per benchmark whose completions are kept
    kept_samples: int  # of each of them
    split: str | None = None  # of the questions: null is test; validation where settings are chosen


@dataclass(frozen=True)
class Engine:
    """What samples the completions."""

    name: str  # "torch" (embedded, OLMo2), "transformers" (any architecture) or "vllm"
    max_logp_difference: float  # nats; a run stops if sampler and trainer differ by more on average over a step
    importance_cap: float | None  # weight tokens by min(p trainer / p sampler, cap); null = no correction
    kv_cache_gb: float  # memory of one process for keys and values (vllm)


@dataclass(frozen=True)
class Hub:
    """Where public data come from: each a hub name, a local folder, or a .jsonl(.gz) or .parquet file."""

    tokenizer: str
    stream: str | None  # pretraining documents, column "text"; null where only public suites are trained
    stream_config: str | None  # configuration of that dataset
    train: str  # in the schema of OpenMathInstruct-1
    easy_train: str | None  # GSM8K, for the examples in few-shot prompts; null = examples out of `train`
    easy_test: str
    hard_train: str | None  # MATH, for the same
    hard_test: str | None  # null where questions.hard is
    general: str | None  # folder of local copies of the six general benchmarks; null = the hub


@dataclass(frozen=True)
class Scale:
    """One block of params.yaml: everything that distinguishes a scale from another."""

    model: Model
    pretrain: Pretrain
    questions: Questions
    hub: Hub | None  # null where questions.source is nano
    rl: Rl
    sft: Sft
    parallel: Parallel
    evaluate: Evaluate
    engine: Engine
    workers: int


@dataclass(frozen=True)
class Revision:
    """A checkpoint of a public suite."""

    revision: str  # branch, tag or commit of the hub; a folder of that name in a local suite
    tokens: int  # seen in pretraining


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters (arXiv 2106.09685) on all linear layers, trained in place of the weights."""

    rank: int
    alpha: float  # the update is alpha / rank times the product of the two matrices


@dataclass(frozen=True)
class Suite:
    """Public checkpoints that runs can start from instead of our own pretraining."""

    model: str  # hub name, or a local folder
    total_tokens: int
    checkpoints: dict[str, Revision]
    style: Style | None = None  # null = that of the scale's questions
    lora: Lora | None = None  # null = all weights are trained


@dataclass(frozen=True)
class Study:
    """The whole of params.yaml."""

    scales: tuple[str, ...]
    checkpoints: tuple[str, ...]
    recipes: tuple[str, ...]
    seeds: tuple[int, ...]
    more_seeds: dict[str, dict[str, tuple[int, ...]]]  # recipe -> checkpoint -> seeds of these runs besides
    keep_models: tuple[str, ...]  # <checkpoint>/seed-<k>: of these cells the trained models are kept
    suites: dict[str, Suite]
    smoke: Scale
    nano: Scale
    paper: Scale

    def scale(self, name: str) -> Scale:
        """The block of one scale. Raises UserError for an unknown name."""
        return getattr(self, one_of(name, SCALES, "scale"))

    def seeds_of(self, recipe: str, checkpoint: str, suite: str = "main") -> tuple[int, ...]:
        """The seeds a recipe is run with from a checkpoint; `more_seeds` are for the suite main."""
        more = self.more_seeds.get(recipe, {}).get(checkpoint, ()) if suite == "main" else ()
        return (*self.seeds, *more)

    def cells(self, suite: str = "main") -> list[tuple[str, str, int]]:
        """All runs from a suite: (checkpoint, recipe, seed). Of a public suite all checkpoints count."""
        checkpoints = self.suites[suite].checkpoints if suite in self.suites else self.checkpoints
        return [(c, r, s) for c in checkpoints for r in self.recipes for s in self.seeds_of(r, c, suite)]


def one_of(found: str, accepted: tuple[str, ...] | list[str], what: str) -> str:
    """`found`, if it is accepted. Raises UserError with the accepted values and the nearest of them."""
    if found in accepted:
        return found
    near = difflib.get_close_matches(str(found), accepted, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise UserError(f"There is no {what} '{found}'; accepted: {', '.join(accepted)}.{hint}")


def load(path: Path | str = "params.yaml") -> Study:
    """Reads and checks params.yaml. Raises UserError naming the file and the key."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist. Run from the project's folder, or `git checkout -- params.yaml`.")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None
    study = _build(Study, raw, str(path), "")
    for name in study.scales:
        one_of(name, SCALES, f"scale (key 'scales' of {path})")
    for name in study.recipes:
        one_of(name, RECIPES, f"recipe (key 'recipes' of {path})")
    for name in SCALES:
        _check_scale(study.scale(name), name, path)
    for suite in study.suites.values():
        for checkpoint in suite.checkpoints:
            percent(checkpoint)
    for name in study.checkpoints:
        for scale in study.scales:
            one_of(
                name,
                study.scale(scale).pretrain.save,
                f"checkpoint in {scale}.pretrain.save (key 'checkpoints' of {path})",
            )
    for recipe, more in study.more_seeds.items():
        one_of(recipe, study.recipes, f"recipe in recipes (key 'more_seeds' of {path})")
        for checkpoint, seeds in more.items():
            one_of(checkpoint, study.checkpoints, f"checkpoint in checkpoints (key 'more_seeds.{recipe}' of {path})")
            all_of_them = study.seeds_of(recipe, checkpoint)
            if len(set(all_of_them)) < len(all_of_them):
                raise UserError(
                    f"{path}: more_seeds.{recipe}.{checkpoint} is {list(seeds)}; accepted: seeds that are not in "
                    f"seeds ({', '.join(map(str, study.seeds))}), each once."
                )
    return study


def percent(checkpoint: str) -> int:
    """The percent of pretraining in a checkpoint's name, e.g. 8 for p08. Raises UserError for other names."""
    if checkpoint[:1] == "p" and checkpoint[1:].isdigit() and 0 < int(checkpoint[1:]) <= 100:
        return int(checkpoint[1:])
    raise UserError(f"'{checkpoint}' is not a checkpoint's name; accepted: p01 to p100, the percent of pretraining.")


def _check_scale(scale: Scale, name: str, path: Path) -> None:
    for checkpoint in scale.pretrain.save:
        percent(checkpoint)
    limits = [
        ("rl.rollouts", scale.rl.rollouts, 2),
        ("rl.steps", scale.rl.steps, 1),
        ("rl.inner_steps", scale.rl.inner_steps, 1),
        ("evaluate.samples", scale.evaluate.samples, 1),
        ("workers", scale.workers, 1),
        ("parallel.steps", scale.parallel.steps, 1),
    ]
    for key, found, least in limits:
        if found < least:
            raise UserError(f"{path}: {name}.{key} is {found}; accepted: {least} or more.")
    if not 0 <= scale.parallel.rl_weight <= 1:
        raise UserError(f"{path}: {name}.parallel.rl_weight is {scale.parallel.rl_weight}; accepted: 0 to 1.")
    one_of(scale.questions.source, ("nano", "hub"), f"source (key '{name}.questions.source' of {path})")
    one_of(scale.engine.name, ENGINES, f"engine (key '{name}.engine.name' of {path})")
    if scale.questions.source == "hub" and scale.hub is None:
        raise UserError(f"{path}: {name}.questions.source is 'hub', but {name}.hub is null; say there where data are.")
    one_of(
        scale.pretrain.dtype,
        ("float32", "float16", "bfloat16"),
        f"dtype (key '{name}.pretrain.dtype' of {path})",
    )


def _build(kind: type, raw: object, path: str, prefix: str) -> typing.Any:
    """A dataclass from a mapping, recursively, with every key accounted for."""
    if not isinstance(raw, dict):
        raise UserError(f"{path}: '{prefix.rstrip('.') or 'the file'}' must be a mapping of keys, found {raw!r}.")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key in raw:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1)
            hint = f" Did you mean '{prefix}{near[0]}'?" if near else ""
            raise UserError(f"{path}: unknown key '{prefix}{key}'; accepted here: {', '.join(fields)}.{hint}")
    for key, field in fields.items():
        if key not in raw and field.default is dataclasses.MISSING:
            raise UserError(f"{path}: missing key '{prefix}{key}'. Add it; `git diff {path}` shows what was changed.")
    hints = typing.get_type_hints(kind)
    return kind(**{key: _value(hints[key], value, path, prefix + key) for key, value in raw.items()})


def _value(hint: typing.Any, raw: object, path: str, key: str) -> typing.Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        if raw is None:
            return None
        hint = next(inner for inner in typing.get_args(hint) if inner is not type(None))
    if dataclasses.is_dataclass(hint):
        return _build(hint, raw, path, key + ".")
    if typing.get_origin(hint) is dict:
        if not isinstance(raw, dict):
            raise UserError(f"{path}: '{key}' must be a mapping of names, found {raw!r}.")
        inner = typing.get_args(hint)[1]
        return {str(name): _value(inner, value, path, f"{key}.{name}") for name, value in raw.items()}
    if typing.get_origin(hint) is tuple:
        if not isinstance(raw, list):
            raise UserError(f"{path}: '{key}' must be a list, found {raw!r}.")
        inner = typing.get_args(hint)
        if inner[-1] is not Ellipsis and len(inner) != len(raw):
            raise UserError(f"{path}: '{key}' must have {len(inner)} values, found {raw!r}.")
        return tuple(_value(inner[0], item, path, f"{key}[{i}]") for i, item in enumerate(raw))
    if hint is float and isinstance(raw, int) and not isinstance(raw, bool):
        return float(raw)
    if hint is not bool and isinstance(raw, bool) or not isinstance(raw, hint):
        raise UserError(f"{path}: '{key}' must be of type {hint.__name__}, found {raw!r}.")
    return raw
