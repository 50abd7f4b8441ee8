"""The general world of the nano language: what there is to know, and the documents that tell it.

A `World` is a seeded set of arbitrary facts, so that knowing one can only come from having read it:

- people (first name and family name) with a home, a job, a colour, a pet, a food and a friend;
- kinds ("marsh lumo") that belong to families, mostly by their last word, and rules that hold for a whole family;
- scripts: how to do something, in five steps; goals, and the tool each of them needs;
- stories whose last word follows from the first sentences.

Facts have Zipf-like frequencies: the frequent ones are learned early in pretraining, the rare ones near its
end, and so accuracy on the general benchmarks rises over the whole of it. Text is lower-case words and `. ,
: ?`, separated by single spaces.

What the benchmarks ask is told in the stream, but never in the form in which they ask it. Held-out people
stand in no question and at the end of no story; of held-out kinds only the family is told, never what holds
for them; each script and each goal has one wording that is reserved for its benchmark items; and a story
that asks what somebody put somewhere never asks for a reserved pair of person and object.
"""

from __future__ import annotations

import random
from bisect import bisect
from collections.abc import Iterable, Sequence
from itertools import accumulate, permutations

from excursions.data.nano import lexicon as lex

PEOPLE = 300
HELD_OUT_PEOPLE = 0.6
HELD_OUT_KINDS = 0.5
UNLIKE_ITS_NAME = 0.2  # of the kinds, those of another family than most kinds with the same last word
# Shares of the documents. A friend document tells facts of somebody's friend without naming the friend.
MIXTURE = {
    "person": 0.38,
    "friend": 0.17,
    "story": 0.18,
    "script": 0.06,
    "tools": 0.045,
    "kinds": 0.105,
    "questions": 0.06,
}


def zipf_cumulative(n: int, flat: float = 0.02) -> list[float]:
    """Cumulative frequencies of n things, 1 / (rank + flat n) each: the first is 45 times the last."""
    weights = list(accumulate(1.0 / (rank + 1 + flat * n) for rank in range(n)))
    return [weight / weights[-1] for weight in weights[:-1]]


def shuffled(items: Iterable, rng: random.Random) -> list:
    """Shuffled copy, from `rng.random()` alone: the same in every Python version."""
    return [item for _, item in sorted(((rng.random(), i), item) for i, item in enumerate(items))]


def dealt(values: Sequence, n: int, rng: random.Random) -> list:
    """n values in random order, each as often as the others, so that no answer is likelier by itself."""
    return shuffled([values[i % len(values)] for i in range(n)], rng)


def is_reserved_pair(person: int, thing: int) -> bool:
    """Whether only a benchmark item may ask for the object that this person (first name) put somewhere."""
    return (person + thing) % 5 == 0


class World:
    """All facts of one seed, and every sentence that tells one. Lists begin with what is most frequent."""

    def __init__(self, seed: int):
        self.seed = seed
        rng = random.Random(seed)
        self._make_people(rng)
        self._make_kinds(rng)
        self._make_scripts(rng)
        self._make_goals(rng)
        self._documents = [getattr(self, f"_{name}_document") for name in MIXTURE]
        self._mixture = [*accumulate(MIXTURE.values())][:-1]

    def _make_people(self, rng: random.Random) -> None:
        names = shuffled([(i, last) for i in range(len(lex.FIRST)) for last in lex.LAST], rng)[:PEOPLE]
        self.people = [f"{lex.FIRST[i]} {last}" for i, last in names]
        self.first_of = [i for i, _ in names]
        # value[attribute][person]
        self.value = {a: dealt(lex.VALUES[a], PEOPLE, rng) for a in lex.ATTRIBUTES}
        circle = shuffled(range(PEOPLE), rng)
        self.friend = [0] * PEOPLE
        for one, other in zip(circle, circle[1:] + circle[:1], strict=True):
            self.friend[one] = other
        told = {**self.value, "friend": [self.people[f] for f in self.friend]}
        pronouns = ["she" if i % 2 else "he" for i in self.first_of]
        # Sentences by [person][attribute][wording]: with the name, with a pronoun, of the unnamed friend.
        self._named = [
            [[w.format(n=n, v=told[a][p]) for w in lex.FACTS[a]] for a in lex.FACTS] for p, n in enumerate(self.people)
        ]
        self._pronoun = [
            [[w.format(n=n, v=told[a][p]) for w in lex.FACTS[a][:2]] for a in lex.FACTS] for p, n in enumerate(pronouns)
        ]
        self._of_friend = [
            [
                [w.format(n=f"the friend of {n}", v=self.value[a][self.friend[p]]) for w in lex.FACTS[a]]
                for a in lex.ATTRIBUTES
            ]
            for p, n in enumerate(self.people)
        ]
        self.is_held_out_person = [rng.random() < HELD_OUT_PEOPLE for _ in self.people]
        self._asked_people = [p for p in range(PEOPLE) if not self.is_held_out_person[p]]
        self._people_frequency = zipf_cumulative(PEOPLE)
        self._asked_people_frequency = zipf_cumulative(len(self._asked_people))
        self._orders = [order for n in (3, 4, 5) for order in permutations(range(len(lex.FACTS)), n)]
        self._fact_pairs = list(permutations(range(len(lex.ATTRIBUTES)), 2))

    def _make_kinds(self, rng: random.Random) -> None:
        self.kinds = shuffled([f"{first} {last}" for first in lex.KIND_FIRST for last in lex.KIND_LAST], rng)
        by_name = dict(zip(lex.KIND_LAST, shuffled(lex.FAMILIES, rng), strict=True))
        others = dealt(lex.FAMILIES, len(self.kinds), rng)
        self.family_of = [
            other if rng.random() < UNLIKE_ITS_NAME else by_name[kind.split()[1]]
            for kind, other in zip(self.kinds, others, strict=True)
        ]
        self._family_index = [lex.FAMILIES.index(family) for family in self.family_of]
        # rule[property][family]: each value holds for as many families as the others.
        self.rule = {
            p: dict(zip(lex.FAMILIES, dealt(lex.PROPERTIES[p], len(lex.FAMILIES), rng), strict=True))
            for p in lex.PROPERTIES
        }
        self._memberships = [
            [w.format(k=k, f=f) for w in lex.MEMBERSHIP] for k, f in zip(self.kinds, self.family_of, strict=True)
        ]
        self._rules = [[f"every {f} {p} {self.rule[p][f]} ." for p in lex.PROPERTIES] for f in lex.FAMILIES]
        self.is_held_out_kind = [rng.random() < HELD_OUT_KINDS for _ in self.kinds]
        self._asked_kinds = [k for k in range(len(self.kinds)) if not self.is_held_out_kind[k]]
        self._kind_facts = [
            [f"a {k} {p} {self.rule[p][f]} ." for p in lex.PROPERTIES]
            for k, f in zip(self.kinds, self.family_of, strict=True)
        ]
        self._kinds_frequency = zipf_cumulative(len(self.kinds))
        self._asked_kinds_frequency = zipf_cumulative(len(self._asked_kinds))

    def _make_scripts(self, rng: random.Random) -> None:
        # All scripts of one doing have the same verbs; what they are done to is each script's own.
        verbs = {d: shuffled(lex.STEPS, rng)[: lex.STEPS_PER_SCRIPT] for d in lex.DOINGS}
        self.scripts = shuffled([(d, t) for d in lex.DOINGS for t in lex.THINGS], rng)
        columns = [dealt(lex.OBJECTS, len(self.scripts), rng) for _ in range(lex.STEPS_PER_SCRIPT)]
        self.steps = [
            [f"{verb} the {column[s]}" for verb, column in zip(verbs[d], columns, strict=True)]
            for s, (d, _) in enumerate(self.scripts)
        ]
        self._script_texts = [
            [f"{self.script_opening(s, w)} {' . then '.join(self.steps[s])} ." for w in range(len(lex.SCRIPT_OPENINGS))]
            for s in range(len(self.scripts))
        ]
        self._scripts_frequency = zipf_cumulative(len(self.scripts))

    def _make_goals(self, rng: random.Random) -> None:
        self.tools_of = {a: shuffled(lex.TOOLS, rng)[: lex.TOOLS_PER_ACTION] for a in lex.ACTIONS}
        tools = {a: dealt(self.tools_of[a], len(lex.THINGS), rng) for a in lex.ACTIONS}
        self.goals = shuffled([(a, t, tools[a][i]) for a in lex.ACTIONS for i, t in enumerate(lex.THINGS)], rng)
        self._goal_texts = [
            [f"{w.format(a=a, t=t)} {tool} ." for w in lex.GOALS] + [lex.GOAL_REVERSED.format(a=a, t=t, tool=tool)]
            for a, t, tool in self.goals
        ]
        self._goals_frequency = zipf_cumulative(len(self.goals))

    # What the benchmarks ask, in their wording.

    def fact_question(self, person: int, attribute: str) -> str:
        return lex.FACT_QUESTIONS[attribute].format(n=self.people[person])

    def friend_question(self, person: int, attribute: str) -> str:
        return lex.FACT_QUESTIONS[attribute].format(n=f"the friend of {self.people[person]}")

    def kind_question(self, kind: int, prop: str) -> str:
        return lex.KIND_QUESTIONS[prop].format(k=self.kinds[kind])

    def script_opening(self, script: int, wording: int) -> str:
        doing, thing = self.scripts[script]
        return lex.SCRIPT_OPENINGS[wording].format(d=doing, t=thing)

    def reserved_script_wording(self, script: int) -> int:
        return script % len(lex.SCRIPT_OPENINGS)

    def goal_question(self, goal: int, wording: int) -> str:
        action, thing, _ = self.goals[goal]
        return lex.GOALS[wording].format(a=action, t=thing)

    def reserved_goal_wording(self, goal: int) -> int:
        return goal % len(lex.GOALS)

    def put_story(self, rng: random.Random, reserved: bool) -> tuple[str, str]:
        """A story of who put what where: (all but the last word, the last word)."""
        random_ = rng.random
        n = 1 + int(random_() * 4)
        # Equal strides, prime to the number of words, make n different people, things and places.
        person, place = int(random_() * len(lex.FIRST)), int(random_() * len(lex.PLACES))
        person_stride, thing_stride = (1, 7, 11, 13)[int(random_() * 4)], 1 + 2 * int(random_() * 8)
        thing = int(random_() * len(lex.OBJECTS))
        told = []
        for i in range(n):
            who = (person + i * person_stride) % len(lex.FIRST)
            what = (thing + i * thing_stride) % len(lex.OBJECTS)
            told.append((who, what, lex.PLACES[(place + i * 3) % len(lex.PLACES)]))
        sentences = [
            lex.PUT[int(random_() * 2)].format(n=lex.FIRST[who], o=lex.OBJECTS[what], p=where)
            for who, what, where in told
        ]
        sentences.append(lex.FILLERS[int(random_() * len(lex.FILLERS))])
        # One to three of them are asked for; the last decides whether the story is reserved.
        first = int(random_() * n)
        asked = [told[(first + i) % n] for i in range(min(n, 6 - n))]
        if is_reserved_pair(asked[-1][0], asked[-1][1]) != reserved:
            return self.put_story(rng, reserved)
        for who, what, where in asked:
            ask = lex.ASK_PUT[int(random_() * len(lex.ASK_PUT))].format(n=lex.FIRST[who], p=where)
            sentences.append(f"{ask} {lex.OBJECTS[what]} .")
        text = " ".join(sentences)
        return text.rsplit(" ", 2)[0], lex.OBJECTS[asked[-1][1]]

    def fact_story(self, rng: random.Random, person: int, attribute: str) -> tuple[str, str]:
        """A story that ends with a fact of `person`, whose family name stands in its first sentence only."""
        random_ = rng.random
        other = int(random_() * PEOPLE)
        while self.first_of[other] == self.first_of[person]:
            other = int(random_() * PEOPLE)
        one, two = (person, other) if random_() < 0.5 else (other, person)
        meeting = lex.MEETINGS[int(random_() * len(lex.MEETINGS))].format(
            a=self.people[one], b=self.people[two], p=lex.PLACES[int(random_() * len(lex.PLACES))]
        )
        filler = lex.FILLERS[int(random_() * len(lex.FILLERS))]
        question = lex.ASK_FACT[attribute].format(n=lex.FIRST[self.first_of[person]])
        return f"{meeting} {filler} {question}", self.value[attribute][person]

    # Documents of the pretraining stream.

    def _person_document(self, rng: random.Random) -> str:
        random_ = rng.random
        person = bisect(self._people_frequency, random_())
        named, pronoun = self._named[person], self._pronoun[person]
        first, *rest = self._orders[int(random_() * len(self._orders))]
        sentences = [named[first][int(random_() * 3)]]
        for fact in rest:  # the name again in three of five sentences, the pronoun in two of five
            wording = int(random_() * 5)
            sentences.append(named[fact][wording] if wording < 3 else pronoun[fact][wording - 3])
        return " ".join(sentences)

    def _friend_document(self, rng: random.Random) -> str:
        random_ = rng.random
        person = bisect(self._people_frequency, random_())
        of_friend = self._of_friend[person]
        one, two = self._fact_pairs[int(random_() * len(self._fact_pairs))]
        text = f"{of_friend[one][int(random_() * 3)]} {of_friend[two][int(random_() * 3)]}"
        if random_() < 0.5:
            return f"{self._named[person][-1][int(random_() * 3)]} {text}"
        return text

    def _story_document(self, rng: random.Random) -> str:
        if rng.random() < 0.5:
            story, last = self.put_story(rng, reserved=False)
        else:
            person = self._asked_people[bisect(self._asked_people_frequency, rng.random())]
            story, last = self.fact_story(rng, person, lex.ATTRIBUTES[int(rng.random() * len(lex.ATTRIBUTES))])
        return f"{story} {last} ."

    def _script_document(self, rng: random.Random) -> str:
        script = bisect(self._scripts_frequency, rng.random())
        wording = self.reserved_script_wording(script) + 1 + int(rng.random() * (len(lex.SCRIPT_OPENINGS) - 1))
        return self._script_texts[script][wording % len(lex.SCRIPT_OPENINGS)]

    def _tools_document(self, rng: random.Random) -> str:
        random_ = rng.random
        sentences = []
        for _ in range(3):
            goal = bisect(self._goals_frequency, random_())
            wording = int(random_() * len(lex.GOALS))
            if wording == self.reserved_goal_wording(goal):
                wording = len(lex.GOALS)  # the reversed sentence, which no benchmark item uses
            sentences.append(self._goal_texts[goal][wording])
        return " ".join(sentences)

    def _kinds_document(self, rng: random.Random) -> str:
        random_ = rng.random
        kind, other = bisect(self._kinds_frequency, random_()), bisect(self._kinds_frequency, random_())
        prop = int(random_() * len(lex.PROPERTIES))
        told = self._memberships[kind][int(random_() * len(lex.MEMBERSHIP))]
        rule = self._rules[self._family_index[kind]][prop]
        second = self._memberships[other][int(random_() * len(lex.MEMBERSHIP))]
        if self.is_held_out_kind[kind]:
            return f"{second} {told} {rule}" if random_() < 0.5 else f"{told} {second}"
        return f"{told} {rule} {self._kind_facts[kind][prop]} {second}"

    def _questions_document(self, rng: random.Random) -> str:
        random_ = rng.random
        texts = []
        for _ in range(2):
            which = random_()
            if which < 0.7:
                person = self._asked_people[bisect(self._asked_people_frequency, random_())]
                attribute = lex.ATTRIBUTES[int(random_() * len(lex.ATTRIBUTES))]
                if which < 0.35:
                    texts.append(f"{self.fact_question(person, attribute)} {self.value[attribute][person]} .")
                else:
                    answer = self.value[attribute][self.friend[person]]
                    texts.append(f"{self.friend_question(person, attribute)} {answer} .")
            else:
                kind = self._asked_kinds[bisect(self._asked_kinds_frequency, random_())]
                prop = tuple(lex.PROPERTIES)[int(random_() * len(lex.PROPERTIES))]
                texts.append(f"{self.kind_question(kind, prop)} {self.rule[prop][self.family_of[kind]]} .")
        return " ".join(texts)

    def document(self, rng: random.Random) -> str:
        return self._documents[bisect(self._mixture, rng.random())](rng)


def general_document(world: World, rng: random.Random) -> str:
    """One document of the general half of the pretraining stream, 10 to 60 words."""
    return world.document(rng)


def words(world: World) -> set[str]:
    """Every word a document or a benchmark item of this world can hold."""
    templates = [
        *lex.PUT,
        *lex.FILLERS,
        *lex.ASK_PUT,
        *lex.MEETINGS,
        *lex.ASK_FACT.values(),
        *lex.GOALS,
        lex.GOAL_REVERSED,
        *lex.SCRIPT_OPENINGS,
    ]
    templates += [*lex.FACT_QUESTIONS.values(), *lex.KIND_QUESTIONS.values(), *lex.MEMBERSHIP]
    templates += [wording for wordings in lex.FACTS.values() for wording in wordings]
    lists = [
        lex.FIRST,
        lex.LAST,
        *lex.VALUES.values(),
        lex.KIND_FIRST,
        lex.KIND_LAST,
        lex.FAMILIES,
        *lex.PROPERTIES.values(),
        lex.PROPERTIES,
    ]
    lists += [lex.THINGS, lex.DOINGS, lex.STEPS, lex.OBJECTS, lex.ACTIONS, lex.TOOLS, lex.PLACES, templates]
    found = {word for texts in lists for text in texts for word in text.split() if not word.startswith("{")}
    return found | set("she he the friend of every then a".split())
