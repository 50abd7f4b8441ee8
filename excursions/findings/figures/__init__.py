"""One function for each figure: our measurements, and under them the paper's published curves on the same axes.

Tables come from `curves`, in percent; the paper's from `reference`. Every function returns a matplotlib Figure for
`plotting.save`. What a table lacks leaves a gap in the figure and a sentence in its note.
"""

from excursions.findings.figures.ablations import ablations, combination
from excursions.findings.figures.pretraining import (
    checkpoints,
    early_rl,
    general_capabilities,
    parallel_averaging,
    scarce_demonstrations,
    suite,
)
from excursions.findings.figures.training import phase_map, reward_gaming, sharpening_or_expansion

__all__ = [
    "ablations",
    "checkpoints",
    "combination",
    "early_rl",
    "general_capabilities",
    "parallel_averaging",
    "phase_map",
    "reward_gaming",
    "scarce_demonstrations",
    "sharpening_or_expansion",
    "suite",
]
