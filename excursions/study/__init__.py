"""A run and its fingerprint, many runs at once, what they cost, and the study as a list of jobs."""
