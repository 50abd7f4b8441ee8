"""The grader against labelled solutions, gold answers, other projects' cases, and texts made to break it."""

import gzip
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path

import pytest

from excursions.grading import answers, kinds, math_worker, numerals, spelling, working
from excursions.grading import grade as grade_module
from excursions.grading.answers import LONGEST_ANSWER, LONGEST_READ
from excursions.grading.grade import extract_answer, grade_batch, grade_jsonl, is_correct
from excursions.params import UserError


def rows(file: Path) -> list[dict]:
    text = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    return [json.loads(line) for line in text.splitlines()]


# --- Which answer counts ---


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so he has 17 .\n#### 17", "17"),
        ("#### $1,234.50", "$1,234.50"),
        ("#### 12 + 5", "12 + 5"),  # what is marked is read whole, never a prefix of it
        ("#### 17 , 18 , 19", "17 , 18 , 19"),
        ("#### 12 , 7", "12 , 7"),
        ("#### 17 . #### 12 + 5 = 17 .", "12 + 5 = 17"),
        ("#### Step 1: add the numbers of both days\n5 + 6 = 11\n#### 11", "11"),
        ("#### 17\n#### 18", "18"),
        ("#### Step 1: Find total cost\n5 + 12 = 17\n#### 17", "17"),
        ("#### 17\n#### Check\n5 + 12 = 17 indeed.", "17"),
        ("#### 2. Add the numbers", None),
        ("#### Step 2", None),
        ("#### Cost of 3 shirts:\n8 * 5 = 40, so he needs 40.", None),  # names what comes after it, or ends before it
        ("#### Total for 3 days:", None),
        ("#### Cost of 3 shirts =\n", None),
        ("#### Calculation for 3 days", None),
        ("#### Cost of 3 shirts:\n8 * 3 = 24\n#### 24", "24"),
        ("#### Total cost: 24", "Total cost: 24"),
        ("#### 24:", "24:"),
        ("#### Solution:\nThe answer is 17.", "17"),
        (r"The answer is \boxed{5}. I used the \boxed command.", "5"),
        (r"The answer is \boxed{5}, in \boxed{}, as in \boxed{\text{answer}}.", "5"),
        (r"Put it into \boxed{...}: \boxed{5}. Not \boxed{\ldots} nor \boxed", "5"),
        ("The first answer is 5.\nQ2: she buys 12 more, so 17.\n#### 17", "17"),
        ("The answer is 5.\nQuestion 2: and then? The answer is 17.", "17"),
        (r"first \boxed{3}, so the result is \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (
            r"\boxed{\left\{ x : x > \frac{1}{\sqrt{2}} \right.}",
            r"\left\{ x : x > \frac{1}{\sqrt{2}} \right.",
        ),
        (r"\boxed{4} and then \boxed{\frac{1}{", "4"),  # cut off: only balanced boxes
        (r"it is \boxed{5}. Now put your answer inside \boxed{}", "5"),
        (r"The answer is \boxed 4.", "4"),
        (r"\fbox{7}", "7"),
        ("The answer is 5, no, wait. The final answer is: **7**.", "7"),
        ("Thus, the answer is:\n\\[ \\frac{207}{64} \\]\nI hope it is correct.", r"\frac{207}{64}"),
        ("He pays 3 * 4 = 12.\nA: 12", "12"),
        ("He pays 12 dollars.", None),
        ("", None),
    ],
)
def test_extract_answer(text, answer):
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    "run_on",
    [
        " #### 17 question : ann has 3 apples . #### 3",
        "So it is \\boxed{17}.\n\nProblem: Find $x$.\n\nSolution: \\boxed{3}",
        "The answer is 17.\n\nQ: Ann has 3 apples.\nA: The answer is 3.",
        "#### 17<|im_end|>\n<|im_start|>user\n#### 3",
    ],
)
def test_a_solution_ends_where_the_next_question_starts(run_on):
    assert extract_answer(run_on) == "17"
    assert not is_correct(run_on, "3")


def test_joined_boxes_are_a_list_and_the_last_one_alone_is_accepted():
    text = r"the roots are $\boxed{2}$ and $\boxed{-3}$."
    assert is_correct(text, "2, -3") and is_correct(text, "-3") and not is_correct(text, "2")
    assert not is_correct(r"we have \boxed{2}, so the sum is \boxed{5}", "2, 5")


def test_only_a_marked_answer_earns_the_reward():
    prose = "so there are 12 + 5 = 17 of them"
    assert is_correct(prose, "17") and not is_correct(prose, "17", marked_only=True)
    assert is_correct("#### 17", "17", marked_only=True)


def test_extraction_cases_of_other_projects(shared):
    """Kinds with contradicting rules; ours finds the answer they call the model's, and no wrong letter."""
    for case in rows(shared / "data/grading_cases/extraction_cases.jsonl"):
        found, expected = extract_answer(case["text"]), case["expected"]
        if case["what"] == "all boxed strings":
            assert found == (expected[-1][len("\\boxed{") : -1] if expected else "4")
        else:
            assert found in (expected, None)
            assert found is not None or "answer is" not in case["text"]


# --- Plain numbers ---


@pytest.mark.parametrize(
    ("prediction", "gold"),
    [
        ("50.0", "50"),
        ("50.", "50"),
        ("1,234", "1234"),
        (r"1{,}234", "1234"),
        (r"1,\!234", "1234"),
        ("70_000", "70000"),  # as in Python; 2516_9 is in base 9
        ("$18.00", "18"),
        (r"\$18", "18"),
        ("18 dollars.", "18"),
        ("20.0{miles/hour}", "20"),
        ("188{mm}", "188"),
        (r"15\mbox{ cm}^2", "15"),
        (r"120^\circ", "120"),
        (r"17\text{ any text}", "17"),
        (r"\text{Total} = \$11,232", "11232"),
        ("-0.0", "0"),
        ("-0/5", "0"),
        (r"-\frac{6}{4}", "-1.5"),
        (".5", "0.5"),
        ("−3", "-3"),
        ("10%", "10"),
        ("10%", "0.1"),
        (r"\frac{3}{8}", "6/16"),
        (r"\frac12", "0.5"),
        ("0.333333", "1/3"),
        ("33.3333%", "1/3"),
        ("0.0666668", "0.066666793"),
        ("9" * 200, "9" * 200 + ".0"),
    ],
)
def test_equal_numbers(prediction, gold):
    assert is_correct(prediction, gold) and is_correct(gold, prediction)


@pytest.mark.parametrize(
    ("prediction", "gold"),
    [
        ("17", "18"),
        ("1000000", "1000001"),
        ("0.33", "1/3"),
        ("0.0000001", "0.0000002"),
        ("2 pi", "2"),
        ("32, 349", "32349"),
        ("-5", "5"),
        ("seventeen", "17"),
        ("9" * 200 + "8", "9" * 201),
        ("1 1/2", "11/2"),
        ("", "0"),
        ("0", ""),
        ("", ""),
    ],
)
def test_unequal_numbers(prediction, gold):
    assert not is_correct(prediction, gold)


def test_numbers_are_graded_fast():
    """The RL loop grades every rollout; about 600k numbers and 110k completions a second on one idle core."""
    numbers = [str(i % 500) for i in range(20_000)]
    body = "tom has 12 apples . he buys 5 more , so he has 12 + 5 = 17 apples . " * 3
    for texts, floor in ((numbers, 100_000), ([f"{body} #### {n}" for n in numbers], 30_000)):
        started = time.process_time()
        assert all(grade_batch(texts, numbers, marked_only=texts is not numbers))
        assert len(texts) / (time.process_time() - started) > floor


# --- One rule for boxed, hashed and bare answers ---

WRONG = {  # gold -> answers that a prefix, a guess or a tolerance would make right
    "1": "1 Mrd|1 half|1 sixth"
    "|1.75kg|1.5k|1.5e3|1/2|1:30|1 1/2|1½|1 million|1k|1M|$1m|1 dozen|1bn|1 lakh|1,5|1-2|1–2|1 to 2|1 and a half|1+"
    "|1x|1e2|1 2/3|1...3|1 plus 2|not 1|at least 1|more than 1|1 or more|minus 1|-1|1 below zero|1_2|0x1|1 point five"
    "|1 000|1\u202f000|1\u2009000|1\u00a0000|1’000|1\\,000|1{,}000|1万|1 squared"
    "|1 \\text{ million}|1\\frac{1}{2}|1 \\pm 2"
    "|1!2|1 & 2|1 vs 2|1 score|1^2+1|1 -> 2|10^{-400}",
    "10": "10^3|10**3|10³|10^{3}|10!|10_2|10 million|10e2",
    "17": "17 or 18 or 19|17;18;19|17 , 18 , 19|17, 18|17 and 18|17 18 19|17 (or 18)|17/18/19|17-19|17\\lor18"
    "|17 and a half|17½|17 \\text{ or } 18|either 17 or 18|17.18.19|17 => 18|\\{17, 18\\}|17 \\quad 18"
    "|17 ≈ 18|17 \\approx 18|17 (18)|16 = 17|5 ft 17 in",
    "18": "17 or 18|17;18|17 18|17, 18|17 & 18|17 and 18|16 17 18|17 then 18|17 (18)|17 -> 18|17 \\lor 18",
    "70": "70.000,00|70 000|70,000|70k|70 thousand|70\u2009000|70{,}000",
    "1234": "$1,234.56USD|1234.56 USD|1,234k",
    "2": "2 2/3|2 million|2⅔|2 and 2/3|2\\frac{2}{3}|2 dozen|2K",
    "5": "5 sixths|5' 6\"|5x|5i|5pi|5 pi|5√2|5 sqrt 2|5²|√5|ln 5|half of 5|twice 5|5/|5=6|−5|–5|5\\sqrt{2}",
    "12": "Step 12|12 , 7|12:00|1:12|12?13",
    "-2\\pi": "2*pi|-2|-pi",
    "\\frac{\\pi}{2}": "pi/3|2/pi|pi/2 or pi/3|-pi/2",
    "\\sqrt{3}": "√2|3|sqrt(5)|√33",
    "\\frac{1}{2004!}": "\\frac{1}{2005!}|\\frac{1}{2003!}|0",
    "\\sqrt{2}\\cdot 10^{-20}": "\\sqrt{3}\\cdot 10^{-20}|0",
    "(10^{-9}, 1)": "(2\\cdot 10^{-9}, 1)",
    "1e-7": "2e-7|1.1e-7|0",
    "e^{-30}": "e^{-31}|0",
    "\\frac{1}{2^{99}}": "\\frac{1}{2^{98}}",
    "\\pm 2021": "2021",
    "12:00": "1:00",
    "4": "4\\sqrt(2)|4\\sqrt{2}",
    "10^{30}": "10^{30}+1|10^{31}",
    "1000000.5": "1000000.6|1000000",
    "123456789": "123456789.5|123456790",
    "2516_8": "2516_9|2516|2517_8|2516 base 9",
    "1, 2, \\ldots, n": "1, 3, 5, \\ldots, 2n-1|1, 2, 3|1,2,n|1, 2, \\ldots, m",
    "x=2": "x=1 or x=2|x=1",
    "9\\text{ a.m.}": "9 p.m.|9\\text{ p.m.}|9:00 PM|9:30 a.m.",
    "4:30\\text{ p.m.}": "4|30|4:30 a.m.|5:30 PM|4.5",
    "\\text{June 20}": "20|\\text{July 20}|June 21",
    "A,C,F": "A, C|A, C, and E",
    "2^{2005}": "2^{2}005|2^{2}",
    "2 1/3": "2(1/3)",
    "1001_2": "1001 _ 3|1001|1001 \\text{ (base 3)}",
    "2.5": "(2,5)|2,5,5",
    "3:4": "4:3|4 to 3|3|4",
    "1:2": "1|2|1:3",
    "\\frac{1}{2}": "\\frac13 = \\frac12|\\frac12 \\approx 0.6|0.\\overline{5}",
    "2\\sqrt{3}": "5 = 2\\sqrt{3}",
    "(3, \\frac{\\pi}{2})": "[3,\\frac{\\pi}{2}]|\\{3,\\frac{\\pi}{2}\\}|(3, \\frac{\\pi}{2}]",
    "0.\\overline{3}": "0.3|0.333|0.\\overline{4}|0.(4)|3",
    "2004!": "2004!!",
}
RIGHT = {
    "1.75": "1.75kg|1.75 kg|7/4|$1.75|1 3/4|1¾",
    "1500": "1.5k|1.5K|1.5 thousand|1,500|1.5e3|1.5E+3|1.5 × 10^3|1.5x10^3|1.5\\times10^{3}|US$1,500.00|1 500"
    "|1\u2009500|1.500,00|15 hundred|1500USD|€1.500,00|１５００|3000/2|1'500",
    "70000": "70 000|70.000,00|70,000|70 000 people|7e4|7×10⁴|70k|70\\,000|70{,}000|70\\ 000|70~000|70\u202f000",
    "1234.56": "$1,234.56USD|1.234,56|1 234,56 €|1234,56",
    "8/3": "2 2/3|2⅔|2 and 2/3|2\\frac{2}{3}|\\frac{8}{3}|2 and two thirds|2.666667",
    "2000000": "2 million|2M|$2m|$2 million|2 million dollars|2e6|2 × 10^6|2 000 000",
    "17.5": "17 and a half|17 1/2|17½|35/2|17,5",
    "2": "∛8|∜16",
    "1000": "10^3|10**3|10³|10^{3}|1e3|1k",
    "24": "2 dozen|4!|24 hours",
    "11\\frac{5}{6}": "11 5/6|71/6|\\frac{71}{6}|11⅚",
    "\\frac{\\pi}{2}": "pi/2|π/2|0.5*pi|½π|pi / 2|1/2 pi|1/2 \\pi",
    "-2\\pi": "-2*pi|-2pi|−2π|–2π",
    "\\sqrt{3}": "√3|sqrt(3)|sqrt 3|√(3)|3^(1/2)|3**0.5",
    "\\frac{\\sqrt{3}}{2}": "√3/2|sqrt(3)/2|½√3",
    "2\\sqrt{3}": "2√3|2*sqrt(3)|√12",
    "2\\sqrt[3]{3}": "2∛3|∛24",
    "\\frac12": "½|1/2|0.5|.5|50%",
    "\\sqrt{17}": "4.123105625617661",
    "e^{16} - 1": "-1 + exp(16)",
    "14 - i": "14.0 + -1.0i",
    "3 \\times 10^8": "3e8|300000000|3×10^8",
    "-5": "−5|–5|—5|- 5|﹣5|－5|‐5|-$5|$-5|minus 5|negative 5",
    "1e-7": "0.0000001|10^{-7}|1×10⁻⁷",
    "2^{100}": "1267650600228229401496703205376",
    "2516_8": "2516_{8}|2516 base 8|(2516)_8|2516₈",
    "1, 2, \\ldots, n": "1,2,\\ldots,n|1, 2, \\dots, n|1, 2, ..., n|1, 2, …, n",
    "12": "12 km/h|12 m/s|12°|12 °C|12 apples left|Tom has 12 apples|x = 12|12.|**12**|(12)|12 cm²|12\\text{ cm}^2"
    "|≈ 12|Total: 12|12 times|12 (apples)|12 kWh|12个",
    "100000/3": "33333.3333|33333 1/3",
    "1/3": "0.3333333...|0.333\\ldots|0.\\overline{3}|0.\\bar{3}|0.\\bar3|0.(3)|33.\\overline{3}\\%"
    "|\\frac13 = 0.\\overline{3}",
    "7/3": "2.\\overline{3}|2.(3)",
    "1/6": "0.1\\overline{6}|.1\\overline{6}",
    "17": "17;|17。|→ 17|=> 17|***17***|\u200e17|17\u200f|17:|: 17|17 yr|17yr|17¢|¢17|₱17|17 ₱|17 a day"
    "|17 apples a day|17'|17\"|17th|17 = x|x = 12 + 5 = 17|Total: 12 + 5 = 17|17 sq. ft.",
    "6": "6 a.m.|6 PM",
    "3/4": "³⁄₄|3⁄4|¾|0,75",
    "5/6": "5 sixths",
    "123456": "1,23,456",
    "1234567.5": "12,34,567.5|12,34,567.50",
    "9\\text{ a.m.}": "9:00 AM|9 AM|9 a.m.",
    "4:30\\text{ p.m.}": "4:30 PM|\\text{4:30 p.m.}|4:30",
    "\\text{Evelyn}": "\\text {Evelyn}|\\text{Evelyn}.|\\text{Evelyn.}",
    "30^\\circ, 60^\\circ": "30°, 60°|30º, 60º|30˚, 60˚",
    "A,C,F": "A, C, and F|A, C and F|\\text{A, C, F}",
    "1001_2": "1001 _ 2|1001_{\\text{base 2}}|1001 \\text{ (base 2)}|1001\\text{ base } 2|1001₂",
    "3:4": "3 to 4|3 : 4",
    "18": "\\boldsymbol{18}|\\bold{18}|\\underline{18}|\\color{red}{18}|\\textcolor{red}{18}|\\Large 18|\\hspace{2pt}18"
    "|18^\\circ C|18 \\hbox{ cm}|18\\frac{m}{s}|18 \\frac{\\text{km}}{\\text{h}}|\\text{(B) }18|\\textbf{(B)}\\ 18"
    "|<b>18</b>|18</answer>|**18** dollars|18 T-shirts|18 boxes (large)|18[/INST]|12+6=<<12+6=18>>18|180 * 10% = 18",
    "0.5": "\\sfrac{1}{2}|\\nicefrac{1}{2}|\\frac12 = 0.5|1/2 ≈ 0.5",
    "0.00012": "1.2 x 10^(-4)",
    "3.33": "10/3 ≈ 3.33",
    "(3, \\frac{\\pi}{2})": "(3, \\frac\\pi2)|\\bigl(3, \\frac{\\pi}{2}\\bigr)|(3,~\\frac{\\pi}{2})",
    "\\{1,2,3\\}": "\\lbrace 1,2,3 \\rbrace",
    "\\emptyset": "\\varnothing",
    "\\mathbb{R}": "ℝ|\\mathbb R",
    "(-\\infty,2)\\cup(3,\\infty)": "(-\\infty,2)\\bigcup(3,\\infty)",
    "2\\sqrt{3}\\,": "2\\sqrt{3} \\approx 3.46",
}
FORMS = ("#### {}", "so it is\n#### {}\n", "\\boxed{{{}}}", "{}")


@pytest.mark.parametrize("gold", WRONG)
def test_what_changes_a_value_is_read_or_nothing_is(gold):
    """The longest reading, never a prefix: lm-evaluation-harness's GSM8K filter stops behind the first digits, and
    math-verify takes a number out of what it cannot parse and compares with six decimals (its issues 14, 41)."""
    for answer in [gold + " or 99"] + WRONG[gold].split("|"):
        for form in FORMS:
            assert not is_correct(form.format(answer), gold, marked_only=form != "{}"), form.format(answer)


@pytest.mark.parametrize("gold", RIGHT)
def test_one_value_in_many_spellings(gold):
    """pi/2 and -2*pi: math-verify's issue 69; a root against its decimals: 48."""
    for answer in [gold, *RIGHT[gold].split("|")]:
        for form in FORMS:
            assert is_correct(form.format(answer), gold, marked_only=form != "{}"), form.format(answer)


@pytest.mark.parametrize(
    "text",
    [
        "#### 17\n18\n19", "#### 17\n\n18", "The answer is 17. 18. 19", "The answer is 17\n18", "#### 17 ! 18",
        "#### 17 # 18", "#### 17 . 18", "#### 17\nor 18", "#### 17\n- 18", "The answer is $17$ to $18$.",
        "#### 17 ? 18", "The answer is **17** or **18**.", "The answer is \\(17\\) or \\(18\\).", "\\boxed{17} or 18",
        "\\boxed{\\boxed{17} \\text{ or } 18}", "The answer is 17? No, it is 18.", "The answer is 17, no, 18.",
    ],
)  # fmt: skip
def test_guesses_on_lines_of_their_own_earn_nothing(text):
    assert not any(is_correct(text, gold, marked_only=True) for gold in ("17", "18", "19"))


def test_what_ends_a_stated_answer_is_no_part_of_it_and_nothing_else_is_cut():
    assert is_correct("The answer is **5**.", "5") and is_correct("The answer is 5. So 3 are left.", "5")
    assert not is_correct("The answer is 5**2.", "5")
    assert is_correct("#### 17\n#### Approach 2: the other way", "17", marked_only=True)


@pytest.mark.parametrize(
    ("text", "gold"),
    [
        ("The answer is $\\$18$. He paid $\\$5$.", "18"),
        ("The answer is: $17\n(12 + 5 = $17)", "17"),
        ("\\boxed{17}. As asked, I use the \\boxed{\\square} format", "17"),
        ("\\boxed{17}, not \\boxed{\\phantom{0}}", "17"),
        ("The answer is option B.", "B"),
        ("The answer is $2$ and $3$.", "2,3"),
        ("The answer is $2$, $3$.", "2,3"),
        ("#### Calculate 3 × 4\nHe has 12 and 5 more.\n\nThe answer is 17.", "17"),
        ("#### Using $x = 3$\nHe has 12 and 5 more.\n\nThe answer is 17.", "17"),
        ("#### **Answer:** 17", "17"),
        ("The answer is $\\begin{pmatrix} 1 \\\\\n 2 \\end{pmatrix}$.", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}"),
        ("The answer is $17$ million.", "17000000"),
        ("The answer is **17** apples.", "17"),
        ("The answer is 17, because 12 + 5 = 17.", "17"),
        ("The answer is 17, since she has 12 + 5.", "17"),
        ("The answer is $17$, and we are done.", "17"),
        ("The answers are $3$ and $-3$.", "3,-3"),
        ("So, the answer must be 17.", "17"),
        ("The answer is A, B.", "A,B"),
        ("The answer is A) 17", "A"),
        ("#### Week 2\n12 + 5 = 17\nThe answer is 17.", "17"),
        ("#### Round 1\n12 + 5 = 17\n#### 17", "17"),
        ("#### Total cost of 3 apples\nThe answer is 17.", "17"),
        ("#### 12 + 5\nThe answer is 17.", "17"),
        ("#### 17\n#### <answer>", "17"),
        ("Put it in \\boxed{number}. \\boxed{17}", "17"),
    ],
)
def test_what_is_around_an_answer_is_no_part_of_it(text, gold):
    assert is_correct(text, gold, marked_only=True)


@pytest.mark.parametrize(
    ("text", "gold"),
    [
        ("The answer is $17$ million.", "17"),
        ("#### 12 , 7 . 7 , 12", "12 , 7"),
        ("#### Week 2\n12 + 5 = 17\nThe answer is 17.", "2"),
        ("#### Total cost of 3 apples\nIt is 17", "3"),
        ("The answer is A, B.", "A"),
        ("The answer is anything but 17.", "17"),
        ("The answer is the square of 17.", "17"),
        ("#### far from 17", "17"),
    ],
)
def test_the_first_part_of_an_answer_is_not_the_answer(text, gold):
    assert not is_correct(text, gold, marked_only=True)


# What models write around and behind an answer.
WRITTEN_RIGHT = [
    ("#### Janet makes 18 dollars every day at the farmers' market.", "18"),
    ("#### She makes $18 every day at the farmers' market.", "18"),
    ("**Answer:** Janet makes $18 every day at the farmers' market.", "18"),
    ("\\boxed{18\\text{ dollars at the farmers' market}}", "18"),
    ("#### Janet's earnings: $18", "18"),
    ("#### 18 of Tom's apples", "18"),
    ("#### 18 people didn't vote", "18"),
    ("\\boxed{9 \\times \\$2 = \\$18}", "18"),
    ("The answer is $9 \\times 2 = \\$18$.", "18"),
    ("\\boxed{\\$10 - \\$3 = \\$7}", "7"),
    ("\\boxed{\\text{Cost} = 1 + 2 = 3\\text{ dollars}}", "3"),
    ("\\boxed{\\text{Cost} = \\$1 + \\$2 = \\$3}", "3"),
    ("\\boxed{3\\text{ apples} + 4\\text{ apples} = 7\\text{ apples}}", "7"),
    ("The answer is 9 eggs * 2 dollars = 18 dollars.", "18"),
    ("#### Final Answer\n\n18", "18"),
    ("#### Final Answer\n**18**", "18"),
    ("#### Answer\n18", "18"),
    ("The answer is *18*.", "18"),
    ("**Answer**: *3*", "3"),
    ("#### 18<end_of_turn>", "18"),
    ("#### 18<end_of_turn>\n<start_of_turn>user\n#### 20", "18"),
    ("#### 18 boys and girls", "18"),
    ("#### 18 more cards than Bob", "18"),
    ("#### 18 hours on Monday", "18"),
    ("\\boxed{18\\text{ days in May}}", "18"),
    ("#### 18 points per quarter", "18"),
    ("Answer: 18 (since 9 x 2 = 18)", "18"),
    ("#### 18 (9 * 2)", "18"),
    ("#### 3, since 1+2=3", "3"),
    ("#### 3 = 1 + 2", "3"),
    ("\\boxed{18} million", "18000000"),
    ("\\boxed{5} dozen", "60"),
    ("#### 18 ✅", "18"),
    ("\\boxed{3 \\checkmark}", "3"),
    ("$\\boxed{D.}$", "\\text{(D)}"),
    ("$\\boxed{\\text{Option B}}$", "\\text{B}"),
    ("$\\boxed{C \\text{ and } E}$", "\\text{C,E}"),
    ("$\\boxed{\\text{June } 20}$", "\\text{June 20}"),
    ("\\boxed{7_{10}}", "7"),
]
WRITTEN_WRONG = [
    ("#### x=1 y=2 z=3", "3"),
    ("The answer is Tom=2 Ann=3", "3"),
    ("\\boxed{18} \\text{ or } 19", "18"),
    ("\\boxed{18}, 19, 20", "18"),
    ("\\boxed{18} million", "18"),
    ("\\boxed{18 \\text{ tens}}", "18"),
    ("\\boxed{\\text{Total} = 17 = 18}", "18"),
    ("\\boxed{10^{10^{10}}}", "18"),
    ("\\boxed{100000!}", "18"),
    ("#### 17 (18)", "17"),
    ("#### 17 (or 18)", "17"),
    ("#### 17 apples and 18 pears", "17"),
    ("#### 3 = 4 - 1", "4"),
    ("#### 5 = 6", "5"),
    ("#### 5 = 6", "6"),
]


@pytest.mark.parametrize(("text", "gold"), WRITTEN_RIGHT)
def test_an_answer_in_a_sentence_or_with_its_working_is_read(text, gold):
    assert is_correct(text, gold, marked_only=True)


@pytest.mark.parametrize(("text", "gold"), WRITTEN_WRONG)
def test_an_answer_beside_another_one_is_none(text, gold):
    assert not is_correct(text, gold, marked_only=True)


def test_a_case_is_no_answer():
    assert not is_correct("#### Case $n=1$", "1") and is_correct("#### $n=1$", "1")


def test_guesses_between_bars_earn_nothing():
    for guesses in ("17|18|19", "17 | 18", "17|18"):
        for form in FORMS:
            assert not any(
                is_correct(form.format(guesses), gold, marked_only=form != "{}") for gold in ("17", "18", "19")
            )


def test_after_hashes_a_sum_has_no_value_until_it_is_worked_out():
    assert not any(is_correct("#### 12 + 5", gold, marked_only=True) for gold in ("17", "12", "5"))
    assert is_correct("#### 12 + 5 = 17 .", "17", marked_only=True)
    assert not is_correct("#### 12 + 5 = 17 .", "12", marked_only=True)


# --- Answers of several whole numbers: those of the nano scale ---


def test_a_pair_is_graded_in_order_without_the_parser(monkeypatch):
    monkeypatch.setattr(math_worker, "verify", None)
    for right in ("12 , 7", "12, 7", "12,7", "(12, 7)", "12 , 7 ."):
        assert is_correct(f"so .\n#### {right}", "12 , 7", marked_only=True) and is_correct(right, "12 , 7")
        assert is_correct(f"#### {right}", "12, 7", marked_only=True)
    for wrong in (
        "7 , 12",
        "12",
        "7",
        "12 7",
        "12 , 7 , 3",
        "12 , 8",
        "12 or 7",
        "12 , 7 or 7 , 12",
        "12 ,",
        ", 7",
        "127",
        "12.7",
    ):
        assert not is_correct(f"so .\n#### {wrong}", "12 , 7", marked_only=True), wrong
        assert not is_correct(wrong, "12 , 7"), wrong
    assert is_correct("#### -3 , 0", "-3 , 0") and not is_correct("#### 3 , 0", "-3 , 0")


def test_what_stands_before_a_bracket_or_a_logarithm_is_read_with_it():
    assert is_correct(r"\boxed{\sec^2(y)}", r"\tan^2(y)+1") and is_correct(r"\boxed{2(1/3)}", "2/3")
    assert is_correct(r"\boxed{\log_2 8}", "3") and not is_correct(r"\boxed{\log_2 8}", "8")
    assert not is_correct(r"\boxed{2 8}", "8")


def test_the_order_of_a_list_in_a_box_does_not_matter():
    assert is_correct(r"\boxed{-2,1}", "1,-2") and not is_correct(r"\boxed{-2,1,3}", "1,-2")


# --- Linear on any input ---

PUMPS = (
    [" ", "1", "a", "-", ",", "1,", "1 ", "a ", "{", "\\text{", "\\boxed{", "}", "#", "#### ", "#### 1\n"]
    + ["\n", "$", "(", "answer ", "A: ", "1/", ".", "1.", "1_", "and ", "q:\n", "^", "½", "sqrt(", ".5", "\\frac{1}"]
)  # fmt: skip
WORST = [
    (a, pump, z) for a, z in (("", "!"), ("#### -", "x"), ("\\boxed{1", "}"), ("answer is ", ";")) for pump in PUMPS
]


def grows_linearly(work, prefix: str, pump: str, suffix: str, size: int) -> bool:
    """Whether a text ten times as long takes at most twelve times the CPU time.

    It is the least time of each that counts, and both are measured again, after a while, as long as the long one looks
    too slow: load from elsewhere passes, a square does not.
    """
    texts = [prefix + pump * (n // len(pump)) + suffix for n in (size, 10 * size)]
    least = [float("inf")] * 2
    for attempt in range(25):
        for i in (1, 0):
            started = time.process_time()
            work(texts[i])
            least[i] = min(least[i], time.process_time() - started)
            if least[1] < 5e-3:
                return True  # 0.2 microseconds a character: a square of 25,000 would take seconds
        if least[1] <= 12 * least[0]:
            return True
        if attempt > 4 and least[1] > 60 * least[0]:
            return False
        time.sleep(attempt / 100)
    return False


@pytest.mark.parametrize(
    "module", [answers, kinds, numerals, spelling, working, grade_module], ids=lambda module: module.__name__
)
def test_every_pattern_is_linear(module):
    source = Path(module.__file__).read_text(encoding="utf-8")
    patterns = {name: value for name, value in vars(module).items() if isinstance(value, re.Pattern)}
    assert len(patterns) >= 5
    for name, pattern in patterns.items():
        searched = re.search(rf"\b{name}\.(?:search|sub|finditer|findall|split)\b", source)
        work = (lambda text, p=pattern: deque(p.finditer(text), maxlen=0)) if searched else pattern.match
        for worst in WORST:
            assert grows_linearly(work, *worst, size=500), (name, worst)


def test_a_quadratic_pattern_is_found_out():
    assert not grows_linearly(re.compile(r"\s+x").search, "", " ", "!", size=500)


def test_grading_is_linear_and_reads_no_more_than_its_bound(monkeypatch):
    monkeypatch.setattr(math_worker, "verify", lambda *pair: False)
    for worst in WORST:
        assert grows_linearly(lambda text: is_correct(text, "5"), *worst, size=LONGEST_ANSWER // 10), worst
        assert grows_linearly(lambda text: is_correct(text, "x^5"), *worst, size=LONGEST_READ // 20), worst
    started = time.process_time()
    assert not is_correct("#### 5" + " x" * 10**6, "5", marked_only=True)
    for spaces in (100, 140, 40_000):  # 10 seconds, over two minutes and over one in the grader's first form
        assert not is_correct("-" + " " * spaces + "1" + " " * spaces + "!", "5", marked_only=True)
        assert not is_correct("#### -" + " " * spaces + "x", "5", marked_only=True)
    assert time.process_time() - started < 1


# --- Agreement with labels, all rows ---


def disagreements(pairs: list[tuple[str, str]], labels: list[bool]) -> list[tuple[str, str]]:
    grades = grade_batch(*map(list, zip(*pairs, strict=True)))
    return [pair for pair, grade, label in zip(pairs, grades, labels, strict=True) if grade != label]


@pytest.mark.parametrize(
    ("file", "field", "allowed"),
    [
        ("gsm8k_model_solutions/openai_example_model_solutions", "solution", 0),
        (
            "gsm8k_model_solutions/mathcoder_l",
            "prediction",
            1,
        ),  # "50.0{milesperhour}" for 50 is labelled false
        ("gsm8k_model_solutions/mr_gsm8k_original", "solution", 0),
        ("math_model_solutions/qwen_math_cot_100", "solution", 0),
        # "1320 km" for 1320 is labelled false, likewise an equation and three texts without a final box.
        ("math_model_solutions/nemo_skills_math_train50", "solution", 5),
    ],
)
def test_agreement_with_labels(shared, file, field, allowed):
    data = rows(shared / f"data/{file}.jsonl.gz")
    wrong = disagreements([(row[field], row["gold"]) for row in data], [row["is_correct"] for row in data])
    print(f"{file}: {len(data) - len(wrong)} of {len(data)} labels")
    assert len(wrong) <= allowed, wrong[:5]


def test_tora_scores(shared):
    """No labels of rows, but the source's scores: 84.3 and 80.7 (its grader tolerates small differences)."""
    data = rows(shared / "data/gsm8k_model_solutions/tora_predictions.jsonl.gz")
    for model, score in (("tora-70b-v1.0", 0.843), ("tora-code-34b-v1.0", 0.807)):
        graded = [is_correct(row["prediction"] or "", row["gold"]) for row in data if row["model"] == model]
        assert sum(graded) / len(graded) == pytest.approx(score, abs=0.002)


def test_gold_answers_grade_as_correct(shared):
    for split in ("train", "test"):
        for row in rows(shared / f"data/gsm8k/{split}.jsonl.gz"):
            gold = row["answer"].split("#### ")[1]
            assert extract_answer(row["answer"]) == gold
            assert is_correct(row["answer"], gold, marked_only=True)
    answers = {row["idx"]: row["answer"] for row in rows(shared / "data/math/test_answers.jsonl.gz")}
    for row in rows(shared / "data/math/test.jsonl.gz"):
        gold = answers[row["idx"]]
        assert extract_answer(row["solution"]) == gold.strip()
        assert is_correct(row["solution"], gold, marked_only=True)


FLOORS = {  # rows that agree; missing: option letters in prose, other languages, [brackets], options
    "huggingface/Math-Verify:tests/test_all.py": 95,
    "huggingface/Math-Verify:tests/test_open_thoughts.py": 15,
    "huggingface/Math-Verify:tests/test_numina_cases.py": 9,
    "huggingface/Math-Verify:tests/test_yujianll.py": 6,
    "huggingface/Math-Verify:tests/test_boxed.py": 3,
    "huggingface/lighteval:tests/unit/metrics/test_extractive_match.py": 103,
    "hendrycks/math:modeling/math_equivalence_test.py": 10,
    "Kipok/NeMo-Skills:tests/test_is_output_correct.py": 13,
    "NVIDIA-NeMo/Skills:tests/test_math_equal.py": 14,
    "areal-project/AReaL:tests/test_math_verify_reward.py": 31,
    "PrimeIntellect-ai/verifiers:tests/test_math_rubric.py": 2,
    "rllm-org/rllm:tests/rewards/test_math_reward.py": 3,
    "NVIDIA-NeMo/RL:tests/unit/environments/test_math_environment.py": 3,
    "EleutherAI/lm-evaluation-harness:tests/test_hendrycks_math.py": 6,
}


def test_cases_of_other_projects(shared):
    cases = rows(shared / "data/grading_cases/cases.jsonl")
    short = []
    for source, floor in FLOORS.items():
        ours = [case for case in cases if case["source"] == source]
        agree = sum(is_correct(c["prediction"] or "", c["gold"] or "") == c["equal"] for c in ours)
        print(f"{agree:4d} of {len(ours):3d}  {source}")
        if agree < floor:
            short.append((source, agree, floor))
    assert not short
    assert {case["source"] for case in cases} == set(FLOORS)


# --- Texts made to break it ---

HOSTILE = [
    "9^9^9^9",
    r"\boxed{9^{9^{9^{9}}}}",
    "\\boxed{" + "\\frac{1}{1+" * 2000 + "x" + "}" * 2000 + "}",
    "\\boxed{" + "(" * 1500 + "1" + ")" * 1500 + "}",
    "\\boxed{" * 100_000,
    "{" * 500_000 + "}" * 500_000,
    "\\boxed{1\x002}",
    "\x00",
    "\\boxed{\ud800}",  # half a surrogate pair
    "1" * 1_000_000,
    "#### " * 200_000,
    "answer: " * 125_000,
    "\\boxed{3}" + "\n" * 1_000_000,
    "\\boxed{3} and " * 70_000,
    "x " * 500_000,
    "",
]


def test_hostile_texts_neither_hang_nor_kill():
    started = time.process_time()
    assert grade_batch(HOSTILE, ["5"] * len(HOSTILE), time_limit=0.3) == [False] * len(HOSTILE)
    assert grade_batch(["x^2+1"] * 3, ["", "\x00", "\\boxed{" * 9_999], time_limit=0.5) == [False] * 3
    assert time.process_time() - started < 20  # of this process: the worker's share is limited by its limit
    assert is_correct("1 + x^2", "x^2 + 1")


def test_the_time_limit_kills_and_the_next_grade_works():
    assert is_correct("a+b", "b+a")
    first = math_worker._worker.process
    assert not is_correct(r"\boxed{9^{9^{9^{9}}}}", "x^2", time_limit=0.2)
    assert first.poll() == -signal.SIGPROF or first.poll() == -signal.SIGKILL
    assert is_correct("a+c", "c+a")
    assert math_worker._worker.process.pid != first.pid


def test_a_worker_that_dies_is_replaced():
    assert is_correct("a+d", "d+a")
    math_worker._worker.process.kill()
    math_worker._worker.process.wait()
    assert is_correct("a+e", "e+a")


def test_any_thread_may_grade():
    grades = {}

    def grade(i: int) -> None:
        grades[i] = is_correct(f"{i}x+y", f"y+{i}x") and not is_correct(f"{i}x+y", f"{i}x-y")

    threads = [threading.Thread(target=grade, args=(i,)) for i in range(2, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert grades == dict.fromkeys(range(2, 8), True)


def test_daemonic_processes_may_grade():
    """One that is forked (it inherits a running worker and must not share it) and one that is spawned."""
    assert is_correct("a+f", "f+a")
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            assert pool.starmap(is_correct, [("u+v", "v+u"), ("u+v", "u-v")]) == [True, False]
    assert is_correct("a+g", "g+a")


@pytest.mark.parametrize("end", ["normal", "killed"])
def test_nothing_is_left_behind(end):
    code = (
        "import sys; from excursions.grading import grade, math_worker\n"
        "assert grade.is_correct('a+b', 'b+a')\n"
        "print(math_worker._worker.process.pid, flush=True)\n" + ("" if end == "normal" else "sys.stdin.read()")
    )
    caller = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    worker = int(caller.stdout.readline())
    if end == "killed":
        caller.kill()
    assert caller.wait(timeout=60) == (0 if end == "normal" else -signal.SIGKILL)
    caller.stdin.close()
    caller.stdout.close()
    for _ in range(300):
        state = Path(f"/proc/{worker}/stat")
        if not state.exists() or state.read_text().rsplit(")")[1].split()[0] == "Z":  # gone, or only to be reaped
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    raise AssertionError("the worker outlived its caller")


def test_missing_math_verify_is_said(monkeypatch, tmp_path):
    (tmp_path / "math_verify.py").write_text("raise ImportError('No module named math_verify')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    math_worker._stop_worker()
    with pytest.raises(UserError, match=r"No module named math_verify.*pip install"):
        is_correct("a+h", "h+a")


# --- Files ---


def test_grade_jsonl(tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text(
        '{"prediction": "#### 18", "gold": "18"}\n{"prediction": 18, "gold": 18.0, "id": 1}\n'
        '{"prediction": null, "gold": "18"}\n{"prediction": "x", "gold": "\\\\boxed{x}"}\n'
    )
    assert grade_jsonl(file) == [True, True, False, True]
    file.write_text("")
    assert grade_jsonl(file) == []


@pytest.mark.parametrize(
    "line",
    ["{", "[1]", '{"prediction": "1"}', '{"prediction": ["1"], "gold": "1"}', "", "\xff", "[" * 100_000]
    + ['{"prediction": NaN, "gold": NaN}'],
)
def test_grade_jsonl_names_the_bad_line(tmp_path, line):
    file = tmp_path / "pairs.jsonl"
    good = '{"prediction": "1", "gold": "1"}\n'
    file.write_bytes((good + line + "\n" + good).encode("latin-1"))
    with pytest.raises(UserError, match=r"pairs\.jsonl, line 2: .*accepted"):
        grade_jsonl(file)


def test_grade_jsonl_without_a_file(tmp_path):
    with pytest.raises(UserError, match="missing.jsonl: No such file"):
        grade_jsonl(tmp_path / "missing.jsonl")


@pytest.mark.parametrize("gold", ["x^2", r"\frac{\pi}{2}", "7"])
@pytest.mark.parametrize("power", ["99^2500", "15^4000", "2^{13999}", "99^{-2500}"])
def test_a_power_with_thousands_of_digits_is_graded_and_breaks_nothing(power, gold):
    assert not is_correct(rf"so it is \boxed{{{power}}}", gold, marked_only=True)
