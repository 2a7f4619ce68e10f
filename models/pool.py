"""Several trainers on several threads, for many small trainings on few cores.

TensorFlow leaves Python's lock while it computes. For networks of this project two trainings side by side, each on one
core, are quicker than one on two cores; so load Keras with `load_keras(threads=1, computations=size)` first.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

from fedssh.models.training import Trainer

Result = TypeVar("Result")


class Pool:
    """`size` trainers that are all the same, each on a thread of its own. A context manager.

    Args:
        make: Makes one trainer.
        size: How many; as many as there are cores.
    """

    def __init__(self, make: Callable[[], Trainer], size: int) -> None:
        if size < 1:
            raise ValueError(f"a pool has at least 1 trainer, found {size}")
        self._idle: queue.SimpleQueue[Trainer] = queue.SimpleQueue()
        for _ in range(size):
            self._idle.put(make())  # one after the other: Keras does not promise to build in threads
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="trainer")

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def run(self, jobs: Sequence[Callable[[Trainer], Result]]) -> list[Result]:
        """Do every job with some trainer and return the results in the order of the jobs.

        A job that begins with `load` and `fresh` gives the same result with every trainer.

        Raises:
            Exception: What the first failing job raised. Jobs that had not begun are left out; none runs on.
        """
        futures = [self._threads.submit(self._do, job) for job in jobs]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()
            for future in futures:
                if not future.cancelled():
                    future.exception()

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(cancel_futures=True)

    def _do(self, job: Callable[[Trainer], Result]) -> Result:
        trainer = self._idle.get()
        try:
            return job(trainer)
        finally:
            self._idle.put(trainer)
