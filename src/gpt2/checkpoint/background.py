"""Work that must not hold up the training: one job at a time in a thread, its error kept until it is asked for."""

import threading
import time
from collections.abc import Callable, Mapping

from torch import Tensor


class Background:
    """Runs one job at a time. A job's error is raised by `poll`, `submit` or `wait`, once."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._began = 0.0

    @property
    def busy(self) -> bool:
        """Whether a job is under way."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def seconds(self) -> float:
        """How long the job under way has taken; 0: none is."""
        return time.monotonic() - self._began if self.busy else 0.0

    def submit(self, job: Callable[[], object]) -> None:
        """Start a job, after the one before it has ended."""
        self.wait()
        self._began = time.monotonic()
        # A daemon: a second Ctrl-C must not wait for a slow disk. What it leaves half written has no manifest.
        self._thread = threading.Thread(target=self._run, args=(job,), daemon=True, name="checkpoint writer")
        self._thread.start()

    def poll(self) -> None:
        """Raise the error of a job that failed."""
        if self._error is not None and not self.busy:
            error, self._error = self._error, None
            raise error

    def wait(self) -> None:
        """Wait for the job under way and raise its error."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.poll()

    def _run(self, job: Callable[[], object]) -> None:
        try:
            job()
        except BaseException as error:
            self._error = error


def copied(groups: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    """The tensors as they are now, in main memory, whatever becomes of the originals."""
    return {
        name: {key: value.detach().to("cpu", copy=True).contiguous() for key, value in group.items()}
        for name, group in groups.items()
    }
