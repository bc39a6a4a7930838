"""Many streams through one model."""

from gpt2.serving.served import ServedModel
from gpt2.serving.settings import ServeSettings


class Engine:
    """Computes the streams of all requests together.

    Args:
        served: the model.
        settings: slots and queue.
    """

    def __init__(self, served: ServedModel, settings: ServeSettings) -> None:
        self.served, self.settings = served, settings

    def start(self) -> None:
        """Begin to compute."""

    def stop(self) -> None:
        """End; running streams are given up."""
