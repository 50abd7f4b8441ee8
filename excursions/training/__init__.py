"""Pretraining, the three updates (GRPO, SFT, parallel averaging), and the recipes made of them."""
