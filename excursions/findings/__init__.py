"""From tables to figures, claims and reports. Nothing here needs a model."""
