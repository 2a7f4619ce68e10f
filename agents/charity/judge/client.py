"""The vault's side of the judge: start the child, ask it, and start it again when it fails.

The judge is a process of its own because Keras may crash, hang or grow; the vault must do none of these. One JSON
object per line in each direction; the first line from the judge says that it is ready.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedssh.charity.judge.protocol import MAX_LINE_BYTES
from fedssh.commands import logging_environment
from fedssh.errors import AgentError, JudgeError
from fedssh.rules.privacy import Charge

CHECK_WORTH = 4  # six short trainings at most, in a network that is built for the first of them
COUNT_WORTH = 6  # the first time a library is loaded
OPENING_WORTH = 4  # a network is built
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # no submission's fault, and may pass


_STARTS = 3  # of a process that somebody kills while it starts


class _DiedError(JudgeError):
    """It ended in the middle of a question."""


class _KilledError(_DiedError):
    """A signal ended it: an operator's, or that of a machine that ran out of memory for a moment."""


class JudgeDownError(AgentError):
    """The judge does not get ready; that is not the fault of any submission."""


def judge_command(
    data: Path,
    spec: dict[str, Any],
    split: str = "val",
    reading: Mapping[str, Any] | None = None,
    decision: Mapping[str, Any] | None = None,
) -> list[str]:
    """How to start the real judge on one split of the coordinator's images.

    Args:
        reading: As of `own_images`.
        decision: As of `rules.thresholds.asked`.
    """
    return [
        sys.executable,
        "-P",  # or a file keras.py in the current folder would be taken for Keras
        "-m",
        "fedssh.charity.judge.process",
        "--data",
        str(data),
        "--split",
        split,
        "--spec",
        json.dumps(spec),
        "--reading",
        json.dumps(dict(reading or {})),
        *(["--decision", json.dumps(dict(decision))] if decision else []),
    ]


class Judge:
    """A judge process, started when it is first needed.

    Args:
        command: How to start it; see `judge_command`.
        start_seconds: How long it may take until it is ready.
        answer_seconds: How long it may take for one answer.
        restarted: Called with the reason each time it has to be started again.
    """

    def __init__(
        self,
        command: Sequence[str],
        start_seconds: float = 120,
        answer_seconds: float = 60,
        restarted: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self.command = list(command)
        self.start_seconds = start_seconds
        self.answer_seconds = answer_seconds
        self.ready: dict[str, Any] = {}
        self._restarted = restarted
        self._process: subprocess.Popen[bytes] | None = None
        self._failure: str | None = None
        self._rest = b""
        self._holdout: Any = None  # at the first start; scores on another one could not be compared

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        return self._process.pid if self._process else None

    def start(self) -> dict[str, Any]:
        """Start the process, unless it runs, and return what it says when it is ready.

        Raises:
            JudgeDownError: It did not get ready.
        """
        if self._process is not None and self._process.poll() is not None:
            self._failure = self._how_it_died()  # while nobody asked it anything
            self.stop()
        if self._process is None:
            try:
                self.ready = self._begin()
            except JudgeError as error:
                raise JudgeDownError(str(error), "its own messages stand above") from None
            if "error" in self.ready:
                self.stop()
                raise JudgeDownError(f"the judge cannot start: {self.ready['error']}")
            self._holdout = self._holdout or self.ready.get("holdout")
            if self.ready.get("holdout") != self._holdout:
                self.stop()
                raise JudgeDownError("the judge found another holdout than before", "put back the images it began with")
        return self.ready

    def _begin(self) -> dict[str, Any]:
        """Start the process, and again where it is killed meanwhile; what it says when it is ready."""
        starts = 0
        while True:
            starts += 1
            if self._failure:
                self._restarted(self._failure)
            self._rest = b""
            # Its own session: a Ctrl-C at the terminal stops the vault, which then lets the judge go.
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, env=_environment()
            )
            try:
                return self._read(self.start_seconds, "get ready")
            except _KilledError:
                if starts == _STARTS:
                    raise

    def ask(self, request: dict[str, Any], worth: int = 1) -> dict[str, Any]:
        """Ask one question and wait for the answer; when the judge dies of it, ask a new one once more.

        Whatever killed it the first time may have nothing to do with the question: an operator, or a machine that ran
        out of memory for a moment.

        Args:
            worth: How many scores it costs; it may take that many times as long.

        Raises:
            JudgeError: It died, was too slow, answered nonsense, or says that it cannot; the message says which.
            JudgeDownError: It could not be started again.
            OSError: Its disk is full or read-only; try again later.
        """
        try:
            return self._ask(request, worth)
        except _DiedError:
            return self._ask(request, worth)

    def _ask(self, request: dict[str, Any], worth: int) -> dict[str, Any]:
        self.start()
        assert self._process and self._process.stdin
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise self._died() from None
        answer = self._read(self.answer_seconds * worth, "answer")
        if answer.get("errno") in _DISK:
            raise OSError(answer["errno"], f"{os.strerror(answer['errno'])}, says the judge")
        if "error" in answer:
            number = answer.get("errno")  # its text has a path, which is nobody's business who reads the record
            said = answer["error"] if number is None else f"{os.strerror(number)}, of a file of hers"
            raise JudgeError(f"the judge cannot do it: {said}")
        return answer

    def score(self, model: Path, against: Path | None = None) -> dict[str, Any]:
        """What a model scores on the judge's images.

        Args:
            against: A stored model that it is paired with, image by image, see `protocol`.

        Raises:
            JudgeError: As `ask`.
        """
        paired = {"against": str(against)} if against else {}
        metrics = self.ask({"model": str(model)} | paired, 1 + len(paired))["metrics"]
        assert isinstance(metrics, dict)
        return metrics

    def mix(
        self,
        current: Path,
        candidate: Path,
        shares: Sequence[float],
        out: Path | None = None,
        base: Path | None = None,
        others: Sequence[tuple[Path, Path]] = (),
        *,
        paired: bool = False,
    ) -> list[dict[str, Any]]:
        """What mixes of two models score; with `out` nothing is scored.

        Args:
            shares: The candidate's share in each.
            out: Where to write the mix, which is then one.
            base: What the candidate was trained from: its step is added to the current model, so much of it.
            others: Candidates of other sites with their bases: so much of the mean of their steps and its own is.
            paired: Whether each is paired with the current model, image by image.

        Raises:
            JudgeError: As `ask`.
        """
        request = {"current": str(current), "candidate": str(candidate), "shares": list(shares)}
        paths = {"out": str(out) if out else None, "base": str(base) if base else None}
        more: dict[str, Any] = {"others": [list(map(str, pair)) for pair in others]} if others else {}
        more |= {"paired": True} if paired else {}
        worth = len(shares) * (1 + len(others) // 8) + paired  # to add eight models up is no quicker than one score
        answer = self.ask({"mix": request | paths | more}, worth)["metrics"]
        assert isinstance(answer, list)
        return answer

    def combine(
        self,
        policy: str,
        base: Path,
        updates: Sequence[tuple[Path, int]],
        server: Sequence[Path],
        out: Path,
        *,
        bearing: bool = False,
        paired: bool = False,
    ) -> dict[str, Any]:
        """Combine the updates of a round into a model file, and score it.

        Args:
            policy: As its text.
            base: The current model.
            updates: Model files with their numbers of examples.
            server: The server optimizer's state, which lies beside `out` afterwards.
            bearing: Whether to tell how the updates lie to each other.
            paired: Whether the result is paired with `base`, image by image.

        Returns:
            `metrics`, `shares` of the updates, `server`: how many files the optimizer's state has now; `bearing`.

        Raises:
            JudgeError: As `ask`.
        """
        named = [[str(path), examples] for path, examples in updates]
        request = {"policy": policy, "base": str(base), "updates": named, "server": list(map(str, server))}
        more = {"out": str(out), **({"bearing": True} if bearing else {}), **({"paired": True} if paired else {})}
        return self.ask({"round": request | more}, 1 + len(updates) + paired)

    def spent(self, charges: Sequence[Charge], delta: float) -> float:
        """What these steps reveal together: epsilon at `delta`, see `rules.privacy`.

        Raises:
            JudgeError: As `ask`; also where dp-accounting is not installed.
        """
        named = [[one.noise, one.rate, one.steps] for one in charges]
        return float(self.ask({"spent": {"charges": named, "delta": delta}}, COUNT_WORTH)["spent"])

    def check(self, model: Path, current: Path, first: Path, plan: dict[str, Any]) -> dict[str, Any]:
        """Whether sites can go on from a model that is about to become current; see `soundness`.

        Args:
            current, first: The current and the first model, as they are stored.
            plan: As in a release.

        Returns:
            `sound`, and as `text` what was conspicuous.

        Raises:
            JudgeError: As `ask`.
        """
        paths = {"model": str(model), "current": str(current), "first": str(first)}
        return self.ask({"check": paths | {"plan": plan}}, CHECK_WORTH)

    def turn(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """Open a turn at the judge, unless it is open.

        Args:
            wanted: See `charity.opening`.

        Returns:
            `key`, the X25519 public key to offer, and `tensors`, the names of what the site sends at its end.

        Raises:
            JudgeError: As `ask`.
        """
        opened = self.ask({"turn": wanted}, OPENING_WORTH)["turn"]
        assert isinstance(opened, dict)
        return opened

    def close_turn(self, id: str) -> None:
        """Close a turn, and let go of what the judge has of it.

        Raises:
            JudgeError: As `ask`.
        """
        self.ask({"closed": id})

    def welcome(self, welcome: dict[str, Any]) -> None:
        """Let a site in, see `judge.turns`.

        Raises:
            JudgeError: As `ask`; also where that turn is not open.
            OSError: There can be no socket.
        """
        self.ask({"welcome": welcome})

    def turned(self, id: str) -> dict[str, Any] | None:
        """How far a turn is; None where it is not open.

        Raises:
            JudgeError: As `ask`.
        """
        found = self.ask({"turned": id})["turned"]
        assert found is None or isinstance(found, dict)
        return found

    def join(self, turn: dict[str, Any], head: Path | None, out: Path) -> dict[str, Any]:
        """Join what a site trained in a turn with the judge's own layers, and score the whole.

        Args:
            turn: What opens it, see `charity.opening`.
            head: The site's layers; None where they are for sites alone, then nothing is scored.
            out: Where the whole goes; the optimizer's state of both parts lies beside it afterwards.

        Returns:
            `metrics`, `work`, `server`: how many files the optimizer's state has.

        Raises:
            JudgeError: As `ask`; also where the turn has not ended.
        """
        return self.ask({"join": {"turn": turn, "head": str(head) if head else None, "out": str(out)}}, CHECK_WORTH)

    def stop(self) -> None:
        """End the process, at once if it does not go by itself."""
        if self._process is None:
            return
        assert self._process.stdin and self._process.stdout
        with contextlib.suppress(OSError):  # it died with a question half written
            self._process.stdin.close()
        self._process.terminate()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._process = None

    def _read(self, seconds: float, what: str) -> dict[str, Any]:
        assert self._process and self._process.stdout
        handle = self._process.stdout.fileno()
        deadline = time.monotonic() + seconds
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        while b"\n" not in self._rest:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise self._failed(f"the judge did not {what} in {seconds:g} s")
            block = os.read(handle, 1 << 16)
            if not block:
                raise self._died()
            self._rest += block
            if len(self._rest) > MAX_LINE_BYTES:
                raise self._failed("the judge's answer is too long")
        line, _, self._rest = self._rest.partition(b"\n")
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise self._failed("the judge's answer is not a JSON object")
        return answer

    def _how_it_died(self) -> str:
        assert self._process
        try:
            code = self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            return "the judge closed its pipe"
        return (
            f"the judge died of {signal.Signals(-code).name}" if code < 0 else f"the judge ended with exit code {code}"
        )

    def _died(self) -> JudgeError:
        assert self._process
        self._failure = self._how_it_died()
        killed = (self._process.returncode or 0) < 0
        self.stop()
        return (_KilledError if killed else _DiedError)(self._failure)

    def _failed(self, reason: str) -> JudgeError:
        self._failure = reason
        self.stop()
        return JudgeError(reason)


def _environment() -> dict[str, str]:
    """The judge works on the CPU: its sums are the same on every machine, and GPU memory stays free for training.

    An empty part of PYTHONPATH, as in `PYTHONPATH=$PYTHONPATH:/opt/site`, would mean the current folder.
    """
    root = str(Path(__file__).resolve().parents[3])
    path = os.pathsep.join(part for part in (root, *os.environ.get("PYTHONPATH", "").split(os.pathsep)) if part)
    usual = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    return {**usual, **os.environ, **logging_environment(), "PYTHONPATH": path}
