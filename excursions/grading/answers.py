"""The ONE answer that a text commits to, found by the mark in front of it.

- `\\boxed{}` goes before `####`, and that before "the answer is" and a line "A: ".
- The last one marked counts (MATH's rule; problems and steps hold other boxes), of boxes also the list that it ends:
  those before it joined by "and" or a comma. A Markdown heading or step is no answer, and naming the command \\boxed
  boxes nothing.
- A text ends where another question begins (a chat token, "Question:" on a line) after an answer with the mark that
  counts: what follows is an invented question. A line that only looks like one ("Q2: she buys 12 more") ends nothing
  before the text's first `####` or box, and numbered ones never do.
- Only the last LONGEST_READ characters are read, by patterns that are linear in them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from excursions.grading.numerals import changing_words, read_number
from excursions.grading.spelling import unwrapped

LONGEST_READ = 50_000  # characters of a completion; 512 tokens are about 2,000
LONGEST_ANSWER = 4_000  # characters; the longest gold answer of MATH has 158
MOST_STATED = 20  # "the answer is" that are tried, from the last

_NEW_QUESTION = re.compile(
    r"<\|\w{1,40}\|>|</s>|<(?:eos|bos|pad|end_of_turn|start_of_turn)>|\bquestion {0,3}:"
    r"|^[^\w\n]{0,10}(?:question|problem|exercise|instruction|human|user|q)[ \t]{0,3}:",
    re.IGNORECASE | re.MULTILINE,
)
# A box with braces; one without, if it holds a number or one letter ("\boxed 4"; in "the \boxed command" nothing is
# boxed); a brace. A doubled backslash: a box escaped once too often.
_BOX = re.compile(
    r"\\{1,2}(?:boxed|fbox)(?:\s{0,9}(\{)|\s{0,9}([-+]?\$?[\d.,/]{0,99}\d%?(?!\w)|[A-Za-z](?=\$)))|\\.|[{}]", re.DOTALL
)
_PLACEHOLDER = re.compile(
    r"(?:\\(?:text|ldots|dots|cdots|cdot|ddots|square|Box|_)(?![A-Za-z])|\\(?:[hv]?phantom|hspace) ?\{[^{}]{0,40}\}"
    r"|[.…\s{}<>\[\]?#*_]|(?:your|the|final|numeric(?:al)?|answer|number|value|here|result)\b)*",
    re.IGNORECASE,
)
_JOINED = re.compile(r"(?:[^\n]{0,60}(?:,|;|\band\b|\bor\b))?[^A-Za-z0-9\n]{0,10}")
_AFTER_BOX = r"[$\s)\]*\\]{0,6}"
_OR_ANOTHER = re.compile(
    rf"{_AFTER_BOX}(?:(?:,\s)?or |text\{{,? ?or ?\}} ?)[-$\\(]{{0,3}}\d|{_AFTER_BOX}(?:, ?-?\d[\d.]{{0,20}}){{1,9}}\s*$"
)
_TIMES_BOX = re.compile(rf"{_AFTER_BOX}(hundred|thousand|million|billion|trillion|dozen)\b")
_LATEX_GLUE = re.compile(r"\\(?:text|mbox|quad|qquad)\b")
_HASHES = re.compile(
    r"####(?!#)[ \t]{0,99}(?:(?i:(?:\*\*)?(?:the )?(?:final )?answer:?(?:\*\*)?:?[ \t]{0,9})\n\s{0,9}|\n)?([^\n#]*)"
)
_STEP = re.compile(
    r"\W{0,3}(?:\d{1,3}[.):] [A-Za-z]"
    r"|(?i:step|part|case|question|problem|method|solution|example|day|stage|approach|phase) ?\d{1,3} ?(?![\d.,]))"
)
_DOING = re.compile(  # "Calculate 3 * 4", "Using $x = 3$"
    r"(?:the )?(?:using|use|calculate|compute|find|solve|let|consider|given|case|part|step|add|subtract|multiply|divide"
    r"|substitute|simplify|check|verify|if|when|for|since|first|then|now)\b",
    re.IGNORECASE,
)
_SUM = re.compile(r"[-+*/()$%.,\d \t]+")
_VALUE = re.compile(r"[=:] ?[-$]{0,2}\d[\d.,]{0,30}\W{0,3}$")
_LEADS = re.compile(r"[=:]\W{0,3}$")  # "Cost of 3 shirts:" or "=": what it names comes after it
_PREPOSED = re.compile(r"\b(?:after|during|for|per) [-$]{0,2}\d")
_SAYS = re.compile(r"[=:]|\b(?:is|are|was|were|has|have|had|costs|equals?|gets?|makes?|needs?)\b")
_RECANTED = r"(?i:no|wait|actually|hmm|sorry|oops)\b"
_SENTENCE_END = re.compile(rf" [.!?](?: |$)|(?<=[^\s.])[.!?] (?=[A-Z])(?!{_RECANTED})")
_STATED = re.compile(
    r"\banswers?\b[^\n.:=$]{0,40}?(?:\b(?:is|are|must be|should be|would be)\b|[:=])[\s:*]{0,20}", re.IGNORECASE
)
_JOINER = r"\s{0,3}(?:[-+*/^=:&|~]|,?\s?(?:(?:or|to|through|versus|vs)\b|and\s?[-$\\(*\d]|[$\d]))"
_STATED_END = re.compile(rf"\n|[.!?](?:\s(?!{_RECANTED})|$)|\*{{2,3}}(?!{_JOINER})")
_REASON = re.compile(r",? (?:because|since)\b|, (?:as|so|which|for|thus|hence|given)\b")
_CONTINUED = re.compile(rf"{_JOINER}|\s{{0,3}},?\s?\\[(\[]")
# What follows an answer, where it is numbers alone.
_MORE_GUESSES = re.compile(r"(?=[^\d]{0,99}\d)(?:[\s\d.,;:|!?$%*-]|#(?!#)|\b(?:or|and)\b)+", re.IGNORECASE)
_CHOICE = re.compile(r"(?:(?i:option|choice|letter) )?\(?([A-J])\)?(?:[.,:;)](?:\s(?!\(?[A-J]\b)|$)|$)")
_LETTERED = re.compile(r"^A:[ \t]*(\S.*)$", re.MULTILINE)
# A dollar sign that is escaped, or before a number on another line or after a space, is money.
_INLINE = r"\$((?!\d[^$\n]{0,80}\n)(?:\\.|[^$\\])+)(?<! )\$(?!\d)"
_DELIMITED = re.compile(rf"\$\$(.+?)\$\$|{_INLINE}|\\\[(.+?)\\\]|\\\((.+?)\\\)", re.DOTALL)
_DELIMITER = re.compile(r"(?<!\\)\$|\\[()\[\]]")


class Marked(NamedTuple):
    """An answer without its mark; `whole`: the list of joined boxes that it ends; `hashed`: whether #### marks it."""

    answer: str
    whole: str | None = None
    hashed: bool = False


def extract_answer(text: str) -> str | None:
    """The final answer that a text marks as such, without its mark; None if it marks none."""
    marked = marked_answer(text)
    return marked.answer if marked else None


def marked_answer(text: str) -> Marked | None:
    """The same, with what else is known of it."""
    text = text[-LONGEST_READ:]
    for find in (_boxed, _hashed, _stated):
        found = find(text)
        if found:
            another = _NEW_QUESTION.search(text, found[0][0])
            if another is not None:
                found = find(text[: another.start()]) or found[:1]
            return found[-1][1]
    return None


_Found = list[tuple[int, Marked]]  # answers of one kind, in order: where the first one's mark ends, the answer


def _boxed(text: str) -> _Found:
    """The first and the last balanced, non-empty box; if other boxes lead to the last one, with the whole list."""
    if "boxed" not in text and "\\fbox" not in text:
        return []
    boxes: list[tuple[int, int, str]] = []  # start, end, content
    open_braces: list[tuple[int, int]] = []  # start of its box (-1: a bare brace), start of its content
    for token in _BOX.finditer(text, max(0, text.find("box") - 4)):
        if token.group(1):
            open_braces.append((token.start(), token.end()))
        elif token.group(2):
            boxes.append((token.start(), token.end(), token.group(2)))
        elif token.group() == "{":
            open_braces.append((-1, token.end()))
        elif token.group() == "}" and open_braces:
            start, content_start = open_braces.pop()
            if start >= 0:
                boxes.append((start, token.end(), text[content_start : token.start()][-LONGEST_ANSWER:].strip()))
    boxes = _outermost(box for box in boxes if not _PLACEHOLDER.fullmatch(box[2]))
    if not boxes:
        return []
    joined = [boxes[-1][2]]
    for (_, end, content), (following, _, next_content) in zip(boxes[-2::-1], boxes[:0:-1], strict=True):
        between = _LATEX_GLUE.sub("", text[end : min(following, end + 200)])
        if end > following or not _JOINED.fullmatch(between):
            break
        if content != next_content:
            joined.append(content)
    whole = ", ".join(reversed(joined)) if len(joined) > 1 else None
    if _OR_ANOTHER.match(text, boxes[-1][1]):
        joined[0], whole = f"{joined[0]} or another", None  # 17 or 18, of which one is boxed
    elif scale := _TIMES_BOX.match(text, boxes[-1][1]):
        joined[0] += f" {scale[1]}"
    return [(boxes[0][1], Marked(boxes[0][2])), (boxes[-1][1], Marked(joined[0], whole))]


def _outermost(boxes: Iterable[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """In order, without those that stand in another one."""
    kept = []  # type: list[tuple[int, int, str]]
    for box in sorted(boxes):
        if not kept or box[0] >= kept[-1][1]:
            kept.append(box)
    return kept


def _hashed(text: str) -> _Found:
    """What follows each `####` up to the sentence's end, but for headings and steps ("2. Add them")."""
    found = []  # type: _Found
    if "####" not in text:
        return found
    end = len(text.rstrip())
    for match in _HASHES.finditer(text):
        answer = match.group(1)[:LONGEST_ANSWER]
        if _STEP.match(answer):
            continue
        ended = _SENTENCE_END.search(answer)
        answer = answer[: ended.start()] if ended else answer
        behind = match.start(1) + len(answer)
        answer = _REASON.split(answer, maxsplit=1)[0].strip()
        if answer and not _PLACEHOLDER.fullmatch(answer) and not _is_heading(answer, last=match.end() >= end):
            if _MORE_GUESSES.fullmatch(text, behind):
                answer = f"{answer}, {text[behind : behind + LONGEST_ANSWER].strip()}"  # a list of guesses
            found.append((match.start(1), Marked(answer, hashed=True)))
    return found


def _is_heading(line: str, last: bool) -> bool:
    """Whether a marked line heads what comes after it: "Cost of 3 shirts:", "Conclusion", "Week 2", "12 + 5"."""
    if line.isdigit():
        return False
    number = read_number(line)
    if not unwrapped(line)[:1].isalpha():
        return not last and number is None and _SUM.fullmatch(line) is not None
    if _LEADS.search(line) or (_PREPOSED.search(line) and not _SAYS.search(line)):
        return True
    if number is not None or _VALUE.search(line):
        return not last and (_DOING.match(line) is not None or not _SAYS.search(line))
    if len(line.split()) > 5 or ": " in line:
        return True
    return not last and (not re.search(r"[\d\\=]", line) or _DOING.match(line) is not None)


def _stated(text: str) -> _Found:
    """What the first and the last "the answer is" or "Answer:" say, up to the sentence's end; else a line "A: "."""
    matches = list(_STATED.finditer(text))
    for match in reversed(matches[-MOST_STATED:]):
        rest = text[match.end() : match.end() + LONGEST_ANSWER]
        answer = _sentence(rest)
        if answer:
            if rest.startswith(answer) and _MORE_GUESSES.fullmatch(rest, len(answer)):
                answer = " ".join(rest.split())  # a list of guesses
            return [(matches[0].end(), Marked(answer))]
    lettered = list(_LETTERED.finditer(text))
    return [(lettered[0].start(1), Marked(lettered[-1].group(1).strip()))] if lettered else []


def _sentence(rest: str) -> str:
    """Up to the sentence's end or its reason; of a formula and what does not change it, the formula."""
    if choice := _CHOICE.match(rest):
        return choice.group(1)
    formula = _DELIMITED.match(rest)
    start = formula.end() if formula else 0
    end = _STATED_END.search(rest, start)
    tail = _REASON.split(rest[start : end.start() if end else None], maxsplit=1)[0]
    if formula is None:
        return tail.strip().rstrip("* ")
    if _CONTINUED.match(tail) or changing_words(tail) - {"and"}:
        return _DELIMITER.sub("", rest[:start] + tail).strip()  # "$17$ million", "$17$ or $18$"
    return next(filter(None, formula.groups())).strip()
