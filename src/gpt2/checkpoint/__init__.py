"""Runs on disk: the model folder, the checkpoints in it, and `load`."""

from gpt2.checkpoint.load import load as load
from gpt2.checkpoint.run_folder import RunFolder as RunFolder
