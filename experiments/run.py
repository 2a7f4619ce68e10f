"""All runs of an experiment: several at once, each in a child process; what is finished is kept and not done again.

    OUT/runs/SLUG/          whole or absent
      history.jsonl         the engine's
      result.json           settings, outcome, and where and when it was made

A worker process does one run after the other, so that Keras starts once per worker. Ctrl-C ends the runs at hand and
keeps the finished ones.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fcntl
import importlib
import json
import multiprocessing
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType
from typing import Any

from experiments import machine
from experiments.definition.config import Outcome, Run, read_outcome
from experiments.definition.read import Experiment
from experiments.results.file import Result, counted, read_result
from fedssh.errors import AgentError, SettingsError
from fedssh.files import write_whole

RESULT = "result.json"
STOP_SECONDS = 15.0
TELL_SECONDS = 0.2
RUNS_PER_WORKER = 12  # TensorFlow gives back only part of what a run took; a new process begins with nothing


@dataclass(frozen=True)
class Told:
    """What happened to a run: `kept`, `changed`, `begun`, `going`, `done` or `failed`."""

    event: str
    run: Run
    share: float = 0.0
    text: str = ""


Tell = Callable[[Told], None]


def run_all(
    experiment: Experiment,
    out: Path,
    data: Path,
    jobs: int,
    cores: int,
    tell: Tell,
    engines: str = "experiments.engines",
) -> list[Run]:
    """Do every run that is not finished yet.

    Args:
        out: Where to; made when needed.
        data: Where data sets are.
        jobs: How many runs at once.
        cores: How many cores each of them may use.
        tell: Called for everything that happens.
        engines: The package in which a folder has the name of the experiment's engine, with a module `engine`.

    Returns:
        The runs that failed; `tell` was told why.

    Raises:
        SettingsError: Another command works in `out`.
    """
    with _locked(out):
        trials = {run.slug for run in experiment.trials}

        def heard(told: Told) -> None:
            if told.event == "done" and told.run.slug in trials:
                told = dataclasses.replace(
                    told, text="a candidate: only the holdout may choose, so its test score is not told"
                )
            tell(told)

        waiting = [run for run in experiment.runs if not _kept(out, run, experiment.engine, tell)]
        crew = _Crew(experiment.engine, engines, out, data, cores, heard)
        try:
            return crew.work_through(waiting, min(jobs, len(waiting)))
        finally:
            crew.stop()


def finished(out: Path, run: Run, engine: str) -> Result | None:
    """What a run gave, if it is finished with these very settings."""
    found = _read(out, run)
    if found is None or found["digest"] != run.digest(engine):
        return None
    return counted(read_result(run.experiment, found), out)


def _kept(out: Path, run: Run, engine: str, tell: Tell) -> bool:
    found = _read(out, run)
    if found is None:
        return False
    if found["digest"] == run.digest(engine):
        tell(Told("kept", run, 1.0))
        return True
    tell(Told("changed", run, text="its settings changed since it was done"))
    return False


def _read(out: Path, run: Run) -> dict[str, Any] | None:
    path = out / "runs" / run.slug / RESULT
    try:
        fields: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        raise SettingsError(f"{path} is damaged", "remove its folder to do that run again") from None
    return fields


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(f"another command works in {out}", "wait for it, or give another --out") from None
        yield


class _Crew:
    """The worker processes, and what each of them is at."""

    def __init__(self, engine: str, engines: str, out: Path, data: Path, cores: int, tell: Tell) -> None:
        self._arguments = (engine, engines, out, data, cores)
        self._context = multiprocessing.get_context("spawn")
        self._tell = tell
        self._workers: dict[Connection, Any] = {}
        self._done: Counter[Connection] = Counter()
        self._at: dict[Connection, Run] = {}

    def work_through(self, runs: Sequence[Run], jobs: int) -> list[Run]:
        """Do `runs`, the first ones first; returns those that failed."""
        waiting, failed = list(runs), []
        while waiting or self._at:
            while waiting and len(self._at) < jobs:
                self._begin(waiting.pop(0))
            for ready in wait(list(self._at)):
                assert isinstance(ready, Connection)
                told = self._heard(ready)
                self._tell(told)
                if told.event == "failed":
                    failed.append(told.run)
        return failed

    def stop(self) -> None:
        """End all workers, by force those that take too long."""
        for connection, worker in self._workers.items():
            if connection in self._at:
                worker.terminate()
            connection.close()
        until = time.monotonic() + STOP_SECONDS
        for worker in self._workers.values():
            _join(worker, max(until - time.monotonic(), 0.1))
        self._workers.clear()

    def _begin(self, run: Run) -> None:
        idle = next((one for one in self._workers if one not in self._at), None) or self._hire()
        self._at[idle] = run
        self._tell(Told("begun", run))
        idle.send(run)

    def _hire(self) -> Connection:
        ours, theirs = self._context.Pipe()
        worker = self._context.Process(target=_work, args=(theirs, *self._arguments), daemon=False)
        with _deaf():
            worker.start()
        theirs.close()
        self._workers[ours] = worker
        return ours

    def _heard(self, connection: Connection) -> Told:
        run = self._at[connection]
        try:
            event, share, text = connection.recv()
        except (EOFError, ConnectionResetError):
            worker = self._workers.pop(connection)
            worker.join()
            event, share, text = "failed", 0.0, f"its process ended with code {worker.exitcode}"
        if event in ("done", "failed"):
            del self._at[connection]
            self._done[connection] += 1
            if self._done[connection] == RUNS_PER_WORKER and connection in self._workers:
                connection.close()  # it ends when nothing more can come
                _join(self._workers.pop(connection), STOP_SECONDS)
        return Told(event, run, share, text)


def _join(worker: Any, seconds: float) -> None:
    """Wait for a process to end, and end it by force when it takes longer."""
    worker.join(seconds)
    if worker.is_alive():
        worker.kill()
        worker.join()


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Children that are started here do not hear Ctrl-C, which reaches the whole group; the parent decides."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


# in a worker


def _work(connection: Connection, engine: str, engines: str, out: Path, data: Path, cores: int) -> None:
    """Do the runs that come, until no more do; SIGTERM unwinds the one at hand."""
    signal.signal(signal.SIGTERM, _interrupt)
    with contextlib.suppress(KeyboardInterrupt, EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            run = connection.recv()
            try:
                module = importlib.import_module(
                    f"{engines}.{engine}.engine"
                )  # slow, so not before there is something to do
                text = _do(run, module.run, engine, out, data, cores, _Teller(connection))
                connection.send(("done", 1.0, text))
            except AgentError as error:
                connection.send(("failed", 0.0, str(error) + (f" ({error.hint})" if error.hint else "")))
            except (BrokenPipeError, ConnectionResetError):
                raise
            except Exception as error:  # noqa: BLE001 - one run must not end the others; a file keeps the traceback
                connection.send(("failed", 0.0, _described(error, _trace(out, run))))


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


class _Teller:
    """Hands an engine's progress on, not more often than a person can read."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._said = 0.0

    def __call__(self, share: float, text: str) -> None:
        if time.monotonic() - self._said >= TELL_SECONDS:
            self._said = time.monotonic()
            self._connection.send(("going", share, text))


def _do(run: Run, engine: Any, name: str, out: Path, data: Path, cores: int, progress: _Teller) -> str:
    """One run, into a folder that gets its name when it is whole; returns a line for people."""
    from experiments.definition.prepare import prepare

    final = out / "runs" / run.slug
    part = final.with_name(f".{run.slug}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        progress(0.0, "loading data")
        prepared = prepare(run, data)
        machine.forget_peak()
        started = time.monotonic()
        outcome: Outcome = engine(run, prepared, part, progress, cores)
        measured = {"wall_seconds": time.monotonic() - started, "peak_mb": machine.peak_mb()}
        fields = outcome.plain()
        fields |= {key: value for key, value in measured.items() if fields[key] is None}
        made = {"engine": name, "date": _now(), **machine.commit(), "machine": machine.describe()}
        result = Result(run, run.digest(name), read_outcome(fields), made)
        write_whole(part / RESULT, json.dumps(result.plain(), indent=1).encode() + b"\n")
        shutil.rmtree(final, ignore_errors=True)
        os.replace(part, final)
        _trace(out, run).unlink(missing_ok=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    scores = outcome.final.test
    return f"test {run.metric} {scores[run.metric]:.4f}, loss {scores['loss']:.4f}, {fields['wall_seconds']:.0f} s"


def _trace(out: Path, run: Run) -> Path:
    return out / "runs" / f"{run.slug}.failed.txt"


def _described(error: Exception, path: Path) -> str:
    import traceback

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(traceback.format_exception(error)))
    line = str(error).strip().splitlines()[0] if str(error).strip() else ""
    return f"{type(error).__name__}: {line} (see {path})"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
