"""Questions, gold solutions, the pretraining stream and the general benchmarks: made here (nano) or public."""
