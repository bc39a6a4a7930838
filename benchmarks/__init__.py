"""Measurements against the field's tools, side by side: `python -m benchmarks --help`, or `gpt2 bench`."""
