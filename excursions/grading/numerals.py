"""The number that a short answer states: 18, -3.50, $1,234.5, 14{,}916, 28\\%, 120^\\circ, 2 1/2 kg, 1.5 million.

One rule, whatever marked the answer. A number with a unit is that number. What changes its value (k, million, dozen,
"and a half", e3, 10^3, 2/3) is read with it. Where something else changes it ("or 18", "not", "at least", a second
number), the answer states no number: the whole of it is read, or nothing, never a prefix. Reading is linear in the
text: white space is collapsed first, and no two neighbouring quantifiers take the same characters.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from excursions.grading.spelling import plain_signs, unwrapped, without_layout

LONGEST_NUMBER = 300  # characters
LARGEST_POWER = 14_000  # bits, some 4,200 digits; what is larger is left to the parser. Python writes out 4,300
TOLERANCE = Fraction(1, 10**6)  # of a decimal against a value that it rounds


class Numeral(NamedTuple):
    """A number as it was typed; a percentage keeps its sign, because 28% may stand for 28 and for 0.28."""

    value: Fraction
    percent: bool = False
    decimal: bool = False  # typed with decimals, so perhaps rounded


# --- The parts of a number ---

_GROUPED = (
    r"[1-9]\d{0,2}(?:,\d{3})++(?:\.\d*+)?"  # 1,234.5
    r"|[1-9]\d?(?:,\d\d(?=,))++,\d{3}(?:\.\d*+)?"  # 12,34,567.5
    r"|[1-9]\d{0,2}(?:['_]\d{3})++(?:\.\d*+)?"
    r"|[1-9]\d{0,2}(?: \d{3})++(?:[.,]\d++)?"
    r"|[1-9]\d{0,2}(?:\.\d{3})++,\d++|[1-9]\d{0,2}(?:\.\d{3}){2,}+"  # 1.234,5 and 1.234.567
)
_NUMBER = rf"(?:{_GROUPED}|\d++(?:\.\d*+)?|\.\d++)"
_END = r"(?![.,']*\d)"  # no more of the number: not the 1 of 1,23
_MIXED = re.compile(rf"(\d++)(?: and | & | )([1-9]\d*+) ?/ ?(\d++){_END}(?! ?/)")
_FRACTION = re.compile(rf"({_NUMBER}){_END} ?/ ?({_NUMBER}){_END}(?! ?/)")
_DECIMAL = re.compile(rf"({_NUMBER}){_END}(?! ?\d| ?/ ?\d)")
_TEN_TO = re.compile(r"[eE]([-+]?\d{1,4})(?!\w)| ?[*xX] ?10 ?(?:\^|\*\*) ?\(?([-+]?\d{1,4})(?!\w)\)?")
_POWER = re.compile(r" ?(?:\^|\*\*) ?([-+]?\d{1,4})(?!\w)")
_AND_PART = re.compile(
    r" (?:and|&) (?:(an?|one|two|three|four|five|\d{1,2})[ -])?"
    r"(half|halves|thirds?|quarters?|fourths?|fifths?|sixths?|sevenths?|eighths?|ninths?|tenths?)\b"
)
_PARTS_OF = re.compile(r"[ -](?:halves|thirds?|fourths|fifths|sixths|sevenths|eighths|ninths|tenths)\b")
_COUNTS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5}
_PARTS = {"hal": 2, "thi": 3, "qua": 4, "fou": 4, "fif": 5, "six": 6, "sev": 7, "eig": 8, "nin": 9, "ten": 10}
_PERCENT = re.compile(r" ?(?:%|per ?cent(?:age)?\b)", re.IGNORECASE)

_SCALES = dict.fromkeys("k K thousand thousands grand".split(), 10**3)
_SCALES |= dict.fromkeys("M MM mn mio mil mill million millions".split(), 10**6)
_SCALES |= dict.fromkeys("bn mrd mia billion billions".split(), 10**9)
_SCALES |= dict.fromkeys("tn trillion trillions".split(), 10**12)
_SCALES |= {
    "hundred": 100,
    "hundreds": 100,
    "tens": 10,
    "doz": 12,
    "dozen": 12,
    "dozens": 12,
    "gross": 144,
    "score": 20,
}
_SCALES |= dict.fromkeys("lakh lakhs lac lacs".split(), 10**5) | dict.fromkeys("crore crores".split(), 10**7)
_MONEY_SCALES = {"m": 10**6, "b": 10**9, "B": 10**9, "t": 10**12, "T": 10**12}  # $2m is no length

# --- What may stand beside a number, as it leaves its value what it is ---

_SIGNS_OF_MONEY = "$€£¥¢₹₽₩₱₫₴₦₺₿฿₪₡₲₵₸"
_CURRENCY = rf"(?:US|CA|AU|NZ|HK)?\$|[{_SIGNS_OF_MONEY}]|Rs\.?|(?:USD|EUR|GBP|INR|CAD|AUD|JPY|CNY|CHF)\b"
_BEFORE = re.compile(rf"(?:(?<![^ =:(])([-+]) ?)?(?:({_CURRENCY}) ?)?([-+])?( ?)$")
_ASSIGNED = re.compile(r"[^\W\d_][\w ]{0,40}= ?$")
_SHORT_UNITS = frozenset(
    "cm mm km dm nm kg mg ml mL dl cl kl ft lb oz hr hp kW MW GW kJ MJ Hz pt qt yd mi sq cu ms ns MB GB TB KB kB "
    "kN Pa dB yr mo wk am pm AM PM an as at by in is it of on to us ea ha g h l L s m".split()
)
# Words that make another value, or none, of a number beside them. Signs of Chinese and Japanese do so inside a word.
CHANGING_WORDS = frozenset(
    "or and either plus minus negative mod modulo modulus base squared cubed factorial choose power root sqrt pi "
    "sin cos tan log ln exp infinity infinite over under than least most above below between beyond exceeding not "
    "no nor never neither except without isn wasn aren cannot incorrect wrong false maybe perhaps possibly versus "
    "vs half halves third thirds quarter quarters fourth fourths fifth fifths sixth sixths seventh sevenths eighth "
    "eighths ninth ninths tenth tenths hundredth hundredths thousandth thousandths twice thrice double "
    "triple quadruple doubled tripled halved point divided multiplied zero one two three four five six seven "
    "eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty thirty "
    "forty fifty sixty seventy eighty ninety oder und ou et mille millones millionen milliard milliards "
    "milliarden tausend hundert january february march april may june july august september october november "
    "december monday tuesday wednesday thursday friday saturday sunday "
    "тысяч тысяча тысячи миллион миллиона миллионов или"
    .split()
) | {word for word in _SCALES if word.islower() and len(word) > 1}  # fmt: skip
_CHANGING_SIGNS = frozenset("十百千万萬億亿兆半或")
_KILO = re.compile("千[克米瓦卡]")  # units
LABELS = frozenset(
    "step part case question problem exercise section chapter example method option choice approach stage phase "
    "figure equation".split()
)
_NAMED_OR_ORDINAL = re.compile(r"^(?: ?= ?[A-Za-z]$|(?:\^ ?)?(?:st|nd|rd|th)\b)")  # 17 = x, 17th
_HALF_DAY = re.compile(r"\b([ap])\. ?m\b", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]+")
_OTHER_THAN = re.compile(  # "anything but 17", "the square of 17"
    r"\b(?:but|from|than"
    r"|(?:squares?|cubes?|reciprocal|inverse|opposite|sum|product|difference|multiples?|factors?|divisors?"
    r"|logarithm|complement|negation) of(?: the number)?)$",
    re.IGNORECASE,
)
_UNIT_WORD = re.compile(r"([^\W\d_]+)(?:'[^\W\d_]{1,2}(?![^\W\d_])|(?<=s)')?")  # farmers', Tom's, didn't
_GENITIVE = re.compile(r"'[^\W\d_]{1,2}\b")
_HARMLESS = frozenset("and than".split())  # between words, with no number behind them
_EACH = frozenset("per each every in on of until".split())  # what follows is a time, no factor: "per quarter", "in May"
_LETTERED = re.compile(r"[A-Za-z]-[a-z]{3}")  # T-shirts, X-rays
_RAISED_UNIT = re.compile(r"\.?(?: ?\^ ?-?[1-9](?!\d)|[23](?!\d))?")


def changing_words(text: str) -> set[str]:
    """The words of a text that change the value of a number beside them."""
    return {word for word in _WORD.findall(text) if not word.isupper() and _changes(word)}


def _changes(word: str) -> bool:
    if word.isascii():
        return word.lower() in CHANGING_WORDS
    return word.lower() in CHANGING_WORDS or not _CHANGING_SIGNS.isdisjoint(_KILO.sub("", word))


def _are_units(text: str) -> bool:
    """Whether only units and other words that change nothing follow a number: " km/h", " cm^2", "USD", " (apples)"."""
    text = _HALF_DAY.sub(r"\1m", text.strip())
    if text.startswith("(") and text.endswith(")"):
        text = text[1:-1]
    at, before = (1 if text[:1] in ("'", '"') else 0), ""  # feet and inches
    while at < len(text):
        if text[at] in " °,-/*()" or text[at] in _SIGNS_OF_MONEY:
            at += 1
            continue
        word = _UNIT_WORD.match(text, at)
        name = word[1] if word else ""
        if word is None or (_changes(name) and before not in _EACH and not (name in _HARMLESS and before)):
            return False
        before = name.lower()
        unit = name in _SHORT_UNITS or len(name) > 2 or not name.isascii()
        degrees = text[:at].rstrip().endswith("°") and name in "CFK"
        each = name == "a" and at > 0 or text.startswith("a ", at)  # "a day"
        if not (unit or degrees or each or _LETTERED.match(text, at)):
            return False
        at = _RAISED_UNIT.match(text, word.end()).end()  # type: ignore[union-attr]  # the pattern matches always
    return text[-1:] not in ("-", "/", "*")


def _sign_and_money(text: str) -> tuple[int, bool] | None:
    """Of what stands before a number: its sign, and whether it names a currency; None if there is more to it."""
    tail = _BEFORE.search(text, max(0, len(text) - 16))
    sign, currency, second_sign, space = tail.groups()  # type: ignore[union-attr]  # the pattern matches always
    words = text[: tail.start()].strip()  # type: ignore[union-attr]  # the pattern matches always
    if sign and second_sign:
        return None
    sign = sign or second_sign
    if words.lower() in ("minus", "negative") and not sign:
        sign, words = "-", ""
    found = (-1 if sign == "-" else 1, currency is not None)
    labelled = words.split(maxsplit=1)[0].lower() in LABELS if words else False
    if not words or words in ("≈", "~", "=") or (_ASSIGNED.fullmatch(words) and not labelled):
        return found
    spoken = _WORD.findall(_GENITIVE.sub("", words))
    if sign and space or not spoken or spoken[-1].lower() in LABELS or re.search(r"[^\w ,:.'\"=]|_|=.", words):
        return None
    if _OTHER_THAN.search(words):
        return None
    named = spoken[-1] in ("is", "are", "equals")  # "the value of n is 5": a letter there is a name
    plain = all((len(word) > 1 or named or word in "aAI") and not _changes(word) for word in spoken)
    return found if plain else None


# --- Reading ---


@lru_cache(maxsize=20_000)
def read_number(answer: str) -> Numeral | None:
    """The number that a whole answer states, exactly; None if it states none, several, or more than a number."""
    if len(answer) > LONGEST_NUMBER:
        return None
    text = unwrapped(without_layout(plain_signs(answer)))
    first = re.search(r"(?<!\w)\.\d|\d", text)
    before = _sign_and_money(text[: first.start()]) if first and "\\" not in text else None
    if before is None:
        return None
    (sign, money), at, decimal = before, first.start(), False  # type: ignore[union-attr]  # without one there is nothing before it
    if (mixed := _MIXED.match(text, at)) and int(mixed[2]) < int(mixed[3]):
        value, rest = int(mixed[1]) + Fraction(int(mixed[2]), int(mixed[3])), text[mixed.end() :]
    elif fraction := _FRACTION.match(text, at):
        above, below = _decimal(fraction[1]), _decimal(fraction[2])
        if not below:
            return None
        value, rest = above / below, text[fraction.end() :]
    elif typed := _DECIMAL.match(text, at):
        value, rest = _decimal(typed[1]), text[typed.end() :]
        if (power := _POWER.match(rest)) and "." not in typed[1]:
            value = _power(value, int(power[1]))  # type: ignore[assignment]  # None is returned below
        elif power := _TEN_TO.match(rest):
            scale = _power(Fraction(10), int(power[1] or power[2]))  # type: int | Fraction | None
            value = None if scale is None else value * scale  # type: ignore[assignment]  # the same
        if value is None:
            return None
        rest, decimal = rest[power.end() :] if power else rest, True
    else:
        return None
    if (parts := _PARTS_OF.match(rest)) and value.denominator == 1:
        value, rest = value / _PARTS[parts.group()[1:4]], rest[parts.end() :]
    elif part := _AND_PART.match(rest):
        value += Fraction(_COUNTS.get(part[1]) or int(part[1] or 1), _PARTS[part[2][:3]])
        rest = rest[part.end() :]
    for _ in range(3):
        word = _WORD.match(rest.lstrip())
        spelled = word.group() if word else ""
        scale = _SCALES.get(spelled) or _SCALES.get(spelled.lower() if len(spelled) > 2 else "")
        scale = _MONEY_SCALES.get(spelled) if money and not scale else scale
        if not scale or (spelled in ("K", "M", "MM") and rest[0] == " "):  # 300 K is a temperature
            break
        value, rest = value * scale, rest.lstrip()[word.end() :]  # type: ignore[union-attr]  # a scale is a word
        if rest.startswith("/"):  # km/h begins with no k, but 5 k/h is unclear
            return None
    rest = _NAMED_OR_ORDINAL.sub("", rest, count=1)
    percent = _PERCENT.match(rest)
    if not _are_units(rest[percent.end() :] if percent else rest):
        return None
    return Numeral(sign * value, percent is not None, decimal and value.denominator > 1)


def _decimal(text: str) -> Fraction:
    """The value of digits in any of the groupings above."""
    text = text.replace(" ", "").replace("'", "").replace("_", "")
    if (
        "," in text
        and ("." not in text or text.rindex(",") > text.rindex("."))
        and not re.search(r",\d{3}(?:,|$)", text)
    ):
        text = text.replace(".", "").replace(",", ".")  # 1.234,5
    elif text.count(".") > 1:
        text = text.replace(".", "")
    return Fraction(text.replace(",", ""))


def _power(base: Fraction, exponent: int) -> Fraction | None:
    bits = abs(exponent) * (base.numerator.bit_length() + base.denominator.bit_length())
    return None if bits > LARGEST_POWER or (exponent < 0 and not base) else base**exponent


def same_number(prediction: Numeral, gold: Numeral) -> bool:
    """Whether two numbers are equal: exactly, but a decimal may round the other one. 28% is 28 and is 0.28.

    The allowance is a millionth of the larger one, and where both have an end, so that no rounding is needed, it is
    never more than a millionth: 1000000.5 is not 1000000.6, and a tiny number is not another tiny one. Which of the two
    is the gold answer makes no difference.
    """
    pairs = [(prediction.value, gold.value)]
    if prediction.percent != gold.percent:
        pairs.append((prediction.value / (100 if prediction.percent else 1), gold.value / (100 if gold.percent else 1)))
    if any(a == b for a, b in pairs):
        return True
    if not (prediction.decimal or gold.decimal):
        return False
    ends = all(pow(10, d.bit_length(), d) == 0 for d in (prediction.value.denominator, gold.value.denominator))
    return any(abs(a - b) <= TOLERANCE * min(max(abs(a), abs(b)), 1 if ends else math.inf) for a, b in pairs)


def spelled(number: Numeral) -> str:
    """A number for the parser: a fraction, or its decimals if it was typed with decimals."""
    if not number.decimal or (places := _places(number.value)) is None:
        text = str(number.value)
    else:
        digits = str(abs(number.value.numerator) * 10**places // number.value.denominator).zfill(places + 1)
        text = "-" * (number.value < 0) + digits[:-places] + "." + digits[-places:]
    return text + "%" * number.percent


def _places(value: Fraction) -> int | None:
    return next((n for n in range(LONGEST_NUMBER) if 10**n % value.denominator == 0), None)
