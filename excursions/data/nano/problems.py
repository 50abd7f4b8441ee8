"""Word problems about two people, and the check of a solution step by step against the question's text.

    tom has 12 pens . ann has 7 pens . tom buys 3 . ann gives 2 to tom . how many has each now ?
    tom 12 + 3 = 15 . ann 7 - 2 = 5 . tom 15 + 2 = 17 . #### 17 , 5

The answer is a pair, so that it cannot be guessed. Difficulty is a mixture of cells (`e2n20`: two events, numbers to
20); within a cell kinds of events and their verbs have Zipf-like frequencies: the frequent ones are learned early in
pretraining, the rare ones late. All there is to know of a problem is its text: `read_story` reads it back, and both the
writer of solutions and their check start from there.
"""

from __future__ import annotations

import random
import re
from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

NAMES = "tom ann sam mia ben eva max zoe leo ivy dan lea".split()
THINGS = "pens cards coins cups books beads".split()
GAINS = "buys finds wins makes picks earns draws bakes".split()
LOSSES = "loses sells eats breaks drops burns hides tears".split()
GIVES = "gives hands sends lends".split()
TAKES = "takes borrows steals gets".split()
ASKS = ("how many has each now ?", "how many {thing} has each now ?")
KINDS = ("gain", "loss", "give", "take", "double", "halve", "match", "copy", "swap")
KIND_SHARES = (0.36, 0.26, 0.13, 0.07, 0.06, 0.05, 0.03, 0.02, 0.02)
LARGEST_VALUE = 99
SIZES = {9: 5, 20: 9, 50: 20, 90: 50}  # the largest number at the start, and in a gain or loss
EVENTS = range(6)
CELLS = tuple(f"e{events}n{size}" for events in EVENTS for size in SIZES)
ANSWER = re.compile(r"#### (\d+) , (\d+)(?![\s.,;]{0,9}(?:or )?\d)")  # all of it: in a list of three there is none


@dataclass(frozen=True)
class Change:
    """What an event does to one person: `before symbol operand = after`; symbol "=" sets the value itself."""

    person: int
    before: int
    symbol: str
    operand: int
    after: int
    of_other: bool = False  # whether the operand is what the other person has before the event


@dataclass(frozen=True)
class Story:
    """What a question tells: two names, what they have at the start, and the changes of each event, in order."""

    names: tuple[str, str]
    start: tuple[int, int]
    events: tuple[tuple[Change, ...], ...]
    end: tuple[int, int]

    @property
    def answer(self) -> str:
        return f"{self.end[0]} , {self.end[1]}"


def _zipf(words: Sequence) -> list[float]:
    shares = list(accumulate(1 / (rank + 1) for rank in range(len(words))))
    return [share / shares[-1] for share in shares[:-1]]


VERBS = {"gain": GAINS, "loss": LOSSES, "give": GIVES, "take": TAKES}
_FREQUENCY = {id(words): _zipf(words) for words in (*VERBS.values(), THINGS)}
_KIND_FREQUENCY = [*accumulate(KIND_SHARES)][:-1]
_KIND_OF = {verb: kind for kind, verbs in VERBS.items() for verb in verbs}


def make_problem(rng: random.Random, cell: str) -> str:
    """Draws a question of a cell. Only `rng.random()` is used: the same draw on every Python version."""
    events, size = map(int, cell[1:].split("n"))
    draw = rng.random
    first = int(draw() * len(NAMES))
    names = (NAMES[first], NAMES[(first + 1 + int(draw() * (len(NAMES) - 1))) % len(NAMES)])
    thing = _often(THINGS, draw)
    value = [1 + int(draw() * size), 1 + int(draw() * size)]
    sentences = [f"{name} has {count} {thing} ." for name, count in zip(names, value, strict=True)]
    while len(sentences) < 2 + events:
        sentence = _draw_event(draw, names, SIZES[size])
        after = list(value)
        for change in _changes(sentence.split(), names, value):
            after[change.person] = change.after
        if after != value and all(0 < count <= LARGEST_VALUE for count in after):
            value = after
            sentences.append(sentence)
    return f"{' '.join(sentences)} {ASKS[int(draw() * len(ASKS))].format(thing=thing)}"


def _often(words: Sequence[str], draw) -> str:
    return words[bisect(_FREQUENCY[id(words)], draw())]


def _draw_event(draw, names: tuple[str, str], largest: int) -> str:
    who = int(draw() * 2)
    name, other = names[who], names[1 - who]
    kind = KINDS[bisect(_KIND_FREQUENCY, draw())]
    if kind in VERBS:
        end = {"gain": ".", "loss": ".", "give": f"to {other} .", "take": f"from {other} ."}[kind]
        return f"{name} {_often(VERBS[kind], draw)} {1 + int(draw() * largest)} {end}"
    return {
        "double": f"{name} doubles them .",
        "halve": f"{name} halves them .",
        "match": f"{name} adds as many as {other} has .",
        "copy": f"{name} now has as many as {other} .",
        "swap": f"{name} and {other} swap .",
    }[kind]


def read_story(text: str) -> Story:
    """What the text of a question tells. Raises ValueError naming a sentence that is none of the language's."""
    told = [sentence.split() for sentence in text.split(" . ")[:-1]]
    if len(told) < 2 or any(len(words) != 4 or words[1] != "has" for words in told[:2]):
        raise ValueError(f"the story does not begin with what two people have: {text}")
    names = (told[0][0], told[1][0])
    start = value = (int(told[0][2]), int(told[1][2]))
    events = []
    for words in told[2:]:
        changes = _changes(words, names, value)
        for change in changes:
            value = (change.after, value[1]) if change.person == 0 else (value[0], change.after)
        events.append(changes)
    return Story(names, start, tuple(events), value)


def _changes(words: list[str], names: tuple[str, str], value: Sequence[int]) -> tuple[Change, ...]:
    """The changes of one event's sentence (its words), from what each has before it."""
    who = 0 if words[0] == names[0] else 1
    verb, other = words[1], 1 - who
    mine, others = value[who], value[other]
    kind = _KIND_OF.get(verb)
    if kind:
        k = int(words[2])
        if kind == "gain":
            return (Change(who, mine, "+", k, mine + k),)
        if kind == "loss":
            return (Change(who, mine, "-", k, mine - k),)
        giver, taker = (who, other) if kind == "give" else (other, who)
        return (
            Change(giver, value[giver], "-", k, value[giver] - k),
            Change(taker, value[taker], "+", k, value[taker] + k),
        )
    if verb == "doubles":
        return (Change(who, mine, "*", 2, mine * 2),)
    if verb == "halves":
        return (Change(who, mine, "/", 2, mine // 2 if mine % 2 == 0 else 0),)
    if verb == "adds":
        return (Change(who, mine, "+", others, mine + others, of_other=True),)
    if verb == "now":
        return (Change(who, mine, "=", others, others, of_other=True),)
    if verb == "and":
        return (
            Change(who, mine, "=", others, others, of_other=True),
            Change(other, others, "=", mine, mine, of_other=True),
        )
    raise ValueError(f"not an event of the language: {' '.join(words)}")


# --- solutions ---

STYLES = ("{name} {rest} .", "{name} : {rest} .", "{name} has {rest} .")
# Shares (cumulative) of what is drawn for each solution: its style, its opening, and how it closes.
STYLE_SHARES = (0.6, 0.8)
OPENINGS, OPENING_SHARES = ("none", "told", "turned"), (0.35, 0.9)
CLOSINGS, CLOSING_SHARES = ("none", "told", "turned"), (0.7, 0.95)
TURNED = 0.1  # of the sums: "3 + 12 = 15"; and of the gifts: the taker first


def write_steps(story: Story, rng: random.Random) -> str:
    """The steps of one correct solution, without the marked answer: one wording of the story, event by event."""
    draw = rng.random
    style = STYLES[bisect(STYLE_SHARES, draw())]
    opening = OPENINGS[bisect(OPENING_SHARES, draw())]
    closing = CLOSINGS[bisect(CLOSING_SHARES, draw())]

    def say(person: int, rest: int | str) -> str:
        return style.format(name=story.names[person], rest=rest)

    def say_both(values: tuple[int, int], order: str) -> list[str]:
        return [say(p, values[p]) for p in ((0, 1) if order == "told" else (1, 0))]

    steps = []
    if opening != "none" or not story.events:
        steps += say_both(story.start, opening if opening != "none" else "told")
    for changes in story.events:
        turned = len(changes) == 2 and draw() < TURNED
        for change in changes[::-1] if turned else changes:
            a, b = change.before, change.operand
            if change.symbol == "=":
                steps.append(say(change.person, change.after))
            else:
                a, b = (b, a) if change.symbol == "+" and draw() < TURNED else (a, b)
                steps.append(say(change.person, f"{a} {change.symbol} {b} = {change.after}"))
    if closing != "none":
        steps += [f"so {step}" if i == 0 else step for i, step in enumerate(say_both(story.end, closing))]
    return " ".join(steps)


def write_solution(story: Story, rng: random.Random) -> str:
    """The steps and the answer in the form that the reward reads (GSM8K's)."""
    return f"{write_steps(story, rng)} #### {story.answer}"


def gold_solutions(text: str, rng: random.Random, count: int, longest: int) -> tuple[str, ...]:
    """Up to `count` distinct checked solutions of at most `longest` tokens, drawn as the stream draws them.

    A story without events has 18 in all; one whose shortest solutions are too long has none.
    """
    story, found = read_story(text), {}  # type: Story, dict[str, None]
    for _ in range(14 * count):
        solution = write_solution(story, rng)
        if solution in found or count_tokens(solution) > longest:
            continue
        if not check_solution(text, solution):
            raise ValueError(f"the check rejects a gold solution of '{text}': {solution}")
        found[solution] = None
        if len(found) == count:
            return tuple(found)
    return () if story.events else tuple(found)


STEP = re.compile(r"(?:so )?(\w+) (?:: |has )?(?:(\d+) ([-+*/]) (\d+) = )?(\d+)")


def checked_steps(text: str, completion: str) -> list[tuple[str, bool]]:
    """Each step of a completion, and whether it holds: [(step, ok)]; the last one is the marked answer.

    A step is right if it is true, follows from the story's next change of that person (or says what the person has at
    that point), and takes its numbers from what the question told or the steps before derived. The answer is right if
    it is marked, and nothing of what it needs was left out. What stands behind the answer is not looked at.
    """
    story = _story(text)
    marked = ANSWER.search(completion)
    written = completion[: marked.start()] if marked else completion
    to_come = [[(i, c) for i, changes in enumerate(story.events) for c in changes if c.person == p] for p in (0, 1)]
    value, told, checked = list(story.start), [False, False], []
    for step in re.split(r" ?\.(?: |$)", written.strip()):
        if step := step.strip():
            checked.append((step, _follows(step, story.names, value, told, to_come)))
    complete = all(told if not story.events else [not left for left in to_come])
    if marked:
        answer = (int(marked[1]), int(marked[2])) == story.end
        checked.append((marked[0], answer and complete and all(ok for _, ok in checked)))
    return checked


def check_solution(text: str, completion: str) -> bool:
    """Whether a completion derives the question's answer step by step and marks it as its answer."""
    checked = checked_steps(text, completion)
    return bool(checked) and checked[-1][1] and checked[-1][0].startswith("####")


_story = lru_cache(maxsize=4096)(read_story)


def _follows(step: str, names: tuple[str, str], value: list[int], told: list[bool], to_come: list[list]) -> bool:
    """Whether a step holds; then what its person has (`value`) and what is left to derive (`to_come`) move on."""
    match = STEP.fullmatch(step)
    if match is None or match[1] not in names:
        return False
    person, result = names.index(match[1]), int(match[5])
    told[person] = True
    event, change = next(iter(to_come[person]), (0, None))
    if change is not None and change.of_other and any(earlier < event for earlier, _ in to_come[1 - person]):
        change = None  # of the other person it is not derived yet
    symbol = match[3] or "="
    if change is None or change.symbol != symbol or change.after != result:
        return symbol == "=" and result == value[person]
    operands = (int(match[2]), int(match[4])) if match[3] else None
    if operands not in (None, (change.before, change.operand)) and not (
        symbol == "+" and operands == (change.operand, change.before)
    ):
        return False
    to_come[person].pop(0)
    value[person] = result
    return True


def count_tokens(text: str) -> int:
    """Length in tokens of the nano tokenizer: a word or mark is one, a number is one per digit."""
    return sum(len(word) if word.isdigit() else 1 for word in text.split())


def words() -> set[str]:
    """The closed vocabulary of the problems and their solutions."""
    lists = [NAMES, THINGS, *VERBS.values(), ASKS, STYLES]
    found = {word for texts in lists for text in texts for word in text.split() if "{" not in word}
    return found | set("has to from doubles halves them adds as many now and swap so = + - * / , . : ####".split())
