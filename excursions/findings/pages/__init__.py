"""The look of the site: one layout, one style sheet, and a template for each kind of page, beside this file.

A page needs no network and no server. Its links are relative, so that it works from a checkout and from GitHub Pages.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from excursions.files import whole_file
from excursions.findings import checks, claims
from excursions.findings.claims import Claim

FOLDER = Path(__file__).parent
PAGES = ("checkpoints", *claims.FIGURES, "phase_map", "combination", "claims", "explorer", "samples")
UNDERIVED = re.compile(r"at (\w+) \d+% of what \w+ gets right is not derived")
MARKS = {"supported": "✓", "not supported": "✗", "inconclusive": "?", "not measured": "–"}


def write_page(template: str, file: Path, **values: object) -> None:
    """Renders one of the templates and writes it whole; `values` are escaped unless they are Markup."""
    with whole_file(file) as temporary:
        temporary.write_text(_environment().get_template(template).render(page=file.stem, **values), encoding="utf-8")


def title(name: str) -> str:
    """The name of a page as a reader reads it: early_rl -> Early RL."""
    return re.sub(r"\bRl\b", "RL", name.replace("_", " ").capitalize().replace(" rl", " RL"))


def effect(claim: Claim, what: str = "") -> str:
    """An effect with its interval in words, for example "+3.2 points [1.0, 5.4]"; empty where nothing was measured.

    what: "published_" for the paper's own numbers.
    """
    value, low, high = (getattr(claim, f"{what}{key}") for key in ("effect", "ci_low", "ci_high"))
    if value is None:
        return ""
    interval = "" if low is None else f" [{low:z.1f}, {high:z.1f}]"
    return f"{value:+z.1f} points{interval}"


def answer(found: list[Claim]) -> list[str]:
    """What came out for the claims of one result, in two sentences: its first claim, and the count of verdicts. The
    claims are ours, in the paper's sense, so they stand without quotation marks."""
    first = found[0]
    decided = f"; {checks.conclude(first.contrasts)[1].formula} decides" if len(first.contrasts) > 1 else ""
    at = dict.fromkeys(UNDERIVED.findall(first.note))
    doubts = f"; at {', '.join(at)} most right answers are not derived" if at else ""
    measured = f" ({effect(first)}, 95% interval{decided}{doubts})" if effect(first) else ""
    counts = {verdict: sum(claim.verdict == verdict for claim in found) for verdict in MARKS}
    counted = ", ".join(f"{number} {verdict}" for verdict, number in counts.items() if number)
    said = [f"Claim: {first.claim.rstrip('.')}. It is {first.verdict} here{measured}."]
    return [*said, f"The {len(found)} claims of this result: {counted}."] if len(found) > 1 else said


def claims_of(root: Path, scale: str, name: str) -> list[Claim]:
    """The claims that the notebook of a page has written; none if it has not, or has none."""
    return claims.load_claims_of(root, scale, name) if claims.claims_file(root, scale, name).is_file() else []


def by_result(root: Path, scale: str) -> dict[str, list[Claim]]:
    """The claims of each page that has any, in the order of the pages."""
    return {name: found for name in PAGES if (found := claims_of(root, scale, name))}


@functools.cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"title_of": title, "effect": effect, "answer": answer}
    made.globals |= {
        "PAGES": PAGES,
        "MARKS": MARKS,
        "REACH": claims.REACH,
        "file": lambda name: Markup((FOLDER / name).read_text("utf-8")),
    }
    return made
