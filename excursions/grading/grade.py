"""Final answer of a completion -> correct or not: the reward of RL and the verdict of every evaluation.

`extract_answer` finds the ONE answer a text commits to. If it and the gold answer are plain numbers, they are
compared here, in microseconds: that is all of GSM8K and of the nano scale, and grading sits in the RL loop.
Everything else (formulas, sets, intervals, matrices, prose) goes to math-verify, which parses LaTeX and asks
sympy, in a process that is killed when it takes too long. What cannot be graded in time is wrong.

Which answer counts, when a text holds several:
- A solution ends where the text starts a new question ("Question:", a chat token): a base model that was
  shown worked examples runs on past its answer and invents the next one. What comes after is not graded.
- Before that, `\\boxed{}` goes before `####`, and that before "the answer is" and a line "A: ".
- The last box counts (MATH's rule; problems and steps hold other boxes), or it and the boxes it is joined to
  by "and" or a comma, as a list. The last "the answer is" counts. The first `####` counts, and the number
  right behind it (GSM8K's rule), so that no list of guesses and no sum left unevaluated earns a reward.
"""

from __future__ import annotations

import json
import re
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

from excursions.grading import math_worker
from excursions.params import UserError

TIME_LIMIT = 3.0  # seconds of processor time for one pair; most need milliseconds
LONGEST_TEXT = 4_000  # characters shown to math-verify; the longest gold answer of MATH has 158
LONGEST_NUMBER = 300  # characters

# --- Which part of the text is the answer ---

_MARK = re.compile(r"\\boxed|\\fbox|####|(?i:\banswer\b)[^\n.:=]{0,40}?(?:\bis\b|[:=])|^A:", re.MULTILINE)
_NEW_QUESTION = re.compile(
    r"<\|\w+\|>|</s>|<eos>|\bquestion\s*:"
    r"|^[^\w\n]{0,10}(?:question|problem|exercise|instruction|human|user|q)[ \t]*\d*[ \t]*[:.]",
    re.IGNORECASE | re.MULTILINE,
)
# A box with braces; one without ("\boxed 4"); a brace. A doubled backslash: a box escaped once too often.
_BOX = re.compile(r"\\{1,2}(?:boxed|fbox)\s*(?:(\{)|([^\s{}$\\]+))|\\.|[{}]", re.DOTALL)
_JOINED = re.compile(r"(?:[^\n]{0,60}(?:,|;|\band\b|\bor\b))?[^A-Za-z0-9\n]{0,10}")
_LATEX_GLUE = re.compile(r"\\(?:text|mbox|quad|qquad)\b")
_HASHES = re.compile(r"####\s*([^\n#]*)")
_STATED = re.compile(r"\banswer\b[^\n.:=$]{0,40}?(?:\bis\b|[:=])[\s:*]*", re.IGNORECASE)
_STATED_END = re.compile(r"\n|[.!?](?:\s|$)|\*\*")
_CHOICE = re.compile(r"\(?([A-J])\)?(?:[.,:;)]\s|$)")
_LETTERED = re.compile(r"^A:[ \t]*(\S.*)$", re.MULTILINE)
_DELIMITED = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$|\\\[(.+?)\\\]|\\\((.+?)\\\)", re.DOTALL)


def extract_answer(text: str) -> str | None:
    """The final answer that a text marks as such, without its mark; None if it marks none."""
    return next(iter(_readings(text)), None)


def _readings(text: str) -> list[str]:
    """No answer, the answer, or the answer and the list that it ends."""
    mark = _MARK.search(text)
    if mark is None:
        return []
    restart = _NEW_QUESTION.search(text, mark.end())
    if restart is not None:
        text = text[: restart.start()]
    if "boxed" in text or "\\fbox" in text:
        boxes = _boxes(text)
        if boxes:
            return boxes
    answer = _after_hashes(text) or _stated(text)
    return [answer] if answer else []


def _boxes(text: str) -> list[str]:
    """The content of the last balanced, non-empty box; then, if other boxes lead to it, the whole list."""
    boxes: list[tuple[int, int, str]] = []  # start, end, content
    open_braces: list[tuple[int, int]] = []  # start of its box (-1: a bare brace), start of its content
    for token in _BOX.finditer(text, max(0, text.find("box") - 4)):
        if token.group(1):
            open_braces.append((token.start(), token.end()))
        elif token.group(2):
            boxes.append((token.start(), token.end(), token.group(2).rstrip(".,;")))
        elif token.group() == "{":
            open_braces.append((-1, token.end()))
        elif token.group() == "}" and open_braces:
            start, content_start = open_braces.pop()
            if start >= 0:
                boxes.append((start, token.end(), text[content_start : token.start()].strip()))
    boxes = sorted(box for box in boxes if box[2])
    if not boxes:
        return []
    joined = [boxes[-1][2]]
    for (_, end, content), (following, _, next_content) in zip(boxes[-2::-1], boxes[:0:-1], strict=True):
        between = _LATEX_GLUE.sub("", text[end : min(following, end + 200)])
        if end > following or not _JOINED.fullmatch(between):
            break
        if content != next_content:
            joined.append(content)
    return joined if len(joined) == 1 else [joined[0], ", ".join(reversed(joined))]


def _after_hashes(text: str) -> str | None:
    """What follows the first `####` that is no Markdown heading; of "12 + 5" the first number."""
    for match in _HASHES.finditer(text):
        answer = match.group(1).strip()
        number = _LEADING_NUMBER.match(answer)
        if number is not None and "\\" not in answer:
            return number.group()
        if answer and len(answer.split()) <= 5:
            return answer
    return None


def _stated(text: str) -> str | None:
    """What the last "the answer is" or "Answer:" says, up to the sentence's end; else the last line "A: "."""
    for match in reversed(list(_STATED.finditer(text))):
        rest = text[match.end() : match.end() + LONGEST_TEXT]
        formula = _DELIMITED.match(rest)
        if formula is not None:
            return next(filter(None, formula.groups())).strip()
        choice = _CHOICE.match(rest)
        if choice is not None:
            return choice.group(1)
        answer = _STATED_END.split(rest, maxsplit=1)[0].strip()
        if answer:
            return answer
    lettered = _LETTERED.findall(text)
    return lettered[-1].strip() if lettered else None


# --- Plain numbers: 18, -3.50, $1,234.5, 14{,}916, 28\%, 120^\circ, 18 dollars, 15\mbox{ cm}^2, \frac38 ---

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d*)?|\d+(?:\.\d*)?|\.\d+)"
_LEADING_NUMBER = re.compile(rf"[-+]?\s*[$€£]?\s*[-+]?{_DIGITS}(?:\s*/\s*\d+\b)?(?:\s*%)?(?!\w|\s*[,:]\s*\d)")
_CLEAN_NUMBER = re.compile(r"-?[1-9]\d*|0")
_DROPPED = re.compile(r"^\s*\\text\s*\{[^{}]*\}\s*=|\\!\s*|\{(?=,\})|(?<=,)\}|\\left|\\right|\\?\$|\*\*|\\[()\[\]]")
_SPACES = re.compile(r"\\[,;: ]|~|\\(?:text|mbox|mathrm|textrm|textbf|mathbf)\s*(?=\{)")
_DEGREES = re.compile(r"\^\s*(?:\\circ|\{\\circ\})")
_FRACTION = re.compile(r"([-+]?)\s*(?:\\[dt]?frac\s*(?:\{(\d+)\}\s*\{(\d+)\}|(\d)\s*(\d))|(\d+)\s*/\s*(\d+))")
_UNIT = (
    # Words that take part in a number ("17 and a half", "3 million", "2 pi") are no unit.
    r"(?!(?:and|or|plus|minus|times|over|mod|base|squared|cubed|half|halves|thirds?|quarters?|fourths?|dozen"
    r"|hundred|thousand|million|billion|trillion|pi|sqrt|sin|cos|tan|log|exp|infinity|choose|factorial)\b)"
    r"(?:[a-z]{3,}|cm|mm|km|kg|mg|ml|ft|lb|oz|hr|of|in|an?|to|at|by)\b[.³²]?(?:\s*\^\s*[23])?"
)
_NUMBER = re.compile(
    rf"([-+]?)\s*[€£]?\s*([-+]?)({_DIGITS})\s*(%|percent\b|percentage\b)?"
    rf"\s*(?:°|[€£])?(?:m[²³])?\s*(?:{_UNIT}[\s/,-]*){{0,8}}",
    re.IGNORECASE,
)
_Number = tuple[str, bool]  # canonical ("18", "-12.5", "3/8"), and whether a percent sign follows


def _plain_number(answer: str) -> _Number | None:
    if len(answer) > LONGEST_NUMBER:
        return None
    return (answer, False) if _CLEAN_NUMBER.fullmatch(answer) else _decorated_number(answer)


@lru_cache(maxsize=20_000)
def _decorated_number(answer: str) -> _Number | None:
    text = _SPACES.sub(" ", _DROPPED.sub("", answer)).replace("\\%", "%").replace("−", "-")
    text = _DEGREES.sub("°", text).strip()
    fraction = _FRACTION.fullmatch(text.rstrip("."))
    if fraction is not None:
        above, below = (int(part) for part in fraction.groups()[1:] if part)
        return (str(Fraction(int(f"{fraction.group(1)}1") * above, below)), False) if below else None
    number = _NUMBER.fullmatch(text.replace("{", " ").replace("}", " ").strip().rstrip("."))
    if number is None or (number.group(1) and number.group(2)):
        return None
    whole, _, decimals = number.group(3).replace(",", "").partition(".")
    canonical = ((whole.lstrip("0") or "0") + "." + decimals.rstrip("0")).rstrip(".")
    minus = "-" if "-" in number.group(1) + number.group(2) and canonical != "0" else ""
    return minus + canonical, number.group(4) is not None


def _same_number(prediction: _Number, gold: _Number) -> bool:
    """Integers, fractions exactly; decimals to 6 places, a tiny gold to 1/1000; 28% is 28 and is 0.28."""
    if prediction[0] == gold[0]:
        return True
    exact = "." not in prediction[0] and "." not in gold[0]
    if exact and prediction[1] == gold[1]:
        return False  # two canonical texts
    value, target = Fraction(prediction[0]), Fraction(gold[0])
    values = [value] if prediction[1] == gold[1] else [value, value / 100 if prediction[1] else value * 100]
    tolerance = 0 if exact else min(Fraction(1, 10**6), abs(target) / 1000)
    return any(abs(value - target) <= tolerance for value in values)


# --- The verdict ---


def is_correct(prediction: str, gold: str, time_limit: float = TIME_LIMIT, marked_only: bool = False) -> bool:
    """Whether a text (a solution or a bare answer) gives the gold answer (bare, or a solution that marks it).

    `marked_only`: a text that marks no answer is wrong. RL and the evaluations want this, as the format is
    part of their task; without it the last number of any prose is rewarded. `time_limit`: see TIME_LIMIT.
    """
    readings = _readings(prediction)
    if not readings and not marked_only:
        readings = [prediction.strip()]
    target, number = _gold(gold)
    return any(_same_answer(reading, target, number, time_limit) for reading in readings)


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
            row = json.loads(line)
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


@lru_cache(maxsize=5_000)
def _gold(gold: str) -> tuple[str, _Number | None]:
    """The gold answer, also as a plain number if it is one; cached, as a question is sampled many times."""
    answer = (_readings(gold) or [gold.strip()])[-1]
    return answer, _plain_number(answer)


_WRAPPER = re.compile(r"\\(?:text|mbox|mathrm|mathcal|textbf|mathbf)\s*\{([^{}]*)\}")
_LAYOUT = re.compile(r"\\left(?![a-z])|\\right(?![a-z])|\\[!,]|(?<!\w)\s+|\s+(?!\w)|\$|\.$")
_PROSE = re.compile(r"[^\W\d_]{2,}[,:]?\s+[^\W\d_]{2,}|[^\W\d_a-zA-Zα-ωΑ-Ω]{2,}")


def _same_answer(answer: str, gold: str, gold_number: _Number | None, time_limit: float) -> bool:
    if not answer or not gold:
        return False
    if gold_number is not None:
        number = _plain_number(answer)
        if number is not None:
            return _same_number(number, gold_number)
        if "\\" not in answer and not any(map(str.isdigit, answer)):
            return False  # words: no reason to wake math-verify
    if max(len(answer), len(gold)) <= LONGEST_TEXT and _bare(answer) == _bare(gold):
        return True
    return math_worker.verify(_for_parser(answer), _for_parser(gold), time_limit)


def _bare(answer: str) -> str:
    """Without what never matters in LaTeX, so that the same answer in another layout needs no parser."""
    text = _WRAPPER.sub(r"\1", answer).replace("dfrac", "frac").replace("tfrac", "frac")
    return _LAYOUT.sub("", text)


def _for_parser(answer: str) -> str:
    """What math-verify is shown: prose and delimited mathematics as they are, a bare formula in a box."""
    number = _plain_number(answer)
    if number is not None:
        return number[0] + "%" * number[1]
    answer = answer[-LONGEST_TEXT:]
    if re.search(r"\$|\\\(|\\\[|\\boxed", answer) or _PROSE.search(_WRAPPER.sub(" ", answer)):
        return answer
    return "\\boxed{" + re.sub(r"(?<!\\)%", r"\\%", answer) + "}"
