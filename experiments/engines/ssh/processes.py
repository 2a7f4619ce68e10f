"""The agents of a run as processes on this machine: keys, data, coordinator, door and sites, and their orderly end.

Everything is done with the agents' own commands, as on real machines; what passes between them passes over SSH on
loopback. Each computes with one thread, so that its sums are those of the memory engine.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.definition.config import Prepared, Run
from experiments.machine import ROOT
from fedssh.errors import AgentError, SettingsError

sys.path.append(str(ROOT / "scripts"))  # no package: its programs also run where nothing is installed
from processes import Agent, AgentFailed, Event, stop_all, undisturbed

if TYPE_CHECKING:
    from fedssh.models.data.images import Images

BIN = Path(sys.executable).parent
TURN_SECONDS = 3600  # nobody dies here, and a site must not lose its turn because the machine is busy


class Federation:
    """A coordinator and its sites below one folder. Leaving it as a context ends all of its processes.

    coordinator/      Charity's and the door's folders       holdout.npz   her images
    NAME/             site.npz, exchange/, bob/, alice/
    logs/             every line of every agent

    Args:
        folder: Where it goes; made here. At the end only logs/ is left.
    """

    def __init__(self, run: Run, prepared: Prepared, folder: Path) -> None:
        self.run = run
        self.prepared = prepared
        self.folder = folder
        self.coordinator = folder / "coordinator"
        self.events: queue.Queue[Event] = queue.Queue()
        self._agents: list[Agent] = []
        self._port = _free_port()

    def __enter__(self) -> Federation:
        (self.folder / "logs").mkdir(parents=True)
        return self

    def __exit__(self, *error: object) -> None:
        with undisturbed(KeyboardInterrupt):
            stop_all(list(reversed(self._agents)))
            for path in self.folder.iterdir():
                if path.name != "logs":
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    @property
    def ledger(self) -> Path:
        """The history, as the door shows it."""
        return self.coordinator / "outbox" / "ledger.jsonl"

    def model(self, sha256: str) -> Path:
        """The file of a model that was current once."""
        return self.coordinator / "vault" / "models" / f"{sha256}.safetensors"

    def set_up(self) -> None:
        """Write the data, make the keys and the first model, and let the sites join."""
        run, prepared = self.run, self.prepared
        splits = {"train": prepared.train, "val": prepared.holdout, "test": prepared.test}
        _save(self.folder / "holdout.npz", splits)
        self._command("charity", "init", f"--data={self.folder / 'holdout.npz'}", *self._agreement())
        for name in run.site_names:
            site = self.folder / name
            site.mkdir()
            _save(site / "site.npz", {"train": prepared.parts[name]})
            bob = f"--state={site / 'bob'}"
            self._command("bob", "keygen", bob)
            invitation = self._command("charity", "nodes", "add", self._state, name, str(site / "bob" / "site_key.pub"))
            (site / "invitation.json").write_text(invitation)
            self._command("bob", "join", bob, "--offline", str(site / "invitation.json"))

    def start(self) -> None:
        """Start everybody."""
        self._start("charity", None, "serve", self._state, f"--turn-timeout={TURN_SECONDS}", "--judge-timeout=600")
        self._start("charity", None, "door", "--embedded", self._state, f"--listen=127.0.0.1:{self._port}", name="door")
        for number, site in enumerate(self.run.site_names, 1):
            folder = self.folder / site
            exchange = f"--exchange={folder / 'exchange'}"
            self._start("bob", site, "watch", f"--state={folder / 'bob'}", exchange)
            self._start(
                "alice", site, "train", f"--state={folder / 'alice'}", exchange, f"--data={folder / 'site.npz'}",
                f"--seed={self.run.site_seed(number)}", f"--validation={self.run.validation}", "--threads=1",
                f"--invitation={folder / 'invitation.json'}", "--settle=30", "--no-tensorboard",
                "--min-batch-size=1", "--min-steps=1",  # an experiment may ask for it, and measures what comes of it
            )  # fmt: skip

    def going(self) -> bool:
        """Whether a site trains still, or something is on its way to the coordinator.

        Raises:
            AgentError: An agent ended with an error; the message has its last lines.
        """
        try:
            for agent in self._agents:
                agent.check()
        except AgentFailed as error:
            raise AgentError(str(error)) from None
        return any(agent.code() is None for agent in self._agents if agent.name == "alice") or self._on_the_way()

    def _on_the_way(self) -> bool:
        sites = ("*/exchange/outgoing/*.json", "*/bob/spool/*.bundle")
        own = ("coordinator/inbox/*/*.bundle", "coordinator/vault/claimed/*/*.bundle")
        return any(next(self.folder.glob(pattern), None) for pattern in (*sites, *own))

    @property
    def _state(self) -> str:
        return f"--state={self.coordinator}"

    def _agreement(self) -> list[str]:
        run, prepared = self.run, self.prepared
        plan = {name: value for name, value in run.plan.items() if name not in ("loss", "metric")}
        words = {
            **plan, "name": run.experiment, "architecture": json.dumps(prepared.spec), "policy": run.policy,
            "gate": run.gate, "margin": run.margin, "metric": run.metric, "sessions": run.sessions, "seed": run.seed,
            "schedule": "relay" if run.schedule == "relay" else "free", "address": f"charity@127.0.0.1:{self._port}",
            "submissions_per_hour": 0, "invalid_per_hour": 0,
        }  # fmt: skip
        if prepared.weights is not None:
            words["weights"] = prepared.weights
        if prepared.train is None:
            words["genesis_epochs"] = 0
        return [self._state, *(f"--{name.replace('_', '-')}={value}" for name, value in words.items())]

    def _command(self, *words: str) -> str:
        """Run a command that ends by itself, and return what it printed.

        Raises:
            SettingsError: It ended with an error; the message is its own.
        """
        command = [str(BIN / words[0]), *words[1:]]
        with _child(command) as process:
            out, err = process.communicate()
        if process.returncode:
            raise SettingsError(f"`{' '.join(words[:3])}` ended with code {process.returncode}: {err.strip()[-500:]}")
        return out

    def _start(self, program: str, site: str | None, *words: str, name: str = "") -> None:
        command = [str(BIN / program), "--log-format=json", *words]
        log = self.folder / "logs" / f"{site or 'coordinator'}-{name or program}.log"
        with undisturbed(KeyboardInterrupt):
            self._agents.append(Agent(name or program, site, command, _environ(), log, self.events))


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the stack as Ctrl-C does, so that no process is left behind."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _child(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """A process that does not outlive the block; its children end when it does."""
    process = subprocess.Popen(
        command, env=_environ(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def _environ() -> dict[str, str]:
    """One thread each; a person's own ALICE_…, BOB_… and CHARITY_… variables belong to other folders than these."""
    theirs = ("ALICE_", "BOB_", "CHARITY_")
    environ = {key: value for key, value in os.environ.items() if not key.startswith(theirs)}
    environ |= dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1")
    return environ | {"PYTHONUNBUFFERED": "1", "CUDA_VISIBLE_DEVICES": "-1"}


def _save(path: Path, splits: dict[str, Images | None]) -> None:
    """Write images just as they are: float32, so that the agents train on what the memory engine trains on."""
    arrays: dict[str, Any] = {}
    for split, content in splits.items():
        if content is None:
            continue
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = content.images, content.labels
        if content.patients is not None:
            arrays[f"{split}_patients"] = content.patients
    np.savez(path, allow_pickle=False, **arrays)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
