"""Models as Hugging Face folders, suites of checkpoints, and the processes that hold a model."""
