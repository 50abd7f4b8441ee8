"""Arithmetic word problems with a difficulty axis, each with many verified gold solutions.

A problem is a story about one quantity: a start, then steps that add, take away, multiply or share, perhaps a
comparison with a second person at the end, and perhaps sentences that do not matter. Difficulty grows with the
number of operations and with the size of the numbers. A solution is a derivation (the equations and their order)
written in one of several wordings; `verify` checks each equation of it.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import dataclass
from itertools import groupby

PEOPLE = (
    ("tom", "he"), ("sam", "he"), ("ben", "he"), ("max", "he"), ("leo", "he"), ("dan", "he"),
    ("ann", "she"), ("mia", "she"), ("eva", "she"), ("zoe", "she"), ("ivy", "she"), ("lea", "she"),
)  # fmt: skip
THINGS = (
    "apples",
    "pens",
    "coins",
    "cards",
    "books",
    "stones",
    "shells",
    "nuts",
    "cups",
    "stamps",
    "beads",
    "toys",
)
GAIN = (
    "{he} buys {k} more .",
    "{he} finds {k} more .",
    "{other} gives {k} to {name} .",
    "{he} makes {k} new ones .",
)
LOSS = ("{he} loses {k} of them .", "{he} gives {k} to {other} .", "{he} sells {k} .", "{k} of them break .")
GROW = ("then {he} has {k} times as many .", "after a week there are {k} times as many .")
SHARE = (
    "{he} splits them into {k} equal parts and keeps one .",
    "{he} shares them evenly among {k} boxes and takes one box .",
)
EXTRA = (
    "{other} has {k} {thing2} .",
    "{he} also sees {k} {thing2} .",
    "the shop is {k} steps away .",
    "{name} is {k} years old .",
)
ASK = ("how many {thing} does {name} have now ?", "how many {thing} are left for {name} ?")
ASK_ALL = "how many {thing} do they have in all ?"
MORE = "{other} has {k} more {thing} than {name} ."
TIMES = "{other} has {k} times as many {thing} as {name} ."

ENDINGS = (
    "so {name} ends with {answer} .",
    "that makes {answer} {thing} .",
    "it comes to {answer} .",
    "{answer} {thing} it is .",
)
ANSWER_FORMAT = "#### {answer}"  # what the reward reads; GSM8K's form


@dataclass(frozen=True)
class Difficulty:
    """Operations per problem, the largest number told, the share of problems with a sentence that does not matter."""

    operations: tuple[int, int]
    largest: int
    factors: tuple[int, ...]
    extra: float
    limit: int  # of every intermediate value


EASY = Difficulty(operations=(1, 5), largest=30, factors=(2, 3, 4), extra=0.25, limit=150)
HARD = Difficulty(operations=(3, 5), largest=60, factors=(2, 3, 4, 5), extra=0.4, limit=400)


@dataclass(frozen=True)
class Problem:
    """A story, its operations in order (symbol, number), and the comparison at its end (symbol, number) if any."""

    text: str
    start: int
    steps: tuple[tuple[str, int], ...]
    compare: tuple[str, int] | None
    name: str
    he: str
    other: str
    thing: str
    answer: int


def make_problem(rng: random.Random, difficulty: Difficulty) -> Problem:
    """Draws a problem. Only `rng.random()` is used, so that the draw is the same on every Python version."""
    draw = rng.random
    low, high = difficulty.operations
    operations = low + int(draw() * (high - low + 1))
    name, he = PEOPLE[int(draw() * len(PEOPLE))]
    other = PEOPLE[int(draw() * len(PEOPLE))][0]
    while other == name:
        other = PEOPLE[int(draw() * len(PEOPLE))][0]
    thing, thing2 = THINGS[int(draw() * len(THINGS))], THINGS[int(draw() * len(THINGS))]
    words = {"name": name, "he": he, "other": other, "thing": thing, "thing2": thing2}
    compare_kind = "" if operations < 2 or draw() > 0.25 else ("+" if draw() < 0.6 else "*")
    chain = operations - 2 if compare_kind else operations

    value = start = 2 + int(draw() * (difficulty.largest - 1))
    sentences, steps = [f"{name} has {start} {thing} ."], []
    while len(steps) < chain:
        pick = draw()
        if pick < 0.38:
            symbol, k, told = "+", 2 + int(draw() * (difficulty.largest - 1)), GAIN
        elif pick < 0.74:
            symbol, k, told = "-", 1 + int(draw() * min(difficulty.largest, max(value - 1, 1))), LOSS
        else:
            symbol = "*" if pick < 0.87 else "/"
            k, told = (
                difficulty.factors[int(draw() * len(difficulty.factors))],
                GROW if symbol == "*" else SHARE,
            )
        after = _apply(value, symbol, k)
        if after is None or not 0 < after <= difficulty.limit or (symbol == "/" and chain == 1):
            continue
        value = after
        steps.append((symbol, k))
        sentences.append(told[int(draw() * len(told))].format(k=k, **words))

    compare = None
    if compare_kind:
        k = 2 + int(draw() * (difficulty.largest - 1)) if compare_kind == "+" else difficulty.factors[int(draw() * 2)]
        compare = (compare_kind, k)
        sentences.append((MORE if compare_kind == "+" else TIMES).format(k=k, **words))
        value += _apply(value, compare_kind, k)
    if draw() < difficulty.extra:
        extra = EXTRA[int(draw() * len(EXTRA))].format(k=2 + int(draw() * (difficulty.largest - 1)), **words)
        sentences.insert(1 + int(draw() * len(sentences)), extra)
    ask = ASK_ALL if compare else ASK[int(draw() * len(ASK))]
    text = " ".join([*sentences, ask.format(**words)])
    return Problem(text, start, tuple(steps), compare, name, he, other, thing, value)


def write_solution(problem: Problem, rng: random.Random, ending: str = ANSWER_FORMAT, plain: float = 0.0) -> str:
    """One correct solution. `plain` is the probability of the derivation that follows the story step by step."""
    equations = _derive(problem, rng, simple=rng.random() < plain)
    wording = WORDINGS[int(rng.random() * len(WORDINGS))]
    written = wording(problem, equations)
    ending = ending.format(answer=problem.answer, name=problem.name, thing=problem.thing)
    return f"{written} {ending}"


def gold_solutions(problem: Problem, rng: random.Random, count: int, longest: int) -> tuple[str, ...] | None:
    """`count` distinct verified solutions of at most `longest` tokens (words and digits), at most three wordings of
    one derivation among them; None if the problem does not have so many."""
    found: dict[str, None] = {}
    wordings_of: Counter[tuple[str, ...]] = Counter()
    for _ in range(12 * count):
        solution = write_solution(problem, rng)
        derivation = tuple(EQUATION.findall(solution))
        if solution not in found and count_tokens(solution) <= longest and wordings_of[derivation] < 3:
            verify(problem, solution)
            found[solution] = None
            wordings_of[derivation] += 1
        if len(found) == count:
            return tuple(found)
    return None


EQUATION = re.compile(r"(?:\d+ [-+*/] \d+ = \d+|\d+ = \d+ [+*] \d+)")


def verify(problem: Problem, solution: str) -> None:
    """Checks a solution step by step: every equation is true, every operand was told or derived before, and the
    last equation and the final answer are the problem's. Raises ValueError naming the equation that is wrong."""
    known = {int(n) for n in re.findall(r"\d+", problem.text)}
    result = None
    for equation in EQUATION.findall(solution):
        left, right = equation.split(" = ")
        parts, whole = (left, right) if " " in left else (right, left)
        a, symbol, b = parts.split()
        if _apply(int(a), symbol, int(b)) != int(whole):
            raise ValueError(f"false equation '{equation}' in: {solution}")
        needs = {int(a), int(b)} if parts is left else {int(whole)}
        if not needs <= known:
            raise ValueError(f"'{equation}' uses {needs - known}, which was neither told nor derived: {solution}")
        known |= {int(a), int(b), int(whole)}
        result = int(whole) if parts is left else None
    if result != problem.answer or not solution.endswith(str(problem.answer)):
        raise ValueError(f"the last equation or the final answer is not {problem.answer}: {solution}")


def count_tokens(text: str) -> int:
    """Length in tokens of the nano tokenizer: a word or mark is one, a number is one per digit."""
    return sum(len(word) if word.isdigit() else 1 for word in text.split())


def _apply(a: int, symbol: str, b: int) -> int | None:
    if symbol == "/":
        return a // b if b and a % b == 0 else None
    return a + b if symbol == "+" else a - b if symbol == "-" else a * b


# --- derivations: lists of (role, a, symbol, b, result); role "split" is written "result = a symbol b" ---

Equation = tuple[str, int, str, int, int]
ROLES = {"+": "gain", "-": "loss", "*": "grow", "/": "share"}


def _derive(problem: Problem, rng: random.Random, simple: bool) -> list[Equation]:
    value, equations = problem.start, []
    for additive, run in groupby(problem.steps, key=lambda step: step[0] in "+-"):
        run = list(run)
        if additive and len(run) > 1 and not simple:
            run = _reorder(run, value, rng, equations)
        for symbol, k in run:
            value = _one_step(ROLES[symbol], value, symbol, k, rng, simple, equations)
    if problem.compare:
        symbol, k = problem.compare
        second = _one_step("more", value, symbol, k, rng, simple, equations)
        value = _one_step("total", value, "+", second, rng, True, equations)
    return equations


def _reorder(
    run: list[tuple[str, int]], value: int, rng: random.Random, equations: list[Equation]
) -> list[tuple[str, int]]:
    """The same gains and losses as told, gains first, or summed up beforehand."""
    gains, losses = [s for s in run if s[0] == "+"], [s for s in run if s[0] == "-"]
    pick = rng.random()
    if pick < 0.4:
        return run
    if pick < 0.65:
        return gains + losses
    summed = []
    for symbol, group, role in (("+", gains, "gains"), ("-", losses, "losses")):
        if group:
            total = group[0][1]
            for _, k in group[1:]:
                equations.append((role, total, "+", k, total + k))
                total += k
            summed.append((symbol, total))
    return summed


def _one_step(
    role: str, value: int, symbol: str, k: int, rng: random.Random, simple: bool, equations: list[Equation]
) -> int:
    """Appends the equation(s) of one operation and returns the value after it."""
    pick = 0.0 if simple else rng.random()
    if symbol in "+*" and 0.5 < pick <= 0.7:
        equations.append((role, k, symbol, value, _apply(value, symbol, k)))
    elif symbol in "+-" and pick > 0.7 and k > 3 and role != "total":
        first = k - k % 10 if k > 10 and k % 10 and rng.random() < 0.6 else 1 + int(rng.random() * (k - 1))
        equations.append(("split", first, "+", k - first, k))
        middle = _apply(value, symbol, first)
        equations.append((role, value, symbol, first, middle))
        equations.append((role, middle, symbol, k - first, _apply(middle, symbol, k - first)))
    elif symbol in "*/" and k == 4 and pick > 0.7:
        equations.append(("split", 2, "*", 2, 4))
        middle = _apply(value, symbol, 2)
        equations.append((role, value, symbol, 2, middle))
        equations.append((role, middle, symbol, 2, _apply(middle, symbol, 2)))
    elif symbol == "*" and k <= 3 and pick > 0.7:
        for i in range(1, k):
            equations.append((role, value * i, "+", value, value * (i + 1)))
    else:
        equations.append((role, value, symbol, k, _apply(value, symbol, k)))
    return _apply(value, symbol, k)


# --- wordings ---


def _equation(e: Equation) -> str:
    role, a, symbol, b, result = e
    return f"{result} = {a} {symbol} {b} ." if role == "split" else f"{a} {symbol} {b} = {result} ."


def _bare(problem: Problem, equations: list[Equation]) -> str:
    return " ".join(map(_equation, equations))


def _story(problem: Problem, equations: list[Equation]) -> str:
    told = {
        "gain": f"{problem.he} gets more so",
        "loss": f"{problem.he} has less so",
        "grow": f"{problem.he} has many times more so",
        "share": f"{problem.he} keeps a part so",
        "gains": f"{problem.he} gets in all",
        "losses": f"{problem.he} loses in all",
        "more": f"{problem.other} has",
        "total": "together they have",
        "split": "note that",
    }
    return f"{problem.name} has {problem.start} . " + " ".join(f"{told[e[0]]} {_equation(e)}" for e in equations)


def _orders(problem: Problem, equations: list[Equation]) -> str:
    told = {
        "gain": "add :",
        "loss": "take away :",
        "grow": "multiply :",
        "share": "divide :",
        "gains": "sum of gains :",
        "losses": "sum of losses :",
        "more": "the other :",
        "total": "all :",
        "split": "write",
    }
    return f"start with {problem.start} . " + " ".join(f"{told[e[0]]} {_equation(e)}" for e in equations)


def _ordinal(problem: Problem, equations: list[Equation]) -> str:
    return " ".join(f"{'first' if i == 0 else 'then'} {_equation(e)}" for i, e in enumerate(equations))


def _things(problem: Problem, equations: list[Equation]) -> str:
    told = {"split": "as"}
    return " ".join(f"{told.get(e[0], problem.thing + ' :')} {_equation(e)}" for e in equations)


WORDINGS = (_bare, _story, _orders, _ordinal, _things)


def words() -> set[str]:
    """The closed vocabulary of the problems and their solutions."""
    rng, found = random.Random(0), set()
    for _ in range(4000):
        for difficulty in (EASY, HARD):
            problem = make_problem(rng, difficulty)
            found |= set(problem.text.split()) | set(write_solution(problem, rng).split())
    for ending in ENDINGS:
        found |= set(ending.split())
    return {w for w in found if not any(c.isdigit() or c in "{}" for c in w)}
