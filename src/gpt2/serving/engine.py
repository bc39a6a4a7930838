"""Many streams through one model: a thread that computes a step for all of them, again and again.

Streams join and leave between steps (continuous batching; Yu et al., "Orca", 2022, section 3). A stream has a slot of
the cache from its first token to its last; a prompt is computed in stretches beside the others' next tokens, so that
a long one holds nobody up.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from queue import Empty, SimpleQueue

from gpt2.errors import GPT2Error
from gpt2.files import cores
from gpt2.serving.batch import Batch
from gpt2.serving.counters import Counters
from gpt2.serving.served import ServedModel
from gpt2.serving.settings import ServeSettings
from gpt2.serving.stream import Job, Stream

_log = logging.getLogger(__name__)


class BusyError(GPT2Error):
    """All slots are taken and the queue is full."""


class StoppingError(GPT2Error):
    """The server takes no new requests any more."""


class Engine:
    """Computes the streams of all requests together.

    `submit`, `cancel` and `finish` belong to the event loop in which `start` was called.

    Args:
        served: the model.
        settings: slots and queue.

    Attributes:
        counters: what has been computed.
        draining: set it, and new jobs are refused while the others go on.
    """

    def __init__(self, served: ServedModel, settings: ServeSettings) -> None:
        self.served, self.settings, self.counters = served, settings, Counters()
        self.draining = False
        self._batch = Batch(served, settings.slots, settings.threads or cores(), self.counters)
        self._orders: SimpleQueue[tuple[str, Job | Stream | None]] = SimpleQueue()
        self._waiting: deque[Job] = deque()
        self._queued, self._lock = 0, threading.Lock()  # jobs of which a part has no slot yet
        self._open: set[Job] = set()
        self._news: deque[list[Job]] = deque()
        self._told = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to compute, for the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End; what still runs is given up."""
        if self._thread is not None:
            self._orders.put(("stop", None))
            self._thread.join()
            self._thread = None

    @property
    def idle(self) -> bool:
        """Whether no request is being worked on."""
        return not self._open

    @property
    def running(self) -> int:
        """Slots that are taken."""
        return self.settings.slots - len(self._batch.free)

    @property
    def queued(self) -> int:
        """Requests of which a part still waits for a slot."""
        return self._queued

    def submit(self, job: Job) -> None:
        """Begin a job; `job.news` tells of what comes.

        Raises:
            BusyError: too many wait already.
            StoppingError: the server is about to end.
        """
        if self.draining or self._thread is None:
            raise StoppingError("the server is stopping")
        with self._lock:
            if self._queued - len(self._batch.free) >= self.settings.queue:
                raise BusyError(f"all {self.settings.slots} slots are taken and {self._queued} requests wait already")
            self._queued += 1
        self._open.add(job)
        self._orders.put(("submit", job))

    def cancel(self, job: Job) -> None:
        """The client has left, or has what it wanted: nothing more of this job is computed."""
        self._open.discard(job)
        if not job.lengths and any(stream.finish is None for stream in job.streams):
            self._batch.abandon(job)
            self._orders.put(("cancel", job))

    def finish(self, stream: Stream) -> None:
        """A stream has come to its stop string."""
        if stream.finish is None:
            self._orders.put(("finish", stream))

    # What follows runs in the engine's thread.

    def _run(self) -> None:
        while self._take_orders():
            self._admit()
            if self._batch.empty:
                continue
            try:
                self._batch.step()
            except Exception as error:  # of one step: its streams end with it, the server goes on
                _log.exception("a step failed")
                self._batch.end_all(f"{type(error).__name__} while computing")
            self._tell(self._batch.news())
            self._batch.settle()
        self._batch.end_all("the server has stopped")
        self._tell(self._batch.present)
        for job in list(self._waiting):
            self._drop(job, "error")

    def _take_orders(self) -> bool:
        """What was asked for since; waits if there is nothing else to do. False: stop."""
        wait = self._batch.empty and not self._waiting
        while True:
            try:
                order, what = self._orders.get(block=wait)
            except Empty:
                self._batch.settle()
                return True
            wait = False
            if order == "stop":
                return False
            if isinstance(what, Stream):
                self._batch.finish(what)
            elif what is not None and order == "submit":
                self._waiting.append(what)
            elif what is not None:
                self._batch.leave(what)
                self._drop(what, "cancelled")

    def _admit(self) -> None:
        """Free slots to waiting jobs, one stream of each in turn."""
        if not self._waiting:
            return
        now = time.monotonic()
        for job in [job for job in self._waiting if job.deadline <= now]:
            self._drop(job, "time")
        while self._batch.free and self._waiting:
            job = self._waiting.popleft()
            self._batch.begin(job, job.streams[job.started])
            job.started += 1
            if job.started < len(job.streams):
                self._waiting.append(job)
            else:
                self._unqueue()
        self._batch.settle()

    def _drop(self, job: Job, finish: str) -> None:
        """Give up what of a job has no slot yet."""
        if job in self._waiting:
            self._waiting.remove(job)
            self._unqueue()
            for stream in job.streams[job.started :]:
                stream.finish = finish
                self.counters.finished[finish] += 1
            self._tell([job])

    def _unqueue(self) -> None:
        with self._lock:
            self._queued -= 1

    def _tell(self, jobs: list[Job]) -> None:
        """One call of the event loop for all news since its last."""
        if not jobs:
            return
        self._news.append(jobs)
        if not self._told and self._loop is not None:
            self._told = True
            try:
                self._loop.call_soon_threadsafe(self._hear)
            except RuntimeError:  # the loop has ended: nobody listens
                self._loop = None

    def _hear(self) -> None:
        self._told = False
        while self._news:
            for job in self._news.popleft():
                job.wake()
