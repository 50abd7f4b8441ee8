"""params.yaml -> frozen dataclasses. Every hyper-parameter of the study is written there and nowhere else.

A top-level mapping that holds a block of a scale is a scale; those shipped are smoke, nano and paper.
"""

from __future__ import annotations

import typing
from dataclasses import dataclass, fields, replace
from pathlib import Path

from excursions import keys, recipes
from excursions.blocks import (
    BLOCKS,
    CHECKPOINT,
    ENGINES,
    SEED,
    Engine,
    Evaluate,
    Hub,
    Lora,
    Model,
    Parallel,
    Pretrain,
    Questions,
    Rl,
    Scale,
    Sft,
    Style,
    check_scale,
    percent,
)
from excursions.keys import NAME, TEXT, Pattern, Range, UserError, build, checked_name, key, listed, one_of

__all__ = [  # what the other modules take from here
    "ENGINES", "RECIPES", "SEED", "Engine", "Evaluate", "Hub", "Lora", "Model", "OwnSuite", "Parallel", "Pretrain",
    "PublicSuite", "Questions", "Revision", "Rl", "Scale", "Sft", "Study", "Style", "UserError", "changed",
    "checked_name", "keys_table", "load", "one_of", "percent",
]  # fmt: skip
RECIPES = tuple(recipes.RECIPES)
KEPT = Pattern("p[0-9]{2,3}/seed-[0-9]{1,19}", "<checkpoint>/seed-<k>")


@dataclass(frozen=True)
class Revision:
    """A checkpoint of a public suite."""

    revision: str = key("branch, tag or commit of the hub; a folder of that name in a local suite", TEXT)
    tokens: int = key("seen in pretraining", Range(1, 10**16), "tokens")


@dataclass(frozen=True)
class PublicSuite:
    """Public checkpoints that runs can start from instead of our own pretraining."""

    model: str = key("hub name, or a local folder", TEXT)
    total_tokens: int = key("of its whole pretraining", Range(1, 10**16), "tokens")
    checkpoints: dict[str, Revision] = key("names of any form")
    style: Style | None = key("how the models are asked; null: as the scale's questions say", default=None)
    lora: Lora | None = key("what is trained in place of the weights; null: as the scale says", default=None)


@dataclass(frozen=True)
class OwnSuite:
    """A suite of our own beside `main`: other values, or other runs from the checkpoints of another suite."""

    checkpoints: tuple[str, ...] = key("that runs start from", NAME)
    recipes: tuple[str, ...] = key("of its runs", RECIPES)
    seeds: tuple[int, ...] = key("of each of its runs", SEED)
    overrides: typing.Any = key(
        "values of the scale that this suite sees instead", "null, or {block.key: value}", default=None
    )
    checkpoints_of: str | None = key(
        "suite whose checkpoints it starts from; null: pretrained on its own", NAME, default=None
    )


@dataclass(frozen=True)
class Top:
    """The keys of params.yaml beside its scales and suites."""

    scales: tuple[str, ...] = key("that `dvc repro` runs", NAME)
    checkpoints: tuple[str, ...] = key("of the suite main that runs start from, each in `pretrain.save`", CHECKPOINT)
    recipes: tuple[str, ...] = key("of the study", RECIPES)
    seeds: tuple[int, ...] = key("of every run; none: `more_seeds` names the runs one by one", SEED)
    more_seeds: dict[str, dict[str, tuple[int, ...]]] = key("recipe -> checkpoint -> seeds of these runs besides", SEED)
    keep_models: tuple[str, ...] = key("cells whose trained models are kept in trained/", KEPT)


@dataclass(frozen=True, kw_only=True)
class Study(Top):
    """The whole of params.yaml."""

    suites: dict[str, PublicSuite | OwnSuite]
    blocks: dict[str, Scale]  # by the scale's name
    path: str

    @property
    def public_suites(self) -> dict[str, PublicSuite]:
        """The suites that others have pretrained."""
        return {name: suite for name, suite in self.suites.items() if isinstance(suite, PublicSuite)}

    def scale(self, name: str, suite: str = "main") -> Scale:
        """The block of one scale as a suite sees it: with its overrides, or with the style and the adapters of the
        public suite that its checkpoints are of. Raises UserError for an unknown scale, and for overrides of the suite
        that do not go with this scale."""
        scale = self.blocks[one_of(name, self.blocks, f"scale in {self.path}")]
        own, lender = self.suites.get(suite), self.suites.get(self.checkpoint_suite(suite))
        if isinstance(lender, PublicSuite):
            questions = replace(scale.questions, style=lender.style or scale.questions.style)
            scale = replace(scale, questions=questions, lora=lender.lora or scale.lora)
        if isinstance(own, OwnSuite) and own.overrides:
            scale = changed(scale, own.overrides, f"{self.path}: {name}", f"suites.{suite}.overrides")
        return scale

    def checkpoint_suite(self, suite: str) -> str:
        """The suite whose checkpoint folders the runs of a suite start from."""
        return getattr(self.suites.get(suite), "checkpoints_of", None) or suite

    def seeds_of(self, scale: str, recipe: str, checkpoint: str, suite: str = "main") -> tuple[int, ...]:
        """The seeds a recipe is run with from a checkpoint; `more_seeds`, and those of the scale, are for the suite
        main. A public suite is run with `seeds`, or with 0 where none are named."""
        if suite in self.public_suites:
            return self.seeds or (0,)
        if suite == "main" and (own := self.blocks[scale].seeds) is not None:
            return own
        more = self.more_seeds.get(recipe, {}).get(checkpoint, ()) if suite == "main" else ()
        return (*getattr(self.suites.get(suite), "seeds", self.seeds), *more)

    def cells(self, scale: str, suite: str = "main") -> list[tuple[str, str, int]]:
        """All runs of a suite: (checkpoint, recipe, seed). Of a public suite all checkpoints count."""
        about = self.suites.get(suite, self)
        recipes = getattr(about, "recipes", self.recipes)
        return [(c, r, s) for c in about.checkpoints for r in recipes for s in self.seeds_of(scale, r, c, suite)]


def load(path: Path | str = "params.yaml") -> Study:
    """Reads and checks params.yaml. Raises UserError naming the file and the key."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist. Run from the project's folder, or `git checkout -- params.yaml`.")
    return check(keys.read_yaml(path), path)


def check(raw: dict, path: Path) -> Study:
    """The study in the mapping that was read from `path`. Raises UserError naming the file and the key."""
    raw = dict(raw)
    names = [field.name for field in fields(Top)]
    blocks = {name: raw.pop(name) for name in [*raw] if name not in [*names, "suites"] and _is_block(raw[name])}
    suites = raw.pop("suites", None)
    for name in [*raw, *blocks]:
        if name in blocks:
            keys.checked_name(name, f"scale (of {path})")
        elif name not in names:
            near = keys.nearest(name, [*names, "suites", *blocks])
            raise UserError(
                f"{path}: unknown key '{name}'; accepted here: {', '.join(names)}, suites, and scales.{near}"
            )
    study = Study(
        **vars(build(Top, raw, path)),
        suites=_suites(suites, path),
        blocks={name: _block(block, name, path) for name, block in blocks.items()},
        path=str(path),
    )
    _check_study(study)
    return study


def _is_block(raw: object) -> bool:
    return isinstance(raw, dict) and any(name in BLOCKS for name in raw)


def _block(raw: dict, name: str, path: Path) -> Scale:
    """A scale, checked by itself and as each recipe sees it."""
    scale = build(Scale, raw, path, f"{name}.")
    where = f"{name}.overrides"
    overrides = {
        one_of(recipe, RECIPES, f"recipe (key '{where}' of {path})"): _typed(values, path, f"{where}.{recipe}")
        for recipe, values in _mapping(scale.overrides, path, where).items()
    }
    scale = replace(scale, overrides=overrides or None)
    check_scale(scale, f"{path}: {name}")
    for recipe, values in overrides.items():
        changed(scale, values, f"{path}: {name}", f"{where}.{recipe}")
        for block in values:  # another one would be changed without any effect
            one_of(
                block, recipes.RECIPES[recipe].takes, f"block that {recipe} reads (key '{where}.{recipe}' of {path})"
            )
    return scale


def _suites(raw: object, path: Path) -> dict[str, PublicSuite | OwnSuite]:
    """The suites: one with the key `model` is public."""
    found: dict[str, PublicSuite | OwnSuite] = {}
    for name, about in _mapping(raw, path, "suites").items():
        if checked_name(name, f"suite (of {path})") == "main":
            raise UserError(f"{path}: 'suites.main': main is the suite that `checkpoints` names; choose another name.")
        is_public = isinstance(about, dict) and "model" in about
        suite = build(PublicSuite if is_public else OwnSuite, about, path, f"suites.{name}.")
        if isinstance(suite, OwnSuite):
            values: dict[str, dict] = {}
            for dotted, value in _mapping(suite.overrides, path, f"suites.{name}.overrides").items():
                block, _, of_it = dotted.partition(".")
                values.setdefault(block, {})[of_it] = value
            suite = replace(suite, overrides=_typed(values, path, f"suites.{name}.overrides") or None)
        found[name] = suite
    return found


def _mapping(raw: object, path: Path, where: str) -> dict[str, typing.Any]:
    """A mapping of texts; null is an empty one."""
    if raw is not None and not (isinstance(raw, dict) and all(isinstance(name, str) for name in raw)):
        raise UserError(f"{path}: '{where}' must be a mapping of names, or null, found {keys.short(repr(raw))}.")
    return raw or {}


def _typed(raw: object, path: Path, where: str) -> dict[str, dict[str, typing.Any]]:
    """Checked values of overrides, {block: {key: value}}."""
    values: dict[str, dict[str, typing.Any]] = {}
    for block, of_it in _mapping(raw, path, where).items():
        kind = BLOCKS[one_of(block, BLOCKS, f"block (key '{where}' of {path})")]
        known = {field.name for field in fields(kind)}
        for name, value in _mapping(of_it, path, f"{where}.{block}").items():
            one_of(name, sorted(known), f"key of {block} (key '{where}' of {path})")
            values.setdefault(block, {})[name] = keys.build_key(kind, name, value, path, f"{where}.{block}.{name}")
    return values


def changed(scale: Scale, values: dict, where: str, by: str) -> Scale:
    """The scale with overrides, checked as a whole. where: '<file>: <scale>'; by: the key that overrides."""
    for block in values:
        if getattr(scale, block) is None:
            raise UserError(
                f"{where}.{block} is null, and '{by}' would change its keys; accepted: a block that is there."
            )
    changed = scale.changed(values)
    check_scale(changed, where, f" with '{by}'")
    return changed


def _check_study(study: Study) -> None:
    """What must hold between the scales, the suites and the keys beside them."""
    path = study.path
    for name in ("scales", "checkpoints", "recipes", "seeds"):
        _check_list(getattr(study, name), name, path, at_least=0 if name == "seeds" else 1)
    if not study.blocks:
        raise UserError(f"{path} holds no scale, a mapping with blocks such as model and rl. Is a part of it missing?")
    for name, block in study.blocks.items():
        if block.seeds is not None:
            _check_list(block.seeds, f"{name}.seeds", path)
    for name in study.scales:
        scale = study.scale(one_of(name, study.blocks, f"scale (key 'scales' of {path})"))
        for checkpoint in study.checkpoints:
            what = f"checkpoint in {name}.pretrain.save (key 'checkpoints' of {path})"
            one_of(checkpoint, scale.pretrain.save, what)
    for recipe, more in study.more_seeds.items():
        one_of(recipe, study.recipes, f"recipe in recipes (key 'more_seeds' of {path})")
        for checkpoint, seeds in more.items():
            one_of(checkpoint, study.checkpoints, f"checkpoint in checkpoints (key 'more_seeds.{recipe}' of {path})")
            if len({*study.seeds, *seeds}) < len(study.seeds) + len(seeds):
                raise UserError(
                    f"{path}: more_seeds.{recipe}.{checkpoint} is {list(seeds)}; accepted: seeds that are not in "
                    f"seeds ({', '.join(map(str, study.seeds))}), each once."
                )
    for name in study.keep_models:
        checkpoint, _, seed = name.partition("/seed-")
        one_of(checkpoint, study.checkpoints, f"checkpoint in checkpoints (key 'keep_models' of {path})")
        scales = [(scale, recipe) for scale in study.scales for recipe in study.recipes]
        if not any(int(seed) in study.seeds_of(scale, recipe, checkpoint) for scale, recipe in scales):
            raise UserError(f"{path}: keep_models has {name}; accepted: seeds of {checkpoint} that are computed.")
    for name, suite in study.suites.items():
        _check_suite(study, name, suite)


def _check_suite(study: Study, name: str, suite: PublicSuite | OwnSuite) -> None:
    """What must hold between a suite, the scales and the other suites."""
    where, path = f"suites.{name}", study.path
    if isinstance(suite, PublicSuite):
        if not suite.checkpoints:
            raise UserError(f"{path}: '{where}.checkpoints' is empty; accepted: one checkpoint or more.")
        for checkpoint, about in suite.checkpoints.items():
            key_ = f"{where}.checkpoints.{checkpoint}"
            if about.tokens > suite.total_tokens:
                raise UserError(f"{path}: {key_}.tokens is {about.tokens}; accepted: at most {suite.total_tokens}.")
            if ".." in Path(about.revision).parts or Path(about.revision).is_absolute():
                raise UserError(f"{path}: {key_}.revision is {about.revision!r}; accepted: a name without '..'.")
        return
    for of_it in ("checkpoints", "recipes", "seeds"):
        _check_list(getattr(suite, of_it), f"{where}.{of_it}", path)
    other = suite.checkpoints_of
    if other is not None:
        accepted = ["main", *(n for n in study.suites if study.checkpoint_suite(n) == n)]
        one_of(other, accepted, f"suite with checkpoints of its own (key '{where}.checkpoints_of' of {path})")
        useless = [block for block in ("model", "pretrain") if block in (suite.overrides or {})]
        if useless:
            raise UserError(
                f"{path}: '{where}.overrides' changes {useless[0]}, which nothing reads, since "
                f"'{where}.checkpoints_of' is {other}; accepted: one of the two."
            )
    for scale in study.scales:
        lender = study.suites.get(other or name)
        if isinstance(lender, PublicSuite):
            there = tuple(lender.checkpoints)
        else:
            there = study.scale(scale, other if other in study.suites else name).pretrain.save
        for checkpoint in suite.checkpoints:
            one_of(
                checkpoint, there, f"checkpoint of {scale}, suite {other or name} (key '{where}.checkpoints' of {path})"
            )


def _check_list(found: tuple, name: str, path: str, at_least: int = 1) -> None:
    if not at_least <= len(found) == len(set(found)):
        raise UserError(f"{path}: '{name}' is [{listed(found)}]; accepted: {at_least} or more, each once.")


def keys_table() -> str:
    """docs/params.md: every key of params.yaml with what it takes."""
    lines = [
        "# The keys of params.yaml",
        "",
        "Made by `python -m excursions.params > docs/params.md` from the declarations that each value is checked by.",
        "A key that may be null may be left out.",
    ]
    parts = {
        "Beside the scales and suites": (Top, ""),
        "A scale: any name of one's own, as smoke, nano and paper are": (Scale, "<scale>."),
        "A public suite": (PublicSuite, "suites.<suite>."),
        "Its checkpoints": (Revision, "suites.<suite>.checkpoints.<checkpoint>."),
        "A suite of one's own": (OwnSuite, "suites.<suite>."),
    }
    for title, (kind, prefix) in parts.items():
        lines += ["", f"## {title}", "", "| key | accepted | unit | what it is for |", "|---|---|---|---|"]
        for row in keys.declared(kind, prefix):
            name, *others = (text.replace("|", "\\|") for text in row)
            lines.append(f"| `{name}` | {' | '.join(others)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(keys_table())
