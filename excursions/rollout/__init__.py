"""Sampling completions: what a sampler is, and the engines that are one."""
