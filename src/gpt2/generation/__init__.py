"""Sampling and decoding over a language model that is handed in."""
