"""One spelling of an answer: of the characters, of the LaTeX commands, and without what it is dressed and wrapped in.

Nothing here says what an answer is worth; `numerals` reads numbers out of what is left, and `grade` compares formulas.
Every pattern is linear in the text: no two neighbouring quantifiers take the same characters.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

# --- One spelling of characters: what keyboards, PDFs and other scripts write for the same sign ---

_SIGNS = str.maketrans(
    {c: "-" for c in "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d"}
    | {c: "'" for c in "\u2018\u2019\u02bc"}
    | {c: r"^\circ " for c in "°º˚"}
    | {"→": "-> ", "⇒": "-> ", "➜": "-> ", "。": ".", "．": ".", "，": ", ", "、": ", ", "；": ";"}
    | {"×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "÷": "/", "∕": "/", "⁄": "/"}
    | {"√": r"\sqrt ", "∛": r"\sqrt[3] ", "∜": r"\sqrt[4] "}
    | {"π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "±": r"\pm ", "≈": r"\approx "}
    | {"ℝ": r"\mathbb{R}", "…": r"\ldots ", "⋯": r"\cdots ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in "}
)
_OVER = re.compile("([⁰¹²³⁴⁵⁶⁷⁸⁹]{1,20})[\u2044/]([₀₁₂₃₄₅₆₇₈₉]{1,20})")
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")


CALCULATED = re.compile(r"<<[^<>]{0,200}>>")  # GSM8K's marks for a calculator
# Commands that say how an answer looks, and others that say the same in another way.
_DRESS = re.compile(
    r"\\(?:bold|boldsymbol|bm|pmb|underline|mathit|mathsf|mathtt|tiny|small|normalsize|large|Large|LARGE|huge|Huge"
    r"|[bB]igg?[lr]?)(?![A-Za-z])"
    r"|\\(?:color|textcolor|colorbox|[hv]space|[hv]phantom)\*? ?\{[^{}]{0,40}\}"
    r"|\\checkmark(?![A-Za-z])|[\u2600-\u27bf\ufe0f\U0001f300-\U0001faff]"
    rf"|{CALCULATED.pattern}|</?(?:b|i|u|em|strong|code|span|answer|ans)>|\[/?INST\]"
)
_BOLD = re.compile(r"(?<![\w)*])\*\*(?=[^\s*])([^*]{1,200})(?<=[^\s*])\*\*(?![\w(*])")
_SYNONYMS = {
    "sfrac": "frac", "nicefrac": "frac", "xfrac": "frac", "hbox": "text", "textit": "text", "emph": "text",
    "texttt": "text", "lbrace": "{", "rbrace": "}", "varnothing": "emptyset", "bigcup": "cup", "bigcap": "cap",
    "leqslant": "le", "geqslant": "ge", "cr": "\\",
}  # fmt: skip
_SYNONYM = re.compile(rf"\\({'|'.join(_SYNONYMS)})(?![A-Za-z])")
_GREEK = "pi|theta|alpha|beta|gamma|phi|omega|lambda|mu|sigma"
_BARE_FRACTION = re.compile(rf"(\\[dt]?frac) ?(\\(?:{_GREEK})) ?(?:(\d)|(?=\{{))")


def plain_signs(text: str) -> str:
    """The text in ASCII where it has a spelling for it, white space collapsed: ½ is \\frac{1}{2}, 10³ is 10^{3}. Of
    several ways to say the same in LaTeX one: \\boldsymbol{17} is {17}, \\sfrac12 is \\frac12."""
    if not text.isascii():
        text = "".join(c for c in text if unicodedata.category(c) != "Cf")  # without width
        text = _OVER.sub(lambda m: rf"\frac{{{m[1].translate(_RAISED)}}}{{{m[2].translate(_LOWERED)}}}", text)
        text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+", lambda m: "^{" + m.group().translate(_RAISED) + "}", text)
        text = re.sub("[₀₁₂₃₄₅₆₇₈₉]+", lambda m: "_{" + m.group().translate(_LOWERED) + "}", text)
        # One character may be a whole fraction; one that only looks different from a letter or digit is that one.
        text = "".join(_fraction(c) if unicodedata.category(c) == "No" else c for c in text.translate(_SIGNS))
        text = unicodedata.normalize("NFKC", text).translate(_SIGNS)
    text = _BOLD.sub(r"\1", _DRESS.sub("", text))
    if "\\" in text:
        text = _SYNONYM.sub(lambda m: "\\" + _SYNONYMS[m[1]], text)
        text = re.sub(r"\\not ?=", r"\\ne ", re.sub(r"(\\[A-Za-z]+)\{\}", r"\1 ", text))
        text = re.sub(r"(\\\\) ?\[\d+ ?[a-z]{2}\]", r"\1", re.sub(r"\\mathbb ([A-Z])", r"\\mathbb{\1}", text))
        text = _BARE_FRACTION.sub(lambda m: f"{m[1]}{{{m[2]}}}" + (f"{{{m[3]}}}" if m[3] else ""), text)
    return " ".join(text.replace(",~", ", ").split())


def _fraction(char: str) -> str:
    above, slash, below = unicodedata.normalize("NFKC", char).partition("\u2044")
    return rf"\frac{{{above}}}{{{below}}}" if slash and below else char


# --- LaTeX's layout, and what an answer may be wrapped in ---

_SPACES = re.compile(r"\\[,;: ]|~|\\q?quad\b|\\(?:left|right|displaystyle)(?![a-z])")
_GLUE = re.compile(r" ?\\! ?|(?<=\d)\{(?=,\})|(?<=\d\{,)\}|(?<=\d,)\}(?=\d)")
_DELIMITED = re.compile(r"^\$([^$]+)\$(?= ?\D)|\$([A-Za-z]{1,20})\$")
_NAMED = re.compile(r"[A-Za-z] ?\{ ?[-\d]")  # of an unknown command without its backslash
_FONT = re.compile(r"\\(?:text|mbox|mathrm|textrm|textbf|mathbf|operatorname|rm|bf) ?(?=[{ ])")
_DEGREES = re.compile(r"\^ ?\\circ\b|\^ ?\{ ?\\circ ?\}|\\degrees?\b")
_MADE_FRACTION = re.compile(
    r"\\[dtc]?frac ?(?:\{ ?([-+]?[\d.,]+) ?\} ?\{ ?([\d.,]+) ?\}|(\d) ?(\d)(?!\d)|\{ ?(\d+) ?\}(\d))"
)
_REPEATING = re.compile(
    r"(?<![\d.,])(\d{0,20})\.(\d{0,20})(?:\\(?:overline|bar|dot) ?(?:\{ ?(\d{1,20}) ?\}|(\d))|\((\d{1,20})\))(?!\d)"
)
_GOING_ON = re.compile(
    r"(?<![\d.,])(\d{0,20})\.(\d{0,9}?)(?:(\d)\3{2,20}|(\d\d)\4{1,20}|(\d{3})\5{1,20})(?:\.{3}|\\[lc]?dots(?![A-Za-z]))"
)
_UNIT = r"\{{1,2} ?([A-Za-z]{1,20}(?:\^ ?\{?[23]\}?)?) ?\}{1,2}"
_UNIT_FRACTION = re.compile(rf"(?<=[\d ])\\[dt]?frac ?{_UNIT} ?{_UNIT}")
_EXPONENT = re.compile(r"\^ ?\{ ?([-+]?\d+) ?\}(?!\d)")
_POWER_OF = re.compile(r"(?<=[\w)}\]]) ?\*\* ?(?=[-\w({])")
_TIMES = re.compile(r"\\(?:times|cdot)\b ?")
_CHOICE_LABEL = re.compile(r"^(?:\\(?:text|textbf|mathrm|mathbf) ?\{)?\(?[A-E]\)[:. }\\]{1,4}(?=[-\d$\\])")
_LED = re.compile(r"(?:[=-]>|:|\\(?:[Rr]ightarrow|implies|therefore)(?![A-Za-z])) ?")
_WRAPPED = re.compile(r"(?:\$\$?|\\[(\[]|\*{1,3}|__?|[`\"'(\[]|\\boxed\{)(?=.)")
_WRAPS = {"$": "$", "$$": "$$", r"\(": r"\)", r"\[": r"\]", "*": "*", "**": "**", "***": "***"}
_WRAPS |= {"_": "_", "__": "__", "`": "`", '"': '"', "'": "'", "(": ")", "[": "]", r"\boxed{": "}"}


def unwrapped(text: str) -> str:
    """Without arrows before it, the final period, and delimiters and brackets that enclose one number or word."""
    for _ in range(4):
        led = _LED.match(text.strip())
        text = text.strip()[led.end() if led else 0 :]
        text = text[:-1].rstrip() if text.endswith((".", ";", ":", ",")) and not text.endswith("..") else text
        start = _WRAPPED.match(text)
        end = _WRAPS[start.group()] if start else ""
        inner = text[start.end() : -len(end)] if start and text.endswith(end) else ""
        if not inner or end in inner or (start.group() in "([" and start.group() in inner):  # type: ignore[union-attr]  # without a start there is no inner
            break
        text = inner
    return text


def _repeating(match: re.Match) -> str:
    """0.1\\overline{6} and 0.1666... as the fraction that they are."""
    whole, once, *again = match.groups()
    repeated = next(filter(None, again))
    value = Fraction(int(whole + once + repeated or 0) - int(whole + once or 0))
    value /= 10 ** len(once) * (10 ** len(repeated) - 1)
    return f" {value.numerator}/{value.denominator} "


def without_layout(text: str) -> str:
    """A text of `plain_signs` without LaTeX's layout: \\frac{1}{2}\\text{ cm} is 1/2 cm."""
    text = _GOING_ON.sub(_repeating, _REPEATING.sub(_repeating, _DELIMITED.sub(r"\1\2 ", text)))
    text = _CHOICE_LABEL.sub("", text)
    if "\\" in text or "{" in text or "~" in text:
        text = _GLUE.sub("", text).replace(r"\$", "$").replace(r"\%", "%").replace(r"\#", "#").replace(r"\approx", "≈")
        text = _FONT.sub("", _TIMES.sub("*", _DEGREES.sub("°", _SPACES.sub(" ", text))))
        text = _UNIT_FRACTION.sub(r" \1/\2", text)
        text = _MADE_FRACTION.sub(lambda m: " {}/{} ".format(*filter(None, m.groups())), text)
        text = _EXPONENT.sub(r"^\1", text)
        text = text if _NAMED.search(text) else text.replace("{", " ").replace("}", " ")
    return _POWER_OF.sub("^", " ".join(text.split()))
