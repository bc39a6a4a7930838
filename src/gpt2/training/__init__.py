"""Training: `train` is what `gpt2 train` does."""

from gpt2.training.run import TrainedRun as TrainedRun
from gpt2.training.run import train as train
