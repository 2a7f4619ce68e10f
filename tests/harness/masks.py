"""A federation of real processes whose updates are summed under masks, and what one trainer makes of the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fedssh import weights
from fedssh.alice.fitting import epoch_order, new_trainer
from fedssh.alice.session import session_seed
from fedssh.models.data import images
from fedssh.models.training import resident
from fedssh.rules.plan import read_plan
from scripts.demo.federation import ONE_THREAD
from tests.harness.split import SEED, Rooms

Weights = Mapping[str, np.ndarray]


class MaskedRooms(Rooms):
    """As `Rooms`, with sites that know each other's keys.

    Args:
        options: Of the policy, beside `seal=masks`.
    """

    def __init__(self, folder: Path, options: str = "deadline=60,cap=64", sites: int = 3, **more: Any) -> None:
        super().__init__(folder, f"fedavg:{options},seal=masks", sites, **more)

    def begin(self, *words: str) -> None:
        """Make the federation and its sites, whose people have told each other their keys."""
        super().begin(*words)
        self.name_peers(self.names)

    def tensors(self, sha256: str) -> Weights:
        """Those of a model that was current."""
        path = self.models / f"{sha256}.safetensors"
        return weights.read_weights(path, weights.read_header(path).tensors)

    def trained(self, start: str, sessions: Mapping[str, int]) -> dict[str, Weights]:
        """What each of some sites makes of a model in a session.

        Args:
            start: SHA-256 of that model.
            sessions: Number by site.
        """
        return self.trained_each([(start, sessions)])[0]

    def trained_each(self, rounds: Sequence[tuple[str, Mapping[str, int]]]) -> list[dict[str, Weights]]:
        """The same for several rounds, in a process with as many threads as the rooms have."""
        out = self.folder / "trained"
        paths = [
            {name: out / f"{number}-{name}.safetensors" for name in sessions}
            for number, (_, sessions) in enumerate(rounds)
        ]
        jobs = [
            [
                str(self.models / f"{start}.safetensors"),
                str(self.site(name) / "data" / "site.npz"),
                session,
                str(to[name]),
            ]
            for (start, sessions), to in zip(rounds, paths, strict=True)
            for name, session in sessions.items()
        ]
        code = f"from {__name__} import _train; _train()"
        done = subprocess.run(
            [sys.executable, "-c", code], input=json.dumps([self.records()[0]["plan"], SEED, jobs]), text=True,
            env={**os.environ, **ONE_THREAD}, capture_output=True, cwd=Path(__file__).resolve().parents[2], check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return [
            {name: weights.read_weights(path, weights.read_header(path).tensors) for name, path in of.items()}
            for of in paths
        ]

    def images_of(self, name: str) -> int:
        """How many images a site trains on."""
        return len(self.site_images(name))

    @contextmanager
    def searched(self) -> Iterator[dict[str, bytes]]:
        """Keep all that stands in files of the coordinator's and the door's meanwhile: by name, the newest of each."""
        found: dict[str, bytes] = {}
        stop = threading.Event()

        def look() -> None:
            while not stop.is_set():
                for path in self.coordinator.rglob("*"):
                    try:
                        if path.is_file() and path.stat().st_size:
                            found[f"{path} {path.stat().st_mtime_ns}"] = path.read_bytes()
                    except OSError:  # it is gone
                        continue
                stop.wait(0.02)

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield found
        finally:
            stop.set()
            thread.join()


def mean_of(found: Mapping[str, Weights], examples: Mapping[str, int]) -> Weights:
    """The mean of updates, weighed by examples (McMahan et al. 2017, algorithm 1), in float64."""
    total = sum(examples[name] for name in found)
    names = next(iter(found.values()))
    return {
        tensor: np.sum([found[name][tensor].astype(np.float64) * (examples[name] / total) for name in found], axis=0)
        for tensor in names
    }


def furthest(one: Weights, other: Weights) -> float:
    """The largest difference of two models in a weight."""
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


def pieces(update: Weights, size: int = 32) -> list[bytes]:
    """Parts of an update that no other file can have by chance, from each tensor that is large enough."""
    flat = [array.astype("<f4").tobytes() for array in update.values() if array.nbytes >= 8 * size]
    return [data[at : at + size] for data in flat for at in range(0, len(data) - size, max(size, len(data) // 16))]


def _train() -> None:
    """What `MaskedRooms.trained_each` asks, in a process of its own; its question comes on standard input."""
    plan_fields, seed, jobs = json.load(sys.stdin)
    plan = read_plan(plan_fields)
    for start, data, number, out in jobs:
        header = weights.read_header(Path(start))
        trainer = new_trainer(header.spec, plan)
        trainer.load(weights.read_weights(Path(start), header.tensors))
        trainer.fresh(session_seed(seed, number))
        own = images.load(Path(data), header.spec["input"], header.spec["classes"], "train")
        examples = resident(own, header.spec)
        for epoch in range(1, plan.epochs + 1):
            trainer.epoch(examples, epoch_order(session_seed(seed, number), epoch, len(examples)), plan.batch_size)
        Path(out).parent.mkdir(exist_ok=True)
        weights.write_weights(Path(out), trainer.weights(), header.spec)


def words_of(update: Weights, start: Weights, sites: int, examples: int) -> bytes:
    """The words of an update before they are masked."""
    from fedssh.masks.numbers import Fixed

    steps = np.concatenate([(update[name].astype(np.float64) - start[name]).ravel() for name in start])
    return Fixed(sites, most=64).write(steps, examples)


def parts(data: bytes, size: int = 32) -> Sequence[bytes]:
    """Parts of some bytes, those of mostly nothing left out."""
    found = [data[at : at + size] for at in range(0, len(data) - size, max(size, len(data) // 64))]
    return [part for part in found if len(set(part)) > size // 4]
