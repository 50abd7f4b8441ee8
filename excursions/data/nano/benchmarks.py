"""The six general benchmarks in nano form: what a model that has read the general world should know.

| benchmark     | asks                                              | choices                           |
|---------------|---------------------------------------------------|-----------------------------------|
| lambada       | the last word of a story, given by its beginning  | every word (greedy)               |
| hellaswag     | the next step of a script                         | 4: same verb, different objects   |
| arc_easy      | a fact of a person                                | 4 values of the same attribute    |
| arc_challenge | a fact of a person's friend, who is not named     | 4 values of the same attribute    |
| piqa          | the tool for a goal                               | 2 tools used for the same action  |
| openbookqa    | what holds for a kind, by a rule about its family | 4 values of the same property     |

Items are spread evenly over the frequency ranks of what they ask. Answers and other choices are drawn alike,
so that a guess without the context is right at chance. No item's text can occur in the pretraining stream.
"""

import random
from collections.abc import Sequence
from functools import lru_cache

from datasets import Dataset

from excursions.data.nano.lexicon import ATTRIBUTES, PROPERTIES, STEPS_PER_SCRIPT, VALUES
from excursions.data.nano.world import World, dealt, shuffled
from excursions.params import UserError

BENCHMARKS = ("lambada", "hellaswag", "arc_easy", "arc_challenge", "piqa", "openbookqa")


def spread(candidates: Sequence, n: int, rng: random.Random) -> list:
    """n of the candidates, one from each of n equal slices of their order."""
    if not 1 <= n <= len(candidates):
        raise UserError(f"{n} items of a general benchmark were asked for; accepted: 1 to {len(candidates)}.")
    edges = [len(candidates) * i // n for i in range(n + 1)]
    return [candidates[low + int(rng.random() * (high - low))] for low, high in zip(edges, edges[1:], strict=False)]


def with_choices(context: str, answer: str, others: Sequence[str], n: int, rng: random.Random) -> dict:
    """An item whose n choices are the answer, in the first place, and n - 1 of the others in random order."""
    return {
        "context": context,
        "choices": [answer, *shuffled([o for o in others if o != answer], rng)[: n - 1]],
    }


def mix_places(items: list[dict], rng: random.Random) -> list[dict]:
    """Moves each item's answer to a random place, each place equally often, and notes it as "gold"."""
    places = dealt(range(len(items[0]["choices"])), len(items), rng)
    mixed = []
    for item, gold in zip(items, places, strict=True):
        answer, *others = item["choices"]
        mixed.append({**item, "choices": [*others[:gold], answer, *others[gold:]], "gold": gold})
    return mixed


def make_lambada(world: World, n: int, rng: random.Random) -> list[dict]:
    asked = [(p, a) for p in range(len(world.people)) if world.is_held_out_person[p] for a in ATTRIBUTES]
    stories = [world.put_story(rng, reserved=True) for _ in range(n // 2)]
    stories += [world.fact_story(rng, person, attribute) for person, attribute in spread(asked, n - n // 2, rng)]
    return [{"context": context, "target": target} for context, target in stories]


def make_hellaswag(world: World, n: int, rng: random.Random) -> list[dict]:
    items = []
    asked = [(script, step) for script in range(len(world.scripts)) for step in range(2, STEPS_PER_SCRIPT)]
    for script, step in spread(asked, n, rng):
        told = " . then ".join(world.steps[script][:step])
        opening = world.script_opening(script, world.reserved_script_wording(script))
        # The other choices are what is done at this point of other scripts: same verb, other objects.
        doing, _ = world.scripts[script]
        others = {world.steps[s][step]: None for s, (other, _) in enumerate(world.scripts) if other == doing}
        items.append(with_choices(f"{opening} {told} . then", world.steps[script][step], list(others), 4, rng))
    return items


def make_arc(world: World, n: int, rng: random.Random, of_friend: bool) -> list[dict]:
    items = []
    people = [p for p in range(len(world.people)) if world.is_held_out_person[p]]
    asked = [(p, attribute) for p in people for attribute in ATTRIBUTES]
    for person, attribute in spread(asked, n, rng):
        values = world.value[attribute]
        others = VALUES[attribute]
        if of_friend:
            # The person's own value is no choice: a model that knows it only would answer below chance.
            answer, own = values[world.friend[person]], values[person]
            others = [value for value in others if value != own]
            context = world.friend_question(person, attribute)
        else:
            answer, context = values[person], world.fact_question(person, attribute)
        items.append(with_choices(context, answer, others, 4, rng))
    return items


def make_piqa(world: World, n: int, rng: random.Random) -> list[dict]:
    items = []
    for goal in spread(range(len(world.goals)), n, rng):
        action, _, tool = world.goals[goal]
        context = world.goal_question(goal, world.reserved_goal_wording(goal))
        items.append(with_choices(context, tool, world.tools_of[action], 2, rng))
    return items


def make_openbookqa(world: World, n: int, rng: random.Random) -> list[dict]:
    kinds = [k for k in range(len(world.kinds)) if world.is_held_out_kind[k]]
    items = []
    for kind, prop in spread([(k, p) for k in kinds for p in PROPERTIES], n, rng):
        answer = world.rule[prop][world.family_of[kind]]
        items.append(with_choices(world.kind_question(kind, prop), answer, PROPERTIES[prop], 4, rng))
    return items


def make_items(world: World, n: int, seed: int) -> dict[str, list[dict]]:
    """n items per benchmark: {"id", "context", "choices", "gold"}; of lambada {"id", "context", "target"}."""
    makers = {
        "lambada": make_lambada,
        "hellaswag": make_hellaswag,
        "arc_easy": lambda *a: make_arc(*a, of_friend=False),  # type: ignore[misc]  # three arguments, none of them by name
        "arc_challenge": lambda *a: make_arc(*a, of_friend=True),  # type: ignore[misc]  # the same
        "piqa": make_piqa,
        "openbookqa": make_openbookqa,
    }
    items = {}
    for i, name in enumerate(BENCHMARKS):
        rng = random.Random(seed * len(BENCHMARKS) + i)
        made = makers[name](world, n, rng)
        if name != "lambada":
            made = mix_places(made, rng)
        items[name] = [{"id": f"{name}-{j}", **item} for j, item in enumerate(made)]
    return items


@lru_cache(maxsize=1)
def _items_of_seed(world_seed: int, n: int, seed: int) -> dict[str, list[dict]]:
    return make_items(World(world_seed), n, seed)


def harness_dataset(benchmark: str, world_seed: int, items: int, items_seed: int, **_) -> dict[str, Dataset]:
    """The items of a benchmark for the task files in `nano/tasks`, from the harness's metadata."""
    rows = _items_of_seed(world_seed, items, items_seed)[benchmark]
    # The harness puts the space between context and continuation for choices, but not for a single target.
    rows = [row | {"target": f" {row['target']}"} if "target" in row else row for row in rows]
    return {"test": Dataset.from_list(rows)}
