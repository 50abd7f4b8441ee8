"""The recipes of the study, in the order in which tables and legends list them. Adding one is an entry here.

A recipe trains a checkpoint, or the result of its parent recipe, with the update of a module of `training`. All recipes
train on the same questions.
"""

from __future__ import annotations

from dataclasses import dataclass

MEASURED = ("questions", "evaluate")  # the blocks of params.yaml that every result depends on


@dataclass(frozen=True)
class Recipe:
    """What the command line, the pool, the costs, the figures and the fingerprint read of a recipe."""

    name: str  # in params.yaml and in the results tree
    label: str  # in figures and tables
    color: str
    marker: str
    dashes: str = "-"  # of its curves; dashed: what has seen all gold solutions
    make: str | None = None  # the module of `training` whose `make` gives its updates; None trains nothing
    blocks: tuple[str, ...] = ()  # of params.yaml that its own training reads
    parent: str | None = None  # the recipe whose result it starts from; None is the checkpoint
    gold: bool = False  # SFT on all solutions of a question, and not on one

    @property
    def ancestors(self) -> tuple[str, ...]:
        """Its parent, the parent of that, and so on."""
        return () if self.parent is None else (self.parent, *RECIPES[self.parent].ancestors)

    @property
    def reads(self) -> tuple[str, ...]:
        """The blocks of params.yaml that its results depend on."""
        inherited = RECIPES[self.parent].reads if self.parent else MEASURED
        return tuple(dict.fromkeys((*inherited, *self.blocks)))

    @property
    def takes(self) -> tuple[str, ...]:
        """The blocks of which it may see other values (`overrides`)."""
        return (*self.reads, "engine", "lora")


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("base", "base (few-shot)", "#222222", "o"),
        Recipe("rl", "RL", "#0173b2", "s", make="rl", blocks=("rl",)),
        Recipe("sft", "SFT (one solution)", "#de8f05", "^", make="sft", blocks=("sft",)),
        Recipe("sft_gold", "SFT-Gold (all solutions)", "#8c2d04", "v", "--", make="sft", blocks=("sft",), gold=True),
        Recipe("sft_rl", "SFT → RL", "#029e73", "D", make="rl", blocks=("rl",), parent="sft"),
        Recipe("sft_gold_rl", "SFT-Gold → RL", "#6a3d9a", "P", "--", make="rl", blocks=("rl",), parent="sft_gold"),
        Recipe("parallel", "parallel averaging", "#e7298a", "X", make="parallel", blocks=("rl", "sft", "parallel")),
    )
}
PARENTS = {recipe.parent for recipe in RECIPES.values() if recipe.parent}  # whose trained models others start from
