"""Measures a model: pass@k counts and the general benchmarks."""
