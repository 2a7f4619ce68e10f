"""How many steps a second a turn under `split` takes, beside the same arithmetic alone and the same bytes alone.

    python -m tests.benchmarks.split [--seconds N] [--door sshd|embedded] [--rtt MS …] [--threads N] [--only TEXT]

`cnn` for images of 28x28 in two classes, cut after pool2, with Adam. Alice and the judge are a process each, with a
TensorFlow of its own; between them are a real Bob, SSH, the door and its forced command. For each way of sending:

    compute       what both compute in a step, in one process and without any room
    transport     a step's bytes there and back through the same rooms, without arithmetic
    a step        both together, as a turn takes it
    steps         a second, in the mean, with what both rooms write down after every 20th
    of both       compute + transport, as a share of a step; with a line that is so many milliseconds long, there and
                  back, compute + RTT, of two RTT where the labels stay

All of one row is measured in one run, one after the other. Other programs may keep the machine busy; so what is shown
of the first three is what the quickest tenth took at most, and beside a step what it took in the median.
Last come the most memory that Bob and the judge's real process ever had.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import multiprocessing
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from fedssh import models
from fedssh.alice.fitting import epoch_order
from fedssh.channel.frames import Header
from fedssh.commands import print_table
from fedssh.errors import UnreachableError
from fedssh.keys import PrivateKey, make_key
from fedssh.models.data.images import Images
from fedssh.models.training import resident
from fedssh.rules.plan import Plan
from fedssh.rules.policies import read_policy
from fedssh.split.coordinator import CoordinatorTurn
from fedssh.split.site import SiteTurn
from fedssh.split.turn import Agreed, Parts, labels_size
from fedssh.split.wire import Wire, size
from tests.attacks.split_kills import below, find_sshd
from tests.harness.channel import SITE, Way
from tests.harness.split import Rooms

SPEC = {"name": "cnn", "input": [28, 28, 1], "classes": 2}
STEPS = 20  # in an epoch: after each, both rooms write down where they are
TURN, SEED = "a" * 16, 5
KIND = 16


@dataclass(frozen=True)
class Kind:
    """A way of sending.

    Attributes:
        wire: How numbers go.
        batch: Images in a step.
        stay: Whether the labels stay at the site.
        rtt: In seconds.
    """

    wire: str
    batch: int = 32
    stay: bool = False
    rtt: float = 0.0

    def __str__(self) -> str:
        stays = ", labels stay" if self.stay else ""
        return f"{self.wire}, batch {self.batch}{stays}" + (f", RTT {self.rtt * 1e3:g} ms" if self.rtt else "")

    def agreed(self, epochs: int) -> Agreed:
        """What such a turn is about."""
        plan = Plan(
            batch_size=self.batch, epochs=epochs, patience=10, optimizer="adam", learning_rate=0.001, loss="auto"
        )
        tail = ",labels=site,tail=dense" if self.stay else ""
        return Agreed(models.check_spec(SPEC), plan, read_policy(f"split:cut=pool2,wire={self.wire}{tail}"))


def data(kind: Kind) -> Images:
    """As many images as an epoch has, of noise: the arithmetic is the same."""
    random = np.random.default_rng(0)
    number = kind.batch * STEPS
    return Images(random.random((number, 28, 28, 1), dtype=np.float32), random.integers(0, 2, number))


def told(act: Callable[[Connection], None]) -> Any:
    """What a process of its own says."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=act, args=(there,), daemon=True)
    process.start()
    there.close()
    try:
        return here.recv()
    finally:
        process.join(20)
        process.kill()


def compute(kind: Kind, seconds: float) -> float:
    """Seconds of what both rooms compute in a step."""

    def act(say: Connection) -> None:
        agreed, examples = kind.agreed(1), data(kind)
        parts = [agreed.part(number) for number in range(3 if kind.stay else 2)]
        for part in parts:
            part.fresh(SEED)
        images, labels = examples.images[: kind.batch], examples.labels[: kind.batch].astype(np.int64)

        def step() -> None:
            features = parts[0].forward(images).numpy()
            if kind.stay:
                outputs = parts[1].forward(features).numpy()
                gradient = parts[1].backward(features, parts[2].step(outputs, labels)[0].numpy()).numpy()
            else:
                gradient = parts[1].step(features, labels)[0].numpy()
            parts[0].backward(images, gradient)

        say.send(each(step, seconds))

    return float(told(act))


def each(act: Callable[[], object], seconds: float) -> float:
    """Seconds that something takes at most in the quickest tenth of many times."""
    for _ in range(10):
        act()
    took: list[float] = []
    end = time.perf_counter() + seconds
    while (begun := time.perf_counter()) < end:
        act()
        took.append(time.perf_counter() - begun)
    return at(took, 10)


def at(took: list[float], percent: int) -> float:
    """A percentile."""
    return sorted(took)[len(took) * percent // 100]


def transport(kind: Kind, way: Way, seconds: float) -> float:
    """Seconds that the bytes of a step take there and back."""
    agreed = kind.agreed(1)
    floats = size(Wire[kind.wire], kind.batch, (5, 5, 64)) + (0 if kind.stay else kind.batch * labels_size(agreed.spec))
    middle = size(Wire[kind.wire], kind.batch, (128,))
    trips = [(floats, middle), (middle, floats)] if kind.stay else [(floats, floats)]

    def judge() -> None:
        with contextlib.suppress(UnreachableError), way.judge() as channel:
            while True:
                for _, back in trips:
                    channel.receive(anything, 60)
                    channel.send(KIND, bytes(back))

    with other_process(judge), way.alice() as channel:

        def step() -> None:
            for there, _ in trips:
                channel.send(KIND, bytes(there))
                channel.receive(anything, 60)

        return each(step, seconds)


def anything(header: Header) -> None:
    """Every frame is as agreed."""


@contextlib.contextmanager
def other_process(does: Callable[[], None]) -> Iterator[None]:
    """Another process, while the block runs."""
    process = multiprocessing.get_context("fork").Process(target=does, daemon=True)
    process.start()
    yield
    process.join(10)
    process.kill()


def turn(kind: Kind, way: Way, folder: Path, seconds: float) -> list[float]:
    """When each step of a turn was done, but for its first two epochs."""
    epochs = 1000

    def start() -> dict[str, np.ndarray]:
        return models.get_weights(models.build(models.check_spec(SPEC)))

    def judge() -> None:
        agreed, parts = kind.agreed(epochs), Parts()
        turn = CoordinatorTurn(agreed, TURN, start(), None, folder / "judge", parts)
        with contextlib.suppress(UnreachableError):
            turn.serve(way.judge())

    def alice(say: Connection) -> None:
        agreed, examples = kind.agreed(epochs), resident(data(kind))
        ends: list[float] = []

        def taken(_: object) -> None:
            ends.append(time.perf_counter())
            if len(ends) > 4 * STEPS and ends[-1] - ends[2 * STEPS] > seconds:
                say.send(ends[2 * STEPS :])
                os._exit(0)

        site = SiteTurn(
            agreed, TURN, start(), examples, lambda epoch: epoch_order(SEED, epoch, len(examples)), 1, SEED,
            folder / "alice", watch=taken,
        )  # fmt: skip
        site.run(way.alice())

    with other_process(judge):
        ends: list[float] = told(alice)
    return ends


def measured(kind: Kind, keys: dict[str, PrivateKey], door: str, seconds: float) -> tuple[str, ...]:
    """A row."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        alone = compute(kind, seconds)
        with Way(folder / "way", keys, door, direct=not kind.rtt, delay=kind.rtt / 2).open() as way:
            way.listen()
            bytes_alone = transport(kind, way, seconds)
            ends = turn(kind, way, folder, seconds)
    took = [later - earlier for earlier, later in itertools.pairwise(ends)]
    steps = len(took) / (ends[-1] - ends[0])
    best = alone + (kind.rtt * (2 if kind.stay else 1) or bytes_alone)
    times = [f"{one * 1e3:.1f} ms" for one in (alone, bytes_alone, at(took, 10), at(took, 50))]
    return (str(kind), *times, f"{steps:.1f}", f"{steps * kind.batch:,.0f}", f"{best / at(took, 10):.2f}")


def memory(door: str) -> tuple[float, float]:
    """The most MB that Bob and the judge had in a federation of two sites."""
    with tempfile.TemporaryDirectory() as name:
        rooms = Rooms(Path(name) / "rooms", "split:cut=pool2", 2, 1, 3, 32, SPEC, 640, door=door)
        most = [0.0, 0.0]
        with rooms:
            rooms.begin()
            rooms.start_all()
            while not rooms.over():
                rooms.check()
                judges = [pid for agent in rooms.agents if agent.name == "charity" for pid in below(agent.pid)]
                bobs = [agent.pid for agent in rooms.agents if agent.name == "bob"]
                for place, pids in enumerate((bobs, judges)):
                    most[place] = max([most[place], *map(peak, pids)])
                time.sleep(0.2)
    return most[0], most[1]


def peak(pid: int) -> float:
    """The most memory that a process had in MB; 0 where it has gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5, help="how long each is measured [5]")
    parser.add_argument("--door", choices=("sshd", "embedded"), default="sshd" if find_sshd() else "embedded")
    parser.add_argument("--rtt", type=float, nargs="*", default=[20, 50], metavar="MS", help="[20 50]")
    parser.add_argument("--threads", type=int, default=1, help="of each TensorFlow [1]")
    parser.add_argument("--only", default="", metavar="TEXT", help="rows whose name has this")
    options = parser.parse_args(arguments)
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ[name] = str(options.threads)
    kinds = [
        Kind("f16"), Kind("f32"), Kind("int8"), Kind("f16", stay=True), Kind("f16", 128),
        *(Kind("f16", rtt=rtt / 1e3) for rtt in options.rtt), *(Kind("f16", 128, rtt=rtt / 1e3) for rtt in options.rtt),
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        keys = {who: make_key(Path(name) / who, who) for who in ("coordinator", SITE)}
        rows = []
        for kind in kinds:
            if options.only in str(kind):
                rows.append(measured(kind, keys, options.door, options.seconds))
                print(*rows[-1], sep="   ", flush=True)
    bob, judge = memory(options.door) if options.only in "memory" else (0.0, 0.0)
    print(
        f"\ncnn, 28x28, pool2, {options.door}, {os.cpu_count()} cores (load {os.getloadavg()[0]:.1f}), "
        f"{platform.machine()}, Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}"
    )
    print_table(("wire", "compute", "transport", "a step", "median", "steps", "images", "of both"), rows)
    if bob:
        print(f"most memory: Bob {bob:.0f} MB, the judge {judge:.0f} MB")


if __name__ == "__main__":
    main()
