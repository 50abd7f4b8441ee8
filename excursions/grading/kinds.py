"""What an answer may state besides a number and a formula: digits in a base, a time of day, the letter of a choice.

math-verify sees none of these.
"""

from __future__ import annotations

import re

FONT = re.compile(r"\\(?:text|mbox|mathrm|textbf|mathbf) ?")
SPACE = re.compile(r"\\(?:[,;:! \\]|q?quad(?![a-z]))")
_DIGITS_IN_BASE = re.compile(
    r"\(?([0-9A-Z][0-9A-Za-z.]{0,99})\)?(?: ?_ ?(?:base )?(\d{1,2})| ?,? ?(?:in )?\(?base ?_? ?(\d{1,2})\)?)\.?"
)
_CLOCK = re.compile(r"(?:at )?0?(\d{1,2})(?: ?: ?([0-5]\d))? ?(?:([ap])\.? ?m\b\.?)?")
_LETTER = re.compile(r"(?:(?i:option|choice|answer) )?\(? ?([A-J]) ?\)?\.?")
_NO_BRACES = str.maketrans("{}", "  ")


def based(answer: str) -> tuple[str, str] | None:
    """Digits and base of 1001_2, also of "1001 (base 2)"."""
    text = _flat(answer)
    match = _DIGITS_IN_BASE.fullmatch(text)
    return (match[1].upper().lstrip("0"), match[2] or match[3]) if match else None


def clock(answer: str) -> tuple[str, str, str | None] | None:
    """Hour, minutes and half of the day (a, p or not said) of a time: 9 a.m., 4:30 PM, 9."""
    text = _flat(answer)
    match = _CLOCK.fullmatch(text.lower())
    return (match[1], match[2] or "00", match[3]) if match else None


def letter(answer: str) -> str | None:
    """The letter of a choice: D, (D), D., \\text{Option D}."""
    match = _LETTER.fullmatch(_flat(answer))
    return match[1] if match else None


def _flat(answer: str) -> str:
    """Without LaTeX's fonts, spaces and braces."""
    return " ".join(FONT.sub(" ", SPACE.sub(" ", answer)).replace("$", "").translate(_NO_BRACES).split())
