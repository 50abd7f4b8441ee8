"""An answer with its working: 12 + 5 = 17, Total = 12 + 5 = 17, 17 = 12 + 5, 17 (12 + 5)."""

from __future__ import annotations

import re

from excursions.grading.numerals import Numeral, changing_words, read_number
from excursions.grading.spelling import plain_signs, without_layout

LONGEST_WORKING = 1_000  # characters
SUM = re.compile(r"[-+*/^().%\d, $€£¥]+")
_UNITS_IN_SUM = re.compile(r"(?<=\d) [^\W\d_]{2,20}\b(?: [^\W\d_]{2,20}\b){0,3}| x (?=\d)")
_NAME_OF = re.compile(r"[^\W\d_][\w ]{0,40}[=:](?=.*=)")
_SEVERAL_NAMES = re.compile(r"= ?[-$]?\d[\d.,]{0,20} [^\W\d_]\w{0,20} ?=")
_WORKING_BEHIND = re.compile(r"([^()=]{1,60}) \((?:since |because )?(?=[^()]*\d ?(?: [-+]|[+*/x=]))([^()]*+)\)")


def value_of(answer: str, gold: Numeral) -> str:
    """Of an answer that is worked out, as in 12 + 5 = 17, Total = 12 + 5 = 17, 17 = 12 + 5 and 17 (12 + 5), what it
    comes to, and "?" where its steps say several things (16 = 17, x = 16 y = 17). Others stay."""
    text = without_layout(plain_signs(answer)) if len(answer) < LONGEST_WORKING else ""
    if "=" not in text and not text.endswith(")"):
        return answer
    if _SEVERAL_NAMES.search(text):
        return "?"
    if (first := _WORKING_BEHIND.fullmatch(text)) and all(map(_is_working, first[2].split("="))):
        return first[1]
    name = _NAME_OF.match(text)
    *steps, value = text[name.end() if name else 0 :].split("=")
    if not steps:
        return answer
    if _is_working(value) and not _is_number(value) and len(steps) == 1 and _is_number(steps[0]):
        return steps[0].strip()
    if all(map(_is_working, steps)) and any(map(str.isnumeric, value)):
        numbers = [read_number(step) for step in steps]
        return "?" if any(n and n.value != gold.value for n in numbers) else value.strip()
    return answer


def _is_number(text: str) -> bool:
    return read_number(text) is not None


def _is_working(text: str) -> bool:
    """Whether a text is a number or a sum of numbers, units at most beside them."""
    words = _UNITS_IN_SUM.sub("", text)
    return any(map(str.isdigit, text)) and bool(SUM.fullmatch(words)) and not changing_words(text)
