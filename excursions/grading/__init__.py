"""A final answer -> right or wrong; math-verify in a process of its own."""
