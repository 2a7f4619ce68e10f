"""A federation under `split` of real processes on a few small images, and what one trainer learns of the same.

with Rooms(folder, "split:cut=pool1,wire=f32", sites=3) as rooms:
    rooms.begin()
    rooms.run()
    assert rooms.learned() == rooms.unsplit()
"""

from __future__ import annotations

import getpass
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedssh import weights
from fedssh.alice.fitting import epoch_order, new_trainer
from fedssh.alice.newest import newest_release
from fedssh.alice.session import session_seed
from fedssh.files import sha256_file
from fedssh.models.data import datasets, images
from fedssh.models.data.images import Images
from fedssh.models.training import resident
from fedssh.rules.plan import read_plan
from scripts.demo.federation import ONE_THREAD
from tests.harness.channel import Line
from tests.harness.sites import Story

CNN = {"name": "cnn", "input": [10, 10, 1], "classes": 3}
SEED = 1  # of `alice train`, unless told otherwise
QUICK = ("--retry=0.1", "--retry-max=1", "--rescan=1", "--timeout=5")


class Rooms(Story):
    """A coordinator and sites, each site with images of its own.

    Args:
        folder: Where it is or will be.
        policy: `split`, with its options.
        sites: How many.
        sessions, epochs, batch: Of the plan.
        spec: Of the network.
        examples: How many images a site has, and one more the next.
        door: sshd or embedded.
        line: Makes what Bobs take to the door, from its port; None leaves them go there directly.
    """

    def __init__(
        self,
        folder: Path,
        policy: str,
        sites: int = 1,
        sessions: int = 1,
        epochs: int = 2,
        batch: int = 8,
        spec: Mapping[str, Any] = CNN,
        examples: int = 44,
        door: str = "embedded",
        line: Callable[[int], Line] | None = None,
    ) -> None:
        super().__init__(folder)
        self.policy, self.sessions, self.epochs, self.batch, self.door = policy, sessions, epochs, batch, door
        self.spec, self.examples = dict(spec), examples
        self.names = [f"alice-{number}" for number in range(1, sites + 1)]
        self.line = line(self.port) if line else None

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        if self.line:
            self.line.close()

    @property
    def schedule(self) -> tuple[str, ...]:
        """How sites take turns, where the policy leaves it open."""
        return ("--schedule=relay",) if self.policy.startswith("split:") else ()

    @property
    def address(self) -> str:
        """Where sites reach the door."""
        user = "charity" if self.door == "embedded" else getpass.getuser()
        return f"{user}@127.0.0.1:{self.line.port if self.line else self.port}"

    # the beginning

    def some(self, number: int, seed: int) -> Images:
        """Images that tell their class: brighter ones are of a later class."""
        random = np.random.default_rng(seed)
        labels = random.integers(0, self.spec["classes"], number)
        noise = random.random((number, *self.spec["input"]), dtype=np.float32)
        return Images(np.rint((noise + labels[:, None, None, None]) * 255 / self.spec["classes"]) / 255, labels)

    def site_images(self, name: str) -> Images:
        """What a site trains on."""
        number = self.names.index(name) + 1
        return self.some(self.examples + number, number)

    def begin(self, *words: str) -> None:
        """Make the federation and its sites; `words` are more options of `charity init`."""
        self.logs.mkdir(parents=True, exist_ok=True)
        datasets.save(self.holdout, {"train": self.some(24, 90), "val": self.some(30, 91)})
        for name in self.names:
            data = self.site(name) / "data"
            data.mkdir(parents=True)
            datasets.save(data / "site.npz", {"train": self.site_images(name), "val": self.some(12, 92)})
        self.command(
            "charity", "init", self.state, f"--data={self.holdout}", f"--architecture={json.dumps(self.spec)}",
            f"--policy={self.policy}", "--gate=off", f"--sessions={self.sessions}", f"--epochs={self.epochs}",
            f"--batch-size={self.batch}", f"--address={self.address}", *self.schedule, *words,
        )  # fmt: skip
        for name in self.names:
            self.enrol(name)

    # what happens

    def start_coordinator(self) -> None:
        """Her agents: she, and her door."""
        self.start_charity()
        self.start_door()

    def start_charity(self, *words: str) -> None:
        self.serve("--rescan=1", *words)

    def start_door(self) -> None:
        """Her door, of the kind that was asked for."""
        if self.door == "embedded":
            self.open_door()
        else:
            self._agent("door", None, "charity", "door", self.state, self.listen)

    def start_alice(self, name: str) -> None:
        folder = self.site(name)
        self._agent(
            "alice", name, "alice", "train", f"--state={folder / 'alice'}", f"--exchange={folder / 'exchange'}",
            f"--data={folder / 'data' / 'site.npz'}", f"--invitation={folder / 'data' / 'invitation.json'}",
            "--validation=0", "--settle=0", "--no-tensorboard",
        )  # fmt: skip

    def kill_alice(self, name: str) -> None:
        """As a power cut does."""
        agent = self.find("alice", name)
        agent.signal(signal.SIGKILL)
        agent.wait(10)
        self.agents.remove(agent)

    def start_bob(self, name: str) -> None:
        folder = self.site(name)
        self._agent(
            "bob", name, "bob", "watch", f"--state={folder / 'bob'}", f"--exchange={folder / 'exchange'}", *QUICK
        )

    def start_all(self) -> None:
        """Everybody."""
        self.start_coordinator()
        for name in self.names:
            self.start_bob(name)
            self.start_alice(name)

    def over(self) -> bool:
        """Whether the federation is finished and every Alice has gone home."""
        homes = all(agent.code() == 0 for agent in self.agents if agent.name == "alice")
        return homes and bool(self.happened("finished"))

    def run(self, seconds: float = 180) -> None:
        """From its start to its end."""
        self.start_all()
        self.until(self.over, seconds)

    def happened(self, *events: str) -> list[dict[str, Any]]:
        """The records of these events."""
        return [record for record in self.records() if record["event"] in events] if self.ledger.exists() else []

    def told(self, agent: str, site: str | None, event: str) -> list[dict[str, Any]]:
        """What an agent said of one kind."""
        log = self.log(agent, site)
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        found = (json.loads(line) for line in lines if line.startswith("{") and line.endswith("}"))
        return [fields for fields in found if fields.get("event") == event]

    # what came of it

    @property
    def models(self) -> Path:
        return self.coordinator / "vault" / "models"

    def first(self) -> Path:
        """The first model."""
        return self.models / f"{self.records()[0]['model']['sha256']}.safetensors"

    def learned(self) -> str:
        """SHA-256 of the last model that was accepted; where layers are for sites alone, of what a site has of it."""
        last = self.happened("accepted")[-1]
        if last["metrics"] is not None:
            return str(last["model"]["sha256"])
        place = self.folder / "sites" / self.names[0]
        with newest_release(place / "exchange", place / "alice") as (_, model):
            return sha256_file(model)

    def unsplit(self, order: Sequence[str] = ()) -> str:
        """SHA-256 of the model file of one trainer, whose optimizer goes on, over the sites' sessions.

        In a process with as many threads as the rooms have: sums of other pieces are other sums.

        Args:
            order: Whose sessions, one after the other; by default as the plan has them.
        """
        code = f"from {__name__} import one_trainer; one_trainer({str(self.folder)!r}, {SEED})"
        taken = dict.fromkeys(self.names, 0)
        sessions: list[tuple[str, int]] = []
        for name in order or self.names * self.sessions:
            taken[name] += 1
            sessions.append((str(self.site(name) / "data" / "site.npz"), taken[name]))
        told = json.dumps([str(self.first()), self.records()[0]["plan"], sessions])
        done = subprocess.run(
            [sys.executable, "-c", code], input=told, capture_output=True, text=True, env={**os.environ, **ONE_THREAD},
            cwd=Path(__file__).resolve().parents[2], check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return sha256_file(self.folder / "unsplit.safetensors")

    def steps(self, name: str) -> int:
        """How many steps a session of a site has by the plan."""
        return self.epochs * -(-len(self.site_images(name)) // self.batch)


def one_trainer(folder: str, seed: int) -> None:
    """What `Rooms.unsplit` asks, in a process of its own; its question comes on standard input."""
    first, plan_fields, sessions = json.load(sys.stdin)
    plan, header = read_plan(plan_fields), weights.read_header(Path(first))
    trainer = new_trainer(header.spec, plan)
    trainer.load(weights.read_weights(Path(first), header.tensors))
    trainer.fresh(session_seed(seed, 1))
    for data, number in sessions:
        own = images.load(Path(data), header.spec["input"], header.spec["classes"], "train")
        examples = resident(own, header.spec)
        for epoch in range(1, plan.epochs + 1):
            order = epoch_order(session_seed(seed, number), epoch, len(examples))
            trainer.epoch(examples, order, plan.batch_size)
    weights.write_weights(Path(folder) / "unsplit.safetensors", trainer.weights(), header.spec)
