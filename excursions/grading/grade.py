"""Final answer of a completion -> correct or not: the reward of RL and the verdict of every evaluation.

`answers` finds the one answer a text commits to, `numerals` the number that it states. Two numbers, and two lists of
whole numbers, are compared here, in microseconds: that is all of GSM8K and of the nano scale, and grading sits in the
RL loop. Everything else (formulas, sets, intervals, matrices, prose) goes to math-verify, which parses LaTeX and asks
sympy, in a process that is killed when it takes too long. What cannot be graded in time is wrong.

One rule for boxed, bare and hashed answers: where the gold answer is a number, an answer that states no number must be
a formula (`10^3 = 1000`, `\\sqrt{16}`). A list of guesses, a number among words that change it, a range, a number in
another base are none. After `####` not even a sum is: what is asked for there is its value.
"""

from __future__ import annotations

import json
import re
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from excursions.grading import math_worker
from excursions.grading.answers import LONGEST_ANSWER, Marked, extract_answer, marked_answer
from excursions.grading.kinds import FONT, SPACE, based, clock, letter
from excursions.grading.numerals import LABELS, Numeral, changing_words, read_number, same_number, spelled
from excursions.grading.spelling import CALCULATED, plain_signs, unwrapped
from excursions.grading.working import SUM, value_of
from excursions.params import UserError

__all__ = ["extract_answer", "grade_batch", "grade_jsonl", "is_correct"]

TIME_LIMIT = 3.0  # seconds of processor time for one pair; most need milliseconds
LONGEST_SAYING = 60  # characters; a longer text without a marked answer is a solution, whose last number may count

# --- The verdict ---


def is_correct(prediction: str, gold: str, time_limit: float = TIME_LIMIT, marked_only: bool = False) -> bool:
    """Whether a text (a solution or a bare answer) gives the gold answer (bare, or a solution that marks it).

    `marked_only`: a text that marks no answer is wrong. RL and the evaluations want this, as the format is
    part of their task; without it the last number of any prose is rewarded. `time_limit`: see TIME_LIMIT.
    """
    marked = marked_answer(prediction)
    if marked is None and (marked_only or not prediction.strip()):
        return False
    target = _gold(gold)
    if marked is None:
        return _same_answer(Marked(prediction.strip()), target, time_limit, marked=False)
    whole = marked.whole and marked._replace(answer=marked.whole)
    return any(_same_answer(reading, target, time_limit) for reading in (marked, whole) if reading)


def grade_batch(
    predictions: list[str], golds: list[str], time_limit: float = TIME_LIMIT, marked_only: bool = False
) -> list[bool]:
    """`is_correct` of each pair, in order. Whatever the texts hold, it neither hangs nor kills the caller."""
    return [is_correct(p, g, time_limit, marked_only) for p, g in zip(predictions, golds, strict=True)]


def grade_jsonl(path: str | Path) -> list[bool]:
    """Grade {"prediction", "gold"} lines; null is "no answer", so wrong. UserError names file and line."""
    try:
        lines = Path(path).read_bytes().rstrip().split(b"\n")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; accepted: a file of JSON lines.") from None
    grades = []
    for number, line in enumerate(lines if lines != [b""] else [], start=1):
        try:
            row = json.loads(line, parse_constant=int)  # NaN is no JSON
            prediction, gold = row["prediction"], row["gold"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise UserError(
                f"{path}, line {number}: found {line[:80].decode(errors='replace')!r}; "
                'accepted: {"prediction": "...", "gold": "..."} on every line.'
            ) from None
        for key, value in (("prediction", prediction), ("gold", gold)):
            if isinstance(value, bool | list | dict):
                raise UserError(f"{path}, line {number}: {key} is {str(value)[:80]}; accepted: text, a number, null.")
        grades.append(prediction is not None and gold is not None and is_correct(str(prediction), str(gold)))
    return grades


class _Gold(NamedTuple):
    """A gold answer: its text, and what it states if that is a number, or whole numbers in a row."""

    text: str
    number: Numeral | None
    integers: tuple[int, ...] | None
    in_order: bool  # a list typed in words and signs apart, as at nano scale: "12 , 7"


@lru_cache(maxsize=5_000)
def _gold(gold: str) -> _Gold:
    """Cached, as a question is sampled many times."""
    marked = marked_answer(gold)
    text = (marked.whole or marked.answer) if marked else gold.strip()
    # "5k" and "3m" are formulas in a gold answer; predictions are given the benefit of the unit.
    number = None if _LETTER_AFTER_DIGIT.search(text) or _HALF_DAY.search(text) else read_number(text)
    integers = None if number else _integers(text)
    in_order = integers is not None and ("\\" not in text and bool((marked and marked.hashed) or _APART.search(text)))
    return _Gold(text, number, integers, in_order)


_LETTER_AFTER_DIGIT = re.compile(r"\d ?[A-Za-z]$")
_APART = re.compile(r"\d ,")
_INTEGERS = re.compile(r"-?\d{1,18}(?: ?[,;] ?-?\d{1,18}){1,30}")
_INTEGER = re.compile(r"-?\d+")


def _integers(answer: str) -> tuple[int, ...] | None:
    """The members of "12 , 7" or "(12, 7)"; None if it is no list of whole numbers, or a number such as 12,700."""
    text = unwrapped(plain_signs(answer[:LONGEST_ANSWER])).replace("- ", "-")
    return tuple(map(int, _INTEGER.findall(text))) if _INTEGERS.fullmatch(text) and not read_number(text) else None


def _same_answer(reading: Marked, gold: _Gold, time_limit: float, marked: bool = True) -> bool:
    answer = CALCULATED.sub("", reading.answer)
    if not answer or not gold.text:
        return False
    if answer == gold.text:
        return True
    if gold.number is not None:
        if _TOO_LARGE.search(answer):
            return False  # no answer, and the parser would work it out
        answer = value_of(_IN_TEN.sub("", answer), gold.number)
        number = read_number(answer)
        if number is None and gold.number.value.denominator > 1 and "(" not in answer:
            number = read_number(_DECIMAL_COMMA.sub(".", answer))
        if number is not None:
            return same_number(number, gold.number)
        if "\\" not in answer and not any(map(str.isnumeric, answer)):
            return False  # words: no reason to wake math-verify
    elif gold.integers is not None and (gold.in_order or reading.hashed):
        return _integers(answer) == gold.integers  # in order: the first of two people, then the second
    # Cut again, as one sign may become many: ½ is \frac{1}{2}.
    answer, target = (plain_signs(text[-LONGEST_ANSWER:])[-LONGEST_ANSWER:] for text in (answer, gold.text))
    if _bare(answer) == _bare(target) or (letter(target) and letter(answer) == letter(target)):
        return True
    digits, target_digits = based(answer), based(target)
    if digits or target_digits:
        return digits == target_digits
    if (hour := clock(target)) and gold.number is None:
        time = clock(answer)
        return time is not None and all(map(_agree, time, hour))
    if _other_brackets(answer, target) or answer.count("!!") != target.count("!!"):
        return False  # an interval with other ends, a set and not a pair, a double factorial: the same to math-verify
    saying = len(answer) <= LONGEST_SAYING and not _CLAUSE.search(answer)
    parts, rounded = _CHAIN.split(answer), "\\approx" in answer
    if (marked or saying) and len(parts) > 1 and _CONSTANT.fullmatch(parts[0]) and not _CHAIN.search(target):
        known = [number for number in map(read_number, parts) if number is not None]
        if not _one_value(known, parts, rounded):
            return False
        if gold.number is not None and len(known) == len(parts):
            return any(same_number(number, gold.number) for number in known)
        if not (rounded or math_worker.verify(_for_parser(parts[0]), _for_parser(target), time_limit)):
            return False
    if marked or (saying and (changing_words(answer) or not answer[0].isalpha())):
        if not (_is_formula(answer, reading.hashed) if gold.number is not None else _is_alike(answer, target)):
            return False
        if _DOTS.search(answer) or _DOTS.search(target):
            return _same_sequence(answer, target, time_limit)
    return math_worker.verify(_for_parser(answer), _for_parser(target), time_limit)


def _other_brackets(answer: str, gold: str) -> bool:
    """Whether two lists, each in one pair of brackets, stand in other brackets."""
    pairs = [found for found in map(_OUTER.fullmatch, (answer, gold)) if found and "," in found[2]]
    return len(pairs) == 2 and pairs[0].group(1, 3) != pairs[1].group(1, 3)


def _one_value(numbers: list[Numeral], parts: list[str], rounded: bool) -> bool:
    """Whether the numbers of a chain such as \\frac12 = 0.5 or 10/3 \\approx 3.33 are one, as far as their decimals go.
    rounded: the chain says so itself; then a whole number may round as well."""
    values = [number.value for number in numbers]
    typed = [part.partition(".")[2].strip() for part in parts if "." in part or (rounded and part.strip().isdigit())]
    half = Fraction(1, 2 * 10 ** min(map(len, typed))) if typed else 0
    return not values or max(values) - min(values) <= half


def _same_sequence(answer: str, gold: str, time_limit: float) -> bool:
    """Term by term, as math-verify does not see that a sequence goes on."""
    terms, gold_terms = (_DOTS.sub(r"\\ldots", text).split(",") for text in (answer, gold))
    return 1 < len(terms) == len(gold_terms) < MOST_TERMS and all(
        _bare(a.strip()) == _bare(b.strip()) or math_worker.verify(_for_parser(a), _for_parser(b), time_limit)
        for a, b in zip(terms, gold_terms, strict=True)
    )


# --- What is shown to math-verify, and how ---

MOST_TERMS = 20
_DECIMAL_COMMA = re.compile(r"(?<=\d),(?=\d{1,2}(?!\d|,)|\d{4,}+(?!,))")
_WRAPPER = re.compile(r"\\(?:text|mbox|mathrm|mathcal|textbf|mathbf) ?\{([^{}]*)\}")
_LAYOUT = re.compile(r"\\left(?![a-z])|\\right(?![a-z])|\\[!,;]|(?<!\w) | (?!\w)|\$|\.$")
_PROSE = re.compile(r"(?<![^\W\d_])[^\W\d_]{2,}+[,:]? [^\W\d_]{2}|[^\W\d_a-zA-Zα-ωΑ-Ω]{2,}")
_CLAUSE = re.compile(r"\b(?:which|because|since|so|thus|hence|therefore)\b|[.!?] \w", re.IGNORECASE)
_DOTS = re.compile(r"\\[lc]?dots[bcimo]?(?![a-z])|\.\.\.+")
_COMMAND = re.compile(r"\\(?:[A-Za-z]+|.)")
_LAST_OF_LIST = re.compile(r",? and (?=\S{1,40}$)")
_RATIO = re.compile(r"(?<=\d) (?:to|:) (?=\d)")
_MATH_WORDS = frozenset("pi sqrt sin cos tan log ln exp mod power infinity".split())
_GUESSES = re.compile(
    r";|\d ?[|:?&@#] ?[-$]?\d|\d [-$]?\d|\d[A-Za-z]+\d|[-+*/]$|[\"&@#?]|[-=]>"
    r"|\\(?:mid|vert|pm|mp|lor|vee|land|wedge|to|[Rr]ightarrow|implies)(?![a-z])"
)
_OUTER = re.compile(r"(?:\\left ?)?(\\\{|[(\[])((?:[^()\[\]\\]|\\(?![{}]|right))*)(?:\\right ?)?(\\\}|[)\]])")
_CHAIN = re.compile(r"(?<![<>!=])=(?!=)|\\approx\b ?")
_CONSTANT = re.compile(r"(?=.*\d)(?:[-+*/()^{}\d.,!% ]|\\(?:[dt]?frac|sqrt|cdot|times|pi|left|right)(?![A-Za-z]))+")
_IN_TEN = re.compile(r"(?<=\d)_ ?\{? ?10 ?\}?$")
_TOO_LARGE = re.compile(r"\d{5}\)?!|\^ ?\{? ?\(?\d{1,9} ?\^ ?\{? ?\(?\d{2}")
_LOG_BASE = re.compile(r"\\log ?_ ?(?:\w|\{ ?\w{1,9} ?\})")
_MATHEMATICS = re.compile(r"[-=+*/^()\\!]")


def _is_formula(answer: str, hashed: bool) -> bool:
    """Whether an answer that states no number may be a formula with a number's value: no guesses, no saying."""
    answer = _LOG_BASE.sub(r"\\log ", SPACE.sub(" ", FONT.sub(" ", answer.strip("$ "))))
    if answer.split(maxsplit=1)[:1] and answer.split(maxsplit=1)[0].lower() in LABELS:
        return False
    depth = 0
    for char in answer:
        depth += (char in "({[") - (char in ")}]")
        if char == "," and depth <= 0:
            return False
    if _DOTS.search(answer) or changing_words(_COMMAND.sub(" ", answer)) - _MATH_WORDS or _GUESSES.search(answer):
        return False
    return bool(_MATHEMATICS.search(answer)) and not (hashed and "=" not in answer and SUM.fullmatch(answer))


def _is_alike(answer: str, gold: str) -> bool:
    """Whether an answer and a gold answer that is no number say the same words, and neither offers a choice alone."""
    words, gold_words = (
        changing_words(_COMMAND.sub(" ", FONT.sub(" ", answer))),
        changing_words(_COMMAND.sub(" ", FONT.sub(" ", gold))),
    )
    joined = {"or", "and"} | _MATH_WORDS
    choice = "or" in words or ";" in answer or " | " in answer
    hours, gold_hours = _HALF_DAY.findall(answer), _HALF_DAY.findall(gold)
    if hours and gold_hours and hours != gold_hours:
        return False
    return words - joined == gold_words - joined and not (choice and not _JOINS.search(gold))


_HALF_DAY = re.compile(r"\b([ap])\.? ?m\b")
_JOINS = re.compile(r"[,;|]|\b(?:or|and)\b|\\(?:pm|mp|cup|lor|vee|quad|text)\b|or")


def _agree(one: str | None, other: str | None) -> bool:
    return one is None or other is None or one == other


def _bare(answer: str) -> str:
    """Without what never matters in LaTeX, so that the same answer in another layout needs no parser."""
    text = " ".join(_WRAPPER.sub(r"\1", answer).replace("dfrac", "frac").replace("tfrac", "frac").split())
    return _LAYOUT.sub("", _RATIO.sub(":", _LAST_OF_LIST.sub(", ", text)))


def _for_parser(answer: str) -> str:
    """What math-verify is shown: prose and delimited mathematics as they are, a bare formula in a box."""
    number = read_number(answer)
    if number is not None:
        return spelled(number)
    if re.search(r"\$|\\\(|\\\[|\\boxed", answer) or _PROSE.search(_WRAPPER.sub(" ", answer)):
        return answer
    return "\\boxed{" + _latex(answer) + "}"


_NAME = re.compile(r"(?<![\\A-Za-z])(pi|sqrt|sin|cos|tan|sec|csc|cot|log|ln|exp|infinity|oo)(?![A-Za-z])")
_ROOT_OF = re.compile(r"\\sqrt(\[[34]\])? (\d+(?:\.\d+)?|[A-Za-z])")
_HALF_OF = re.compile(r"(?<![\w.^])(\d+) ?/ ?(\d+) (?=\\?[A-Za-z])")  # "1/2 pi" is half of pi
_EXPONENT = re.compile(r"\^ ?(\d+\.\d+|\d{2,})")
_OPENED = re.compile(r"(\\sqrt ?\(|\^ ?\()|([()])")
_RELATIONS = {"+ -": "- ", "+-": "-", "<=": r"\le ", ">=": r"\ge ", "!=": r"\ne ", "**": "^", "*": r"\cdot "}
_TIMES_BRACKET = re.compile(r"(?<![\w\\^])(\d{1,20}) ?(?=(?:\\left ?)?\()")  # 2(1/3) is no mixed number
_IMAGINARY = re.compile(r"(?<=\d)i(?![A-Za-z])")  # math-verify sees i as a number only where it stands alone
_RELATION = re.compile(r"\+ ?-|<=|>=|!=|\*\*?")


def _latex(formula: str) -> str:
    """A formula typed as in a program (2*pi, sqrt(3)/2, x**2) in LaTeX; LaTeX stays what it is."""
    text = _RELATION.sub(lambda m: _RELATIONS[m.group()], re.sub(r"(?<!\\)%", r"\\%", _IMAGINARY.sub(" i", formula)))
    text = _TIMES_BRACKET.sub(r"\1\\cdot ", text)
    text = _NAME.sub(lambda m: "\\" + {"infinity": "infty", "oo": "infty"}.get(m[1], m[1]) + " ", text)
    text = _HALF_OF.sub(r"\\frac{\1}{\2} ", _ROOT_OF.sub(r"\\sqrt\1{\2}", text))
    text = _EXPONENT.sub(r"^{\1}", text)
    open_brackets: list[bool] = []  # whether each is written as a brace

    def bracket(match: re.Match) -> str:
        if match[2] != ")":
            open_brackets.append(match[1] is not None)
            return match[1].replace("(", "{") if match[1] else "("
        return "}" if open_brackets and open_brackets.pop() else ")"

    return _OPENED.sub(bracket, text)
