"""Reinforcement learning, fine-tuning and their mixtures, started from checkpoints all along pretraining.

The runnable artifact of "RL Excursions during Pre-Training" (arXiv 2606.04272).
`excursions --help` lists what it does.
"""

__version__ = "0.1.0"
