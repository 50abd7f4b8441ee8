"""What the paper claims, one check for each sentence, with the rule of its verdict beside it.

The rules were written before any result of this project existed; the paper's curves were known. The sentences
are ours and restate the project's blog (rl-excursions.github.io, June 2026) and the abstract of arXiv
2606.04272; `source` counts the blog's results and figures. How an effect is measured is in checks.py.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from excursions.files import whole_file, write_json
from excursions.findings import checks
from excursions.findings.checks import Check, Measurement, NotMeasurable
from excursions.params import UserError
from excursions.results.tables import Tables

# Margins in points are our choice, the paper gives none.
ON_PAR = 5.0  # the low end of the gains it calls consistent on MATH
UNCHANGED = 2.0  # half of the smallest loss it calls a degradation

# fmt: off
CHECKS = (
    # ---- Result 1
    Check("rl-effective-early", "early_rl", "Result 1; Figures 1, 2",
          "Direct RL already lifts pass@1 when only a few percent of pretraining are done.",
          ["pass@1 of rl - base"], "easy", "early", above=0),
    Check("rl-before-chinchilla", "early_rl", "Summary; Result 1",
          "Models learn from their own samples before having seen the Chinchilla-optimal number of tokens.",
          ["pass@1 of rl - base"], "easy", "under-trained", above=0),
    Check("rl-matches-sft-rl", "early_rl", "Result 1; Figure 2",
          "With enough pretraining, direct RL is on par with SFT followed by RL on easy problems.",
          ["pass@1 of rl - sft_rl"], "easy", "last", above=-ON_PAR),
    Check("rl-matches-sft-rl-early", "early_rl", "Abstract; Result 1",
          "Direct RL is on par with SFT followed by RL as soon as a fifth of pretraining is done.",
          ["pass@1 of rl - sft_rl"], "easy", "turn", above=-ON_PAR),
    Check("rl-gains-on-hard", "early_rl", "Result 1, MATH",
          "On hard problems, too, direct RL improves on the base checkpoints.",
          ["pass@8 of rl - base"], "hard", "all", above=0),
    Check("rl-below-sft-rl-on-hard", "early_rl", "Result 1, MATH",
          "On hard problems direct RL does not catch up with SFT followed by RL.",
          ["pass@1 of rl - sft_rl"], "hard", "last", below=0),
    Check("seeds-matter-early", "early_rl", "Result 1, caveat",
          "At early checkpoints the outcome of direct RL hangs on the seed: some runs learn, others hardly.",
          ["pass@1 of rl"], "easy", "early", above=ON_PAR,
          effect="best minus worst seed in pass@1 of rl, named on other questions than compared",
          measured=checks.measure_seed_spread, published=checks.published_seed_spread),
    Check("seeds-agree-later", "early_rl", "Result 1, caveat",
          "After about a fifth of pretraining the outcome of direct RL no longer hangs on the seed.",
          ["pass@1 of rl"], "easy", "turn", below=ON_PAR,
          effect="best minus worst seed in pass@1 of rl, named on other questions than compared",
          measured=checks.measure_seed_spread, published=checks.published_seed_spread),
    Check("data-over-size", "early_rl", "Result 1, MATH",
          "More math in pretraining lets RL gain more on hard problems than a four times larger model does.",
          ["pass@1 of rl - base"], "hard", "shared", above=0,
          effect="pass@1 of rl - base in suite math_heavy, minus the same in suite larger",
          measured=checks.measure_suites, published=checks.published_suites),
    # ---- Result 2
    Check("rl-beats-sft-pass1", "scarce_demonstrations", "Results 1, 2",
          "Where SFT has one solution per question to learn from, direct RL ends clearly above it in pass@1.",
          ["pass@1 of rl - sft"], "easy", "later", above=0),
    Check("rl-competitive-pass32", "scarce_demonstrations", "Result 2",
          "In pass@32 direct RL keeps up with SFT on one solution per question.",
          ["pass@32 of rl - sft"], "easy", "later", above=-ON_PAR),
    Check("sft-gold-beats-rl-pass32", "scarce_demonstrations", "Result 2; Figure 3",
          "SFT on all solutions of every question overtakes direct RL in pass@32.",
          ["pass@32 of sft_gold - rl"], "easy", "later", above=0),
    Check("sft-gold-rl-best-pass1", "scarce_demonstrations", "Result 2",
          "SFT on all solutions followed by RL reaches the highest pass@1 of the recipes compared.",
          [f"pass@1 of sft_gold_rl - {other}" for other in ("rl", "sft", "sft_gold", "sft_rl")],
          "easy", "last", above=0),
    # ---- Result 3
    Check("sft-rl-raises-pass1", "sharpening_or_expansion", "Result 3; Figure 4",
          "RL after SFT raises pass@1.",
          ["pass@1 of sft_rl - sft"], "easy", "all", above=0),
    Check("sft-rl-lowers-pass32", "sharpening_or_expansion", "Result 3; Figure 4",
          "RL after SFT lowers pass@32: it sharpens what SFT has taught.",
          ["pass@32 of sft_rl - sft"], "easy", "all", below=0),
    Check("rl-expands", "sharpening_or_expansion", "Result 3; Figures 1, 4",
          "Direct RL raises pass@1 and pass@32 together: it expands what the model can solve.",
          ["pass@1 of rl - base", "pass@32 of rl - base"], "easy", "all", above=0),
    Check("sharpening-comes-from-sft", "sharpening_or_expansion", "Result 3",
          "Sharpening belongs to the pipeline: pass@32 fares better under direct RL than under RL after SFT.",
          ["pass@32 of rl - base - sft_rl + sft"], "easy", "all", above=0),
    # ---- Result 4
    Check("rl-keeps-general", "general_capabilities", "Result 4; Figure 5",
          "Direct RL leaves the general benchmarks where they were.",
          ["accuracy of rl - base"], "general", "all", above=-UNCHANGED, below=UNCHANGED),
    Check("sft-loses-general", "general_capabilities", "Result 4; Figure 5",
          "SFT on one solution per question costs general capabilities.",
          ["accuracy of sft - base"], "general", "all", below=-UNCHANGED),
    Check("sft-gold-loses-general", "general_capabilities", "Result 4; Figure 5",
          "SFT on all solutions costs general capabilities as well.",
          ["accuracy of sft_gold - base"], "general", "all", below=-UNCHANGED),
    # ---- Result 5
    Check("parallel-best-pass32", "parallel_averaging", "Result 5; Figure 6",
          "Parallel averaging beats, in pass@32, every recipe that sees at most one solution per question.",
          [f"pass@32 of parallel - {other}" for other in ("rl", "sft", "sft_rl")], "easy", "all", above=0),
    Check("parallel-keeps-general", "parallel_averaging", "Result 5; Figure 6",
          "Parallel averaging keeps general capabilities as well as direct RL does.",
          ["accuracy of parallel - rl"], "general", "all", above=-UNCHANGED),
    Check("parallel-costs-pass1", "parallel_averaging", "Result 5 (the abstract says otherwise)",
          "The price of parallel averaging is a pass@1 below that of direct RL.",
          ["pass@1 of parallel - rl"], "easy", "all", below=0),
)
# fmt: on
FIGURES = tuple(dict.fromkeys(check.figure for check in CHECKS))
ROW_KEYS = ("id", "claim", "source", "figure", "n_seeds", "effect", "ci_low", "ci_high", "verdict")


@dataclass(frozen=True)
class Claim:
    """One evaluated claim. Effects are in percentage points, None where there is nothing to measure them
    on.
    """

    id: str
    claim: str
    source: str
    figure: str
    n_seeds: int  # of the recipe with the fewest
    effect: float | None
    ci_low: float | None
    ci_high: float | None
    verdict: str  # supported | not supported | inconclusive
    measure: str  # what the effect is, and on which checkpoints
    rule: str
    note: str
    published_effect: float | None
    published_ci_low: float | None
    published_ci_high: float | None
    published_verdict: str
    published_note: str

    def row(self) -> dict[str, object]:
        """The nine keys of the contract, as `excursions claims --json` prints them."""
        return {key: getattr(self, key) for key in ROW_KEYS}


def evaluate_claims(tables: Tables, figure: str | None = None) -> list[Claim]:
    """All claims, or those of one figure, checked on the tables of one scale and on the published numbers.

    tables: from `results.load_tables`. Where data is missing, the claim is inconclusive and its note says
    why.
    """
    if figure is not None and figure not in FIGURES:
        raise UserError(f"There are no claims of a figure '{figure}'; accepted: {', '.join(FIGURES)}.")
    return [_evaluate(check, tables) for check in CHECKS if figure in (None, check.figure)]


def claims_table(claims: list[Claim]) -> pd.DataFrame:
    """For a notebook: columns claim, measured, verdict, published, published verdict; effects as text."""
    rows = [
        {
            "claim": claim.claim,
            "measured": _effect(claim.effect, claim.ci_low, claim.ci_high),
            "verdict": claim.verdict,
            "published": _effect(claim.published_effect, claim.published_ci_low, claim.published_ci_high),
            "published verdict": claim.published_verdict,
        }
        for claim in claims
    ]
    return pd.DataFrame(rows, index=pd.Index([claim.id for claim in claims], name="id"))


def print_claims(claims: list[Claim]) -> None:
    """Prints claims for a terminal: verdict, effect, statement."""
    for claim in claims:
        effect = _effect(claim.effect, claim.ci_low, claim.ci_high)
        print(f"{claim.verdict:<14} {effect:<22} {claim.claim} ({claim.id}, {claim.note})")


def claims_file(root: Path | str, scale: str, figure: str) -> Path:
    """Where the evaluated claims of a figure are kept: claims/<scale>/<figure>.json."""
    return Path(root) / "claims" / scale / f"{figure}.json"


def write_claims(root: Path | str, scale: str, figure: str, claims: list[Claim]) -> None:
    """Writes the claims of one figure, a JSON list of all fields of `Claim`."""
    write_json(claims_file(root, scale, figure), [dataclasses.asdict(claim) for claim in claims])


def load_claims(root: Path | str, scale: str) -> list[Claim]:
    """All claims of a scale as the notebooks wrote them, in the order of the paper."""
    found = []
    for figure in FIGURES:
        file = claims_file(root, scale, figure)
        remedy = f"Bring it back with `git checkout -- {file}`, or make it with `dvc repro`."
        try:
            found += [Claim(**row) for row in json.loads(file.read_text(encoding="utf-8"))]
        except FileNotFoundError:
            raise UserError(f"{file} does not exist. {remedy}") from None
        except (ValueError, TypeError) as error:
            raise UserError(f"{file} is not a list of claims ({error}). {remedy}") from None
    return found


def write_claims_markdown(root: Path | str, scales: tuple[str, ...]) -> None:
    """Merges the claims of all scales into CLAIMS.md."""
    text = HEAD + "".join(_section(scale, load_claims(root, scale)) for scale in scales) + _rules()
    with whole_file(Path(root) / "CLAIMS.md") as temporary:
        temporary.write_text(text, encoding="utf-8")


HEAD = f"""# Claims

Generated by the notebook `claims`; edits are lost. Each sentence the paper claims, the effect measured here,
and the same check on the numbers that the paper's figures show.

How to read it
- An effect is in percentage points, its 95% interval in brackets. Ours: bootstrap over questions, paired
  where the same questions are compared, and over seeds where there are several; over items, not paired, on
  the general benchmarks.
- **supported**: the whole interval lies where the claim holds. **not supported**: none of it does.
  **inconclusive**: anything else, or no data (the note says why). The rules, at the end, were written before
  there were any results; the paper's curves were known.
- Seeds: training runs behind the recipe that has the fewest. An interval from one seed holds the draw of the
  questions, not how another run of the same training would come out.
- Published: read from the paper's figures (excursions/findings/reference/README.md has sources and doubts). The paper
  prints no intervals; these are ours, from the number of test questions and the error of reading, each point
  an independent draw. They hold no variation between training runs.
- Margins are our choice, the paper gives none: "on par" allows {ON_PAR:g} points, "unchanged" {UNCHANGED:g}.
- Results and figures are counted as in the project's blog, https://rl-excursions.github.io (June 2026).
"""


def _section(scale: str, claims: list[Claim]) -> str:
    lines = [
        f"\n## Scale `{scale}`\n",
        "| claim | in the paper | measured | seeds | verdict | published | verdict on published | report |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for claim in claims:
        cells = (
            f"{claim.claim} (`{claim.id}`)",
            claim.source,
            _effect(claim.effect, claim.ci_low, claim.ci_high),
            str(claim.n_seeds),
            f"**{claim.verdict}**",
            _effect(claim.published_effect, claim.published_ci_low, claim.published_ci_high),
            claim.published_verdict,
            f"[{claim.figure}](reports/{scale}/{claim.figure}.html)",
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| note on | measured | published |", "|---|---|---|"]
    lines += [f"| `{claim.id}` | {claim.note} | {claim.published_note} |" for claim in claims]
    return "\n".join(lines) + "\n"


def _rules() -> str:
    lines = ["\n## Rules\n", "| claim | effect | holds |", "|---|---|---|"]
    lines += [f"| `{check.id}` | {check.measure} | {check.rule} |" for check in CHECKS]
    return "\n".join(lines) + "\n"


def _effect(effect: float | None, low: float | None, high: float | None) -> str:
    return "none" if effect is None else f"{effect:+.1f} [{low:+.1f}, {high:+.1f}]"


def _evaluate(check: Check, tables: Tables) -> Claim:
    ours, note, n_seeds = _attempt(lambda: (check.measured or checks.measure)(check, tables))
    theirs, published_note, _ = _attempt(lambda: (check.published or checks.measure_published)(check))
    return Claim(
        **{key: getattr(check, key) for key in ("id", "claim", "source", "figure", "measure", "rule")},
        n_seeds=n_seeds,
        effect=ours and ours.effect,
        ci_low=ours and ours.low,
        ci_high=ours and ours.high,
        verdict=check.verdict(ours),
        note=note,
        published_effect=theirs and theirs.effect,
        published_ci_low=theirs and theirs.low,
        published_ci_high=theirs and theirs.high,
        published_verdict=check.verdict(theirs),
        published_note=published_note,
    )


def _attempt(measure: Callable[[], Measurement]) -> tuple[Measurement | None, str, int]:
    """(measurement, note, number of seeds), without a measurement when there is no data for it."""
    try:
        found = measure()
    except NotMeasurable as reason:
        return None, f"not measured: {reason}", reason.n_seeds
    return found, found.note, found.n_seeds
