"""The model card of a trained model that is kept: what it is, what it reached, how to load it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from excursions import tree
from excursions.evaluation.protocol import shares
from excursions.files import whole_file
from excursions.recipes import RECIPES
from excursions.study.run import Run


def write_card(run: Run, about: dict, outcomes: pd.DataFrame, root: Path) -> None:
    """Writes README.md into the folder of a kept model. about: its run.json. outcomes: of its run."""
    folder = tree.trained_folder(root, *run)
    with whole_file(folder / "README.md") as temporary:
        temporary.write_text(card(run, about, outcomes), encoding="utf-8")


def card(run: Run, about: dict, outcomes: pd.DataFrame) -> str:
    """The card as Markdown. The intervals are over questions, of this one model (Wilson's method)."""
    place = Path("trained", run.path)
    named = f"--scale {run.scale} --suite {run.suite} --checkpoint {run.checkpoint}"
    named += f" --recipe {run.recipe}/seed-{run.seed}"
    rows = []
    for step, when in ((0, "before"), (outcomes["step"].max(), "after")):
        for benchmark, asked in outcomes[outcomes["step"] == step].groupby("benchmark"):
            found = shares(asked["n"].to_numpy(), asked["correct"].to_numpy())
            cells = [f"{at['estimate']:.1f} [{at['low']:.1f}, {at['high']:.1f}]" for at in found.values()]
            rows.append(f"| {benchmark}, {len(asked)} questions, {when} training | {' | '.join(cells)} |\n")
    return f"""---
library_name: transformers
pipeline_tag: text-generation
---
# {RECIPES[run.recipe].label} from {run.checkpoint}, seed {run.seed}

Trained in the study at scale `{run.scale}`, suite `{run.suite}`, by the recipe `{run.recipe}` from the checkpoint
`checkpoints/{run.scale}/{run.suite}/{run.checkpoint}`. Its run is `results/{run.path}`: parameters, log, outcomes,
samples; fingerprint {about["fingerprint"][:16]}. The weights are rounded to the precision of the checkpoints; the
numbers below are those of the model before that.

| solved, % [95% interval] | {" | ".join(found)} |
|---{"|---" * len(found)}|
{"".join(rows)}
0-shot; n = {asked["n"].max()} samples a question; intervals are over questions, of this one model.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{place}")
tokenizer = AutoTokenizer.from_pretrained("{place}")
```

`excursions sample {named}` shows completions, `excursions evaluate` with the same options measures, and
`hf upload <name> {place}` publishes it.
"""
