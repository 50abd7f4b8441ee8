"""The claims, evaluated: each sentence of the paper with its effect, interval, p-value and verdict, here and there.

The sentences and their rules are in sentences.py. A notebook evaluates the claims of its figure and keeps them in
claims/<scale>/<figure>.json; CLAIMS.md and `excursions claims` read those.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import TypeAdapter

from excursions import keys
from excursions.files import write_json
from excursions.findings import checks, measures, published, statistics
from excursions.findings.checks import Check, Contrast, NotMeasurable
from excursions.findings.sentences import CHECKS
from excursions.params import UserError
from excursions.results.tables import Tables

FIGURES = tuple(dict.fromkeys(check.figure for check in CHECKS))
VERDICTS = ("supported", "not supported", "inconclusive", "not measured")
REACH = 35.0  # points on either side of 0 that a forest plot shows
ROW_KEYS = ("id", "claim", "source", "figure", "n_seeds", "effect", "ci_low", "ci_high", "verdict", "p", "p_holm")


@dataclass(frozen=True)
class Claim:
    """One evaluated claim. Effects are in percentage points, None where there is nothing to measure them on."""

    id: str
    claim: str
    source: str
    figure: str
    n_seeds: int  # of the trained recipe with the fewest
    effect: float | None  # of the contrast that decides
    ci_low: float | None
    ci_high: float | None
    verdict: str  # one of VERDICTS
    p: float | None  # of the hypothesis that the effect lies on the margin
    measure: str  # what the effect is, and on which checkpoints
    rule: str
    tables: str  # which rows of the tables it was measured on
    note: str
    contrasts: tuple[Contrast, ...]
    published_effect: float | None
    published_ci_low: float | None
    published_ci_high: float | None
    published_verdict: str
    published_note: str
    published_contrasts: tuple[Contrast, ...]
    p_holm: float | None = None  # adjusted for all measured claims of the scale; known where all of them are

    @property
    def region(self) -> tuple[float, float] | None:
        """Where the claim holds, from .. to, by the contrast that decides; None where nothing can be measured."""
        contrasts = self.contrasts or self.published_contrasts
        if not contrasts:
            return None
        _, deciding, _ = checks.conclude(contrasts)
        return checks.region(deciding.above, deciding.below)

    def row(self) -> dict[str, object]:
        """The keys of the contract and the two p-values, as `excursions claims --json` prints them."""
        return {key: getattr(self, key) for key in ROW_KEYS}


CLAIMS = TypeAdapter(list[Claim])


def evaluate_claims(tables: Tables, figure: str | None = None) -> list[Claim]:
    """All claims, or those of one figure, checked on the tables of one scale and on the published numbers.

    tables: from `results.load_tables`. Where data is missing, the claim is not measured and its note says why.
    """
    if figure is not None and figure not in FIGURES:
        raise UserError(f"There are no claims of a figure '{figure}'; accepted: {', '.join(FIGURES)}.")
    found = [_evaluate(check, tables) for check in CHECKS if figure in (None, check.figure)]
    return found if figure else _adjusted(found)


def claims_table(claims: list[Claim]) -> pd.DataFrame:
    """For a notebook: columns claim, measured, p, verdict, published, published verdict; effects as text."""
    rows = [
        {
            "claim": claim.claim,
            "measured": shown(claim.effect, claim.ci_low, claim.ci_high),
            "p": shown_p(claim.p),
            "verdict": claim.verdict,
            "published": shown(claim.published_effect, claim.published_ci_low, claim.published_ci_high),
            "published verdict": claim.published_verdict,
        }
        for claim in claims
    ]
    return pd.DataFrame(rows, index=pd.Index([claim.id for claim in claims], name="id"))


def print_claims(claims: list[Claim]) -> None:
    """Prints claims for a terminal: verdict, effect, statement."""
    for claim in claims:
        effect = shown(claim.effect, claim.ci_low, claim.ci_high)
        print(f"{claim.verdict:<14} {effect:<22} {claim.claim} ({claim.id}, {claim.note})")


def claims_file(root: Path | str, scale: str, figure: str) -> Path:
    """Where the evaluated claims of a figure are kept: claims/<scale>/<figure>.json."""
    return Path(root) / "claims" / scale / f"{figure}.json"


def write_claims(root: Path | str, scale: str, figure: str, claims: list[Claim]) -> None:
    """Writes the claims of one figure, a JSON list of all fields of `Claim`."""
    write_json(claims_file(root, scale, figure), [dataclasses.asdict(claim) for claim in claims])


def load_claims(root: Path | str, scale: str) -> list[Claim]:
    """All claims of a scale as the notebooks wrote them, in the order of the paper, with Holm's p-values."""
    found = [claim for figure in FIGURES for claim in load_claims_of(root, scale, figure)]
    order = {check.id: number for number, check in enumerate(CHECKS)}
    if {*order} != {claim.id for claim in found} or len(order) != len(found):
        odd = keys.listed(sorted({*order} ^ {claim.id for claim in found}) or ["one is there twice"])
        raise UserError(
            f"the files of {claims_file(root, scale, FIGURES[0]).parent} do not hold the claims of this code, each "
            f"once: {odd}. Make each with `excursions notebook NAME --scale {scale}`, or all with "
            f"`dvc repro`."
        )
    return _adjusted(sorted(found, key=lambda claim: order[claim.id]))


def load_claims_of(root: Path | str, scale: str, figure: str) -> list[Claim]:
    """The claims that the notebook of one figure wrote. Raises UserError where there are none."""
    file = claims_file(root, scale, figure)
    again = f"excursions notebook {figure} --scale {scale}"
    remedy = f"Bring it back with `git checkout -- {file}`, or make it with `{again}`."
    try:
        return CLAIMS.validate_json(file.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{file} does not exist. {remedy}") from None
    except ValueError as error:
        raise UserError(f"{file} is not a list of claims ({' '.join(str(error).split())[:300]}). {remedy}") from None


def shown(effect: float | None, low: float | None, high: float | None) -> str:
    """An effect with its interval as text."""
    if effect is None or low is None or high is None:
        return "none"
    return f"{effect:+z.1f} [{low:+z.1f}, {high:+z.1f}]"  # z: never "-0.0"


def shown_p(p: float | None) -> str:
    """A p-value as text."""
    if p is None:
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def _adjusted(claims: list[Claim]) -> list[Claim]:
    measured = {claim.id: claim.p for claim in claims if claim.p is not None}
    adjusted = dict(zip(measured, statistics.holm(list(measured.values())), strict=True))
    return [dataclasses.replace(claim, p_holm=adjusted.get(claim.id)) for claim in claims]


def _evaluate(check: Check, tables: Tables) -> Claim:
    ours = _attempt(lambda: (check.measured or measures.contrasts)(check, tables))
    theirs = _published(check)
    return Claim(
        **{key: getattr(check, key) for key in ("id", "claim", "source", "figure", "measure", "rule")},
        **ours,
        tables=_tables(check),
        **{f"published_{key}": value for key, value in theirs.items() if key not in ("n_seeds", "p")},
    )


@functools.cache  # the paper's numbers do not change
def _published(check: Check) -> dict[str, Any]:
    return _attempt(lambda: (check.published or published.contrasts)(check))


def _tables(check: Check) -> str:
    arms = sorted({arm for formula in check.contrasts for arm in checks.parse(formula)[1]})
    table = "general" if check.benchmark == "general" else "outcomes"
    benchmark = "easy and hard" if check.measured is measures.rollouts_on_hard else check.benchmark
    return f"{table}, {benchmark}: {', '.join(f'{suite}/*/{recipe}' for suite, recipe in arms)}"


def _attempt(measure: Callable[[], list[Contrast]]) -> dict[str, Any]:
    """The fields of a claim that come from measuring, without an effect when there is no data for it."""
    try:
        found = measure()
    except NotMeasurable as reason:
        fields = dict.fromkeys(("effect", "ci_low", "ci_high", "p")) | {"verdict": "not measured", "contrasts": ()}
        return fields | {"n_seeds": reason.n_seeds, "note": f"not measured: {reason}"}
    verdict, deciding, p = checks.conclude(found)
    return {
        "effect": deciding.effect,
        "ci_low": deciding.low,
        "ci_high": deciding.high,
        "p": p,
        "verdict": verdict,
        "contrasts": tuple(found),
        "n_seeds": min(one.n_seeds for one in found),
        "note": "; ".join(dict.fromkeys(part for one in found for part in one.note.split("; "))),
    }
